//! The page that shows explanations.

use std::fmt::Write;

use anyhow::Result;

use super::super::console::percent;
use super::super::page::{Page, data_uri, escape};
use super::{Explained, Figure, Sheet, enlarged};
use crate::network::ReceptiveField;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// One page for all pictures, which needs no other file.
///
/// # Errors
/// If a picture cannot be encoded.
pub fn explanation_page(network: &str, all: &[Explained]) -> Result<String> {
    let title = match all {
        [one] => format!("{}, explained", one.name),
        _ => format!("{} pictures, explained", all.len()),
    };
    let mut body =
        format!("<header>\n<h1>{}</h1>\n<p class=\"muted\">{}</p>\n</header>\n", escape(&title), escape(network));
    for (index, explained) in all.iter().enumerate() {
        body += &section(index, explained, all.len() > 1)?;
    }
    Ok(Page { title: &title, style: STYLE, script: SCRIPT, body: &body }.render())
}

fn section(index: usize, explained: &Explained, named: bool) -> Result<String> {
    let Explained { name, input, classes, class, figures, layers, .. } = explained;
    let mut html = String::from("<section class=\"picture\">\n");
    if named {
        html += &format!("<h2>{}</h2>\n", escape(name));
    }
    html += "<div class=\"answer\">\n";
    let what = format!("{name}, as the network sees it");
    html += &format!(
        "<figure class=\"input\" id=\"input-{index}\" data-width=\"{}\" data-height=\"{}\">{}",
        input.width,
        input.height,
        image(&enlarged(input).png()?, &what)
    );
    html += "<div class=\"field\" hidden></div></figure>\n<div class=\"bars\">\n";
    for (class, probability) in classes {
        let (class, share) = (escape(class), percent(*probability));
        html += &format!(
            "<div class=\"bar\"><span class=\"name\">{class}</span><span class=\"track\"><span class=\"fill\" \
             style=\"width:{:.2}%\"></span></span><span class=\"share\">{share}</span></div>\n",
            100.0 * probability
        );
    }
    html += "</div>\n</div>\n";
    if !figures.is_empty() {
        html += &format!("<h3>Why “{}”</h3>\n<div class=\"figures\">\n", escape(class));
        for figure in figures {
            html += &figure_html(figure)?;
        }
        html += "</div>\n";
    }
    if !layers.is_empty() {
        html += "<h3>What each layer sees</h3>\n<p class=\"muted\">Choose a unit of a map with the pointer, or with the \
                 arrow keys: the square on the picture is its receptive field.</p>\n";
        for sheet in layers {
            html += &sheet_html(index, sheet)?;
        }
    }
    Ok(html + "</section>\n")
}

fn image(png: &[u8], alt: &str) -> String {
    format!("<img src=\"{}\" alt=\"{}\">", data_uri(png), escape(alt))
}

fn figure_html(figure: &Figure) -> Result<String> {
    let Figure { title, caption, picture, .. } = figure;
    let wide = if picture.width > picture.height { " class=\"wide-figure\"" } else { "" };
    let image = image(&picture.png()?, title);
    let (title, caption) = (escape(title), escape(caption));
    Ok(format!("<figure{wide}>{image}<figcaption><strong>{title}</strong> {caption}</figcaption></figure>\n"))
}

/// A sheet, with what the script needs to find the unit below the pointer.
fn sheet_html(index: usize, sheet: &Sheet) -> Result<String> {
    let Sheet { layer, description, shape, shown, range: (low, high), field, picture, columns, scale, gap } = sheet;
    let mut data = format!(
        "data-input=\"input-{index}\" data-height=\"{}\" data-width=\"{}\" data-shown=\"{shown}\" \
         data-columns=\"{columns}\" data-scale=\"{scale}\" data-gap=\"{gap}\" data-sheet=\"{}\"",
        shape.height, shape.width, picture.width
    );
    if let Some(ReceptiveField { size, step, start }) = field {
        write!(data, " data-size=\"{size}\" data-step=\"{step}\" data-start=\"{start}\"")?;
    }
    let more = if *shown < shape.channels { format!(", the first {shown} shown") } else { String::new() };
    let reach = field.map_or(String::new(), |it| format!(" Receptive field {0}×{0}.", it.size));
    let label = escape(&format!("Activations of {layer}, {shape}{more}"));
    let image = image(&picture.png()?, "");
    let (layer, description) = (escape(layer), escape(description));
    Ok(format!(
        "<figure class=\"sheet\"><figcaption><strong>{layer}</strong> {description}, {shape}{more}. From {low:.3} to \
         {high:.3}.{reach}<span class=\"unit\" role=\"status\"></span></figcaption>\n<div class=\"wide\"><div \
         class=\"maps\" tabindex=\"0\" role=\"img\" aria-label=\"{label}\" {data}>{image}<div class=\"mark\" \
         hidden></div></div></div></figure>\n"
    ))
}
