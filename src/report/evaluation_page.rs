//! An evaluation in a run's report: the confusion matrix, the scores of each class and the worst mistakes.

use anyhow::Result;

use super::confusion::{ClassScores, Confusion};
use super::confusion_picture::{MAX_COUNTED, confusion_picture, strength};
use super::console::{grouped, loss, percent};
use super::curves::push;
use super::evaluation::{Evaluation, Mistake};
use super::page::{data_uri, escape};

/// Mistakes that are listed where the matrix is a heat map.
const LISTED: usize = 15;
/// With more classes, only this many, those with the lowest F1 score, are listed at once.
const MAX_OPEN: usize = 30;
/// Above this strength, a cell's text has the colour of the ground.
const STRONG: f32 = 0.6;

/// The confusion matrix: a table, or for many classes a picture and the most frequent mistakes.
///
/// # Errors
/// The picture cannot be encoded.
pub fn confusion_page(confusion: &Confusion) -> Result<String> {
    if confusion.classes().len() <= MAX_COUNTED {
        return Ok(matrix(confusion));
    }
    let picture = confusion_picture(confusion);
    let (source, width, height) = (data_uri(&picture.png()?), picture.width, picture.height);
    let count = confusion.classes().len();
    let mut html = format!(
        "<p class=\"muted\">A row per true class, a column per predicted class. Blue is right, orange is wrong; the \
         darker, the larger the part of the true class's images.</p>\n<div class=\"wide\"><img class=\"on-white\" \
         src=\"{source}\" width=\"{width}\" height=\"{height}\" alt=\"Confusion matrix of {count} classes\"></div>\n\
         <h3>The most frequent mistakes</h3>\n<div class=\"wide\"><table>\n\
         <thead><tr><th>true<th>predicted<th class=\"number\">images</thead>\n<tbody>\n"
    );
    let name = |class: usize| escape(&confusion.classes()[class]);
    for ((truth, predicted), count) in confusion.frequent_mistakes().into_iter().take(LISTED) {
        let (truth, predicted) = (name(truth), name(predicted));
        push(&mut html, format_args!("<tr><td>{truth}<td>{predicted}<td class=\"number\">{count}"));
    }
    Ok(html + "</tbody>\n</table></div>\n")
}

fn matrix(confusion: &Confusion) -> String {
    let (classes, samples) = (confusion.classes(), confusion.samples());
    let names: Vec<String> = classes.iter().map(|name| escape(name)).collect();
    let turned = if classes.iter().any(|name| name.chars().count() > 4) { " turned" } else { "" };
    let headers: String = names.iter().map(|name| format!("<th scope=\"col\"><span>{name}</span>")).collect();
    let mut html = format!(
        "<div class=\"wide\"><table class=\"matrix{turned}\">\n<thead><tr><td><span class=\"muted\">true \\ \
         predicted</span>{headers}</thead>\n<tbody>\n"
    );
    for (truth, name) in names.iter().enumerate() {
        let cell = |predicted: usize| {
            let count = confusion.count(truth, predicted);
            if count == 0 {
                return "<td class=\"zero\">0".to_string();
            }
            let part = strength(count, samples[truth]);
            let right = if predicted == truth { "right" } else { "wrong" };
            let strong = if part > STRONG { " strong" } else { "" };
            let share = percent(count as f64 / samples[truth].max(1) as f64);
            let other = &names[predicted];
            format!(
                "<td class=\"{right}{strong}\" style=\"--part:{part:.2}\" title=\"{name}, classified as {other}: \
                 {count} ({share})\">{count}"
            )
        };
        let cells: String = (0..names.len()).map(cell).collect();
        push(&mut html, format_args!("<tr><th scope=\"row\">{name}{cells}"));
    }
    html + "</tbody>\n</table></div>\n"
}

/// The scores of each class.
pub fn classes_page(confusion: &Confusion) -> String {
    let (scores, samples) = (confusion.per_class(), confusion.samples());
    let row = |class: usize| {
        let ClassScores { recall, precision, f1 } = scores[class];
        let [recall, precision, f1] = [recall, precision, f1].map(cell);
        let (name, samples) = (escape(&confusion.classes()[class]), grouped(samples[class] as f64));
        format!("<tr><td>{name}<td class=\"number\">{samples}{precision}{recall}{f1}\n")
    };
    let table = |rows: String| {
        let numbers =
            ["images", "precision", "recall", "F1"].map(|name| format!("<th class=\"number\">{name}")).concat();
        format!(
            "<div class=\"wide\"><table class=\"scores\">\n<thead><tr><th>class{numbers}</thead>\n<tbody>\n{rows}</tbody>\n\
             </table></div>\n"
        )
    };
    let count = scores.len();
    let all = table((0..count).map(row).collect());
    if count <= MAX_OPEN {
        return all;
    }
    let mut lowest: Vec<usize> = (0..count).filter(|&class| samples[class] > 0).collect();
    lowest.sort_by(|&a, &b| scores[a].f1.unwrap_or(0.0).total_cmp(&scores[b].f1.unwrap_or(0.0)));
    let lowest = table(lowest.into_iter().take(LISTED).map(row).collect());
    format!(
        "<p class=\"muted\">The {LISTED} classes with the lowest F1 score.</p>\n{lowest}<details>\n<summary>All {count} \
         classes</summary>\n{all}</details>\n"
    )
}

/// A score with a bar as long as it.
fn cell(score: Option<f64>) -> String {
    match score {
        None => "<td class=\"number\">–".into(),
        Some(score) => format!("<td class=\"number bar\" style=\"--part:{score:.3}\">{}", percent(score)),
    }
}

/// The mistakes with the highest loss, as pictures.
///
/// # Errors
/// A picture cannot be encoded.
pub fn mistakes_page(evaluation: &Evaluation) -> Result<String> {
    let Evaluation { worst, confusion, metrics, .. } = evaluation;
    let wrong = metrics.samples - metrics.correct;
    if worst.is_empty() {
        return Ok("<p>There are none: all images were classified correctly.</p>\n".into());
    }
    let (shown, wrong) = (worst.len(), grouped(wrong as f64));
    let what = if shown == 1 { "The mistake" } else { "The mistakes" };
    let mut html = format!(
        "<p class=\"muted\">{what} with the highest loss: {shown} of {wrong}. Each with its true class, the predicted \
         class and its probability, and the loss.</p>\n<ol class=\"mistakes\">\n"
    );
    for mistake in worst {
        html += &one(mistake, confusion.classes())?;
    }
    Ok(html + "</ol>\n")
}

fn one(mistake: &Mistake, classes: &[String]) -> Result<String> {
    let [truth, predicted] = [mistake.truth, mistake.predicted].map(|class| escape(&classes[class]));
    let (probability, loss) = (percent(mistake.probability), loss(mistake.loss));
    let (source, number) = (data_uri(&mistake.picture.png()?), mistake.index);
    Ok(format!(
        "<li><img src=\"{source}\" alt=\"Test image {number}\" title=\"test image {number}, counted from 0; the true class \
         has {own}\"><p><span class=\"truth\">{truth}</span> <span class=\"muted\">as</span> <span \
         class=\"predicted\">{predicted}</span></p><p class=\"muted\">{probability}, loss {loss}</p>\n",
        own = percent(mistake.true_probability)
    ))
}
