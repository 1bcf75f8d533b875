//! The report in a real browser: no error on the console, and values at the pointer and by keys.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::browser::{Browser, DESKTOP, PHONE, Window};
use crate::support::program::succeed;

/// Codes of keys in WebDriver.
const TAB: char = '\u{e004}';
const LEFT: char = '\u{e012}';
const HOME: char = '\u{e011}';
const CURVE: &str = "svg[data-curve]";

/// Trains two epochs, and opens the report.
fn report(out: &Path, window: Window) -> Option<Browser> {
    train(out);
    open(out, window)
}

fn train(out: &Path) {
    let name = out.to_str().expect("UTF-8");
    let args = ["--dataset", "digits", "--model", "lenet5", "--device", "cpu", "--epochs", "2", "--quiet"];
    succeed([&["train", "--batch-size", "1000", "--out", name], &args[..]].concat());
}

fn open(out: &Path, window: Window) -> Option<Browser> {
    let browser = Browser::start(window)?;
    let file = std::fs::canonicalize(out.join("report.html")).expect("a report");
    browser.open(&format!("file://{}", file.display()));
    Some(browser)
}

#[test]
fn the_report_answers_to_pointer_and_keys_without_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let Some(browser) = report(&out, DESKTOP) else { return };
    let readout = || browser.text("return document.querySelector('.readout').textContent");
    assert_eq!(readout(), "");
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).expect("read");
    let epochs: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let expect = |epoch: usize| {
        let number = |key: &str| epochs[epoch - 1][key].as_f64().expect("a number");
        let shown = readout();
        assert!(shown.contains(&format!("Epoch {epoch}")), "{shown}");
        for part in [
            format!("train {:.4}", number("train_loss")),
            format!("test {:.4}", number("test_loss")),
            format!("test {:.2}%", 100.0 * number("test_accuracy")),
        ] {
            assert!(shown.contains(&part), "{part} is not in {shown}");
        }
    };
    // At the right end of the first plot is the last epoch, at its left end the first.
    browser.hover(CURVE, (0.98, 0.5));
    expect(2);
    browser.hover(CURVE, (0.02, 0.5));
    expect(1);
    assert_eq!(browser.run("return document.querySelectorAll('svg .cursor').length"), 2, "a line in each plot");
    browser.hover("h1", (0.5, 0.5));
    assert_eq!(readout(), "");
    // Tab leads to the first plot; the arrow keys choose the epoch.
    browser.press(&[TAB]);
    expect(2);
    browser.press(&[LEFT]);
    expect(1);
    browser.press(&[HOME]);
    expect(1);
    let spoken = browser.text("return document.activeElement.getAttribute('aria-valuetext')");
    assert!(spoken.starts_with("epoch 1, loss: train "), "{spoken}");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
#[ignore = "long; CI runs it"]
fn the_report_fits_a_phone() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(browser) = report(&folder.path().join("run"), PHONE) else { return };
    let widths = browser.run("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]");
    assert_eq!(widths[0], widths[1], "the page scrolls sideways");
    assert_eq!(browser.console(), Vec::<String>::new());
}

/// Writes pictures of the documentation to the folder `CNN_CUDA_SCREENSHOTS`; `just screenshots` runs it.
#[test]
#[ignore = "writes pictures of the documentation; `just screenshots` runs it"]
fn screenshots_of_reports() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = std::env::var_os("CNN_CUDA_SCREENSHOTS").map_or_else(|| folder.path().to_path_buf(), PathBuf::from);
    let run = std::env::var_os("CNN_CUDA_SCREENSHOT_RUN").map_or_else(
        || {
            let run = folder.path().join("run");
            train(&run);
            run
        },
        PathBuf::from,
    );
    let page = Window { width: 1100, height: 1380, ..DESKTOP };
    let windows = [("light", page), ("dark", Window { is_dark: true, ..page }), ("phone", PHONE)];
    for (name, window) in windows {
        let Some(browser) = open(&run, window) else { return };
        let picture = browser.screenshot();
        assert!(picture.len() > 20_000, "the picture is nearly empty");
        std::fs::write(target.join(format!("report-{name}.png")), picture).expect("written");
    }
}
