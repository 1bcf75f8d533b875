//! `report.html`: a run on one page, with everything that it shows inside it.

use anyhow::Result;

use super::confusion::Confusion;
use super::console::{grouped, loss, percent};
use super::curves::push;
use super::curves_page::curves_page;
use super::evaluation::Evaluation;
use super::evaluation_page::{classes_page, confusion_page, mistakes_page};
use super::page::{Page, data_uri, escape};
use super::picture::Picture;
use super::records::EpochRecord;

const STYLE: &str = concat!(include_str!("curves_page.css"), include_str!("run_page.css"));
const SCRIPT: &str = concat!(include_str!("curves_page.js"), "followCurves(document);\n");

/// With this many classes or fewer, the top-5 accuracy says little.
const MIN_FOR_TOP5: usize = 20;

/// A name and its value.
pub type Fact = (String, String);

/// A setting of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedSetting {
    pub name: String,
    pub value: String,
    /// The default, if it differs; empty if the setting has none.
    pub default: Option<String>,
}

/// What a report shows. A part that is missing says why.
#[derive(Debug)]
pub struct RunPage {
    pub title: String,
    /// A sentence about the run: when, how long, whether it is complete.
    pub lead: String,
    pub epochs: Result<Vec<EpochRecord>, String>,
    /// Which weights were evaluated on which images.
    pub evaluated: String,
    pub evaluation: Result<Evaluation, String>,
    /// The first training batch as a PNG file, with words about it.
    pub train_batch: Result<(Vec<u8>, String), String>,
    /// The filters of the first layer, with words about them.
    pub filters: Result<(Picture, String), String>,
    pub settings: Vec<ListedSetting>,
    /// The network and its data; the machine; the times.
    pub facts: Vec<(&'static str, Vec<Fact>)>,
}

impl RunPage {
    /// The page's HTML.
    ///
    /// # Errors
    /// A picture cannot be encoded.
    pub fn render(&self) -> Result<String> {
        let (title, lead) = (escape(&self.title), escape(&self.lead));
        let mut body = format!("<header>\n<h1>{title}</h1>\n<p class=\"lead\">{lead}</p>\n</header>\n");
        body += &self.figures();
        let curves = match &self.epochs {
            Ok(epochs) if epochs.is_empty() => missing("no epoch has been evaluated yet"),
            Ok(epochs) => curves_page(epochs),
            Err(why) => missing(why),
        };
        section(&mut body, "Curves", &curves);
        let (evaluated, evaluation) =
            (format!("<p class=\"muted\">{}</p>\n", escape(&self.evaluated)), &self.evaluation);
        match evaluation {
            Ok(it) => {
                section(&mut body, "Confusion matrix", &(evaluated + &confusion_page(&it.confusion)?));
                section(&mut body, "Classes", &classes_page(&it.confusion));
                section(&mut body, "Worst mistakes", &mistakes_page(it)?);
            }
            Err(why) => section(&mut body, "Confusion matrix, classes and mistakes", &missing(why)),
        }
        let batch = match &self.train_batch {
            Ok((png, words)) => picture(png, words, "The first training batch"),
            Err(why) => missing(why),
        };
        section(&mut body, "First training batch", &batch);
        let filters = match &self.filters {
            Ok((sheet, words)) => picture(&sheet.png()?, words, "Filters"),
            Err(why) => missing(why),
        };
        section(&mut body, "First-layer filters", &filters);
        section(&mut body, "Settings", &self.settings());
        let facts: String = self.facts.iter().map(|(heading, facts)| list(heading, facts)).collect();
        section(&mut body, "Network, machine, time", &format!("<div class=\"facts\">\n{facts}</div>\n"));
        push(&mut body, format_args!("<footer class=\"muted\">cnn-cuda {}</footer>", env!("CARGO_PKG_VERSION")));
        Ok(Page { title: &self.title, style: STYLE, script: SCRIPT, body: &body }.render())
    }

    /// The most important numbers.
    fn figures(&self) -> String {
        let mut figures = Vec::new();
        if let Ok(Evaluation { metrics, confusion, top5_accuracy, .. }) = &self.evaluation {
            figures.push(("test accuracy", percent(metrics.accuracy())));
            let has_many = confusion.classes().len() > MIN_FOR_TOP5;
            figures.extend(top5_accuracy.filter(|_| has_many).map(|top5| ("top-5 accuracy", percent(top5))));
            figures.push(("test loss", loss(metrics.loss())));
            figures.extend(confusion.macro_f1().map(|f1| ("macro F1", percent(f1))));
            figures.push(("mistakes", mistakes(confusion, metrics.samples)));
        } else if let Some(last) = self.epochs.as_ref().ok().and_then(|epochs| epochs.last()) {
            figures.push(("test accuracy", percent(last.test_accuracy)));
            figures.push(("test loss", loss(last.test_loss)));
        }
        let figure = |(name, value): (&str, String)| format!("<div><dt>{name}<dd>{}</div>\n", escape(&value));
        format!("<dl class=\"figures\">\n{}</dl>\n", figures.into_iter().map(figure).collect::<String>())
    }

    /// The settings that differ from their defaults, then the others.
    fn settings(&self) -> String {
        let (changed, others): (Vec<_>, Vec<_>) = self.settings.iter().partition(|it| it.default.is_some());
        let row = |it: &&ListedSetting| {
            let [name, value] = [&it.name, &it.value].map(|text| escape(text));
            let default = it.default.as_ref().map_or(String::new(), |default| {
                let shown = if default.is_empty() { "none".into() } else { escape(default) };
                format!("<td class=\"muted\">{shown}")
            });
            format!("<tr><td><code>{name}</code><td><code>{value}</code>{default}\n")
        };
        let table = |head: &str, rows: &[&ListedSetting]| {
            let rows: String = rows.iter().map(row).collect();
            format!("<div class=\"wide\"><table>\n<thead><tr>{head}</thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n")
        };
        let count = others.len();
        let changed = match changed.is_empty() {
            true => "<p>All have their defaults.</p>\n".into(),
            false => table("<th>setting<th>value<th>default", &changed),
        };
        let others = table("<th>setting<th>value", &others);
        format!("{changed}<details>\n<summary>{count} settings with their defaults</summary>\n{others}</details>\n")
    }
}

fn mistakes(confusion: &Confusion, images: u64) -> String {
    let wrong: u64 = confusion.frequent_mistakes().into_iter().map(|(_, count)| count).sum();
    format!("{} of {}", grouped(wrong as f64), grouped(images as f64))
}

fn section(body: &mut String, heading: &str, content: &str) {
    push(body, format_args!("<section>\n<h2>{heading}</h2>\n{content}</section>"));
}

fn missing(why: &str) -> String {
    format!("<p class=\"missing\">Left out: {}.</p>\n", escape(why))
}

fn picture(png: &[u8], words: &str, alt: &str) -> String {
    let (words, source) = (escape(words), data_uri(png));
    format!("<p class=\"muted\">{words}.</p>\n<img class=\"sheet\" src=\"{source}\" alt=\"{alt}\">\n")
}

fn list(heading: &str, facts: &[Fact]) -> String {
    let rows: String =
        facts.iter().map(|(name, value)| format!("<dt>{}<dd>{}\n", escape(name), escape(value))).collect();
    format!("<div>\n<h3>{}</h3>\n<dl>\n{rows}</dl>\n</div>\n", escape(heading))
}
