//! The curves of a run in its report: drawings that answer to pointer and keyboard, and a table of the epochs.

use serde_json::json;

use super::console::{grouped, loss, percent};
use super::curves::{PLOT_BOTTOM, PLOT_TOP, PLOT_WIDTH, Panel, panels, push};
use super::page::escape;
use super::records::EpochRecord;

/// Space beside the plot for the labels of the axis and of the last values, and above and below it.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 60.0;
const ABOVE: f64 = 36.0;
const BELOW: f64 = 44.0;

/// What a page with curves needs: their style, and a script with a function `followCurves(root)`, which makes the drawings
/// inside an element answer.
pub const CURVES_STYLE: &str = include_str!("curves_page.css");
pub const CURVES_SCRIPT: &str = include_str!("curves_page.js");

/// With more epochs, the table is folded.
const MAX_OPEN: usize = 8;

/// The curves and the table of a run's epochs, as HTML.
pub fn curves_page(epochs: &[EpochRecord]) -> String {
    let drawings: String = panels(epochs).iter().map(drawing).collect();
    let readout = "<p class=\"readout muted\" aria-live=\"polite\"></p>\n";
    let table = table(epochs);
    let count = epochs.len();
    let table = if count <= MAX_OPEN {
        table
    } else {
        format!("<details>\n<summary>All {count} epochs as a table</summary>\n{table}</details>\n")
    };
    format!("<div class=\"curves\">\n{drawings}</div>\n{readout}{table}")
}

/// One plot. Its data is what the script shows at a pointer: the epochs, where they are, and the values with their texts.
fn drawing(panel: &Panel) -> String {
    let series = panel.series.iter().map(|series| {
        let finite = |value: f64| value.is_finite();
        let heights: Vec<_> = series.points.iter().map(|it| finite(it.1).then(|| tenth(panel.y_at(it.1)))).collect();
        let texts: Vec<_> = series.points.iter().map(|it| (panel.format)(it.1)).collect();
        let epochs: Vec<_> = series.points.iter().map(|it| it.0).collect();
        json!({ "name": series.name, "epochs": epochs, "y": heights, "text": texts })
    });
    let series: Vec<_> = series.collect();
    let points = panel.series.first().map_or(&[][..], |series| &series.points);
    let columns: Vec<_> = points.iter().map(|it| json!([it.0, tenth(panel.x_at(it.0))])).collect();
    let plot = [PLOT_TOP, PLOT_BOTTOM];
    let data = escape(&json!({ "title": panel.title, "columns": columns, "series": series, "plot": plot }).to_string());
    let (x, y) = (panel.left - LEFT, PLOT_TOP - ABOVE);
    let (width, height) = (LEFT + PLOT_WIDTH + RIGHT, ABOVE + PLOT_BOTTOM - PLOT_TOP + BELOW);
    let title = panel.title;
    let mut svg = String::new();
    push(
        &mut svg,
        format_args!(
            "<svg role=\"img\" aria-label=\"{title} over the epochs\" viewBox=\"{x} {y} {width} {height}\" \
             data-curve=\"{data}\">"
        ),
    );
    panel.draw(&mut svg);
    svg + "</svg>\n"
}

fn tenth(value: f64) -> f64 {
    (10.0 * value).round() / 10.0
}

fn table(epochs: &[EpochRecord]) -> String {
    let has_val = epochs.iter().any(|it| it.val_loss.is_some());
    let val = if has_val { "<th class=\"number\">val loss<th class=\"number\">val acc." } else { "" };
    let mut html = format!(
        "<div class=\"wide\"><table>\n<thead><tr><th class=\"number\">epoch<th class=\"number\">train loss\
         <th class=\"number\">train acc.{val}<th class=\"number\">test loss<th class=\"number\">test acc.\
         <th class=\"number\">seconds<th class=\"number\">images/s</thead>\n<tbody>\n"
    );
    for it in epochs {
        let mut cells = vec![it.epoch.to_string(), loss(it.train_loss), percent(it.train_accuracy)];
        if has_val {
            let or_dash = |value: Option<f64>, format: fn(f64) -> String| value.map_or_else(|| "–".into(), format);
            cells.extend([or_dash(it.val_loss, loss), or_dash(it.val_accuracy, percent)]);
        }
        cells.extend([loss(it.test_loss), percent(it.test_accuracy)]);
        cells.extend([format!("{:.2}", it.seconds), grouped(it.images_per_second)]);
        let cells: String = cells.iter().map(|cell| format!("<td class=\"number\">{cell}")).collect();
        push(&mut html, format_args!("<tr>{cells}"));
    }
    html + "</tbody>\n</table></div>\n"
}
