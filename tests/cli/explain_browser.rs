//! The page of explanations in a real browser: the receptive field of the unit below the pointer, or chosen by keys.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::train;
use crate::support::browser::{Browser, DESKTOP, PHONE, Window};
use crate::support::program::succeed;

/// Codes of keys in WebDriver.
const DOWN: char = '\u{e015}';
const RIGHT: char = '\u{e014}';
const PAGE_DOWN: char = '\u{e00f}';

/// Trains a network, explains a digit, and opens the page.
fn page(folder: &Path, window: Window) -> Option<Browser> {
    let run = folder.join("run");
    train(&run, &["--max-steps", "60", "--quiet"]);
    page_of(&run, folder, window)
}

fn page_of(run: &Path, folder: &Path, window: Window) -> Option<Browser> {
    let browser = Browser::start(window)?;
    let (out, digit) = (folder.join("explained"), folder.join("seven.png"));
    let digits = cnn_cuda::data::digits::generate();
    let seven = digits.test.labels.iter().position(|&label| label == 7).expect("a seven");
    let pixels = &digits.test.images[seven * 28 * 28..][..28 * 28];
    image::save_buffer(&digit, pixels, 28, 28, image::ExtendedColorType::L8).expect("saved");
    let [run, out, digit] = [run, &out, &digit].map(|path| path.to_str().expect("UTF-8"));
    succeed(["explain", "--device", "cpu", "--weights", run, "--out", out, digit]);
    let page = fs::canonicalize(Path::new(out).join("index.html")).expect("a page");
    browser.open(&format!("file://{}", page.display()));
    Some(browser)
}

/// The text about the unit, and the part of the picture that is marked, in hundredths.
fn chosen(browser: &Browser) -> (String, serde_json::Value) {
    let field = browser.run(
        "const field = document.querySelector('.field'); const whole = field.parentElement.querySelector('img') \
         .getBoundingClientRect(); const part = field.getBoundingClientRect(); return field.hidden ? null : [ \
         part.left - whole.left, part.top - whole.top, part.width, part.height].map((it) => \
         Math.round(100 * it / whole.width));",
    );
    (browser.text("return document.querySelector('.unit').textContent"), field)
}

#[test]
fn the_receptive_field_of_a_chosen_unit_is_marked() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(browser) = page(folder.path(), DESKTOP) else { return };
    assert_eq!(chosen(&browser), (String::new(), json!(null)));
    // The first layer has 5×5 windows with a padding of 2, so the first unit's window begins outside.
    browser.run("document.querySelector('.maps').focus({ preventScroll: true })");
    let corner = "Channel 0 row 0, column 0: sees rows 0 to 2, columns 0 to 2.".to_string();
    assert_eq!(chosen(&browser), (corner, json!([0, 0, 11, 11])));
    browser.press(&[DOWN, DOWN, DOWN, RIGHT, RIGHT, RIGHT, RIGHT, PAGE_DOWN]);
    let inside = "Channel 1 row 3, column 4: sees rows 1 to 5, columns 2 to 6.".to_string();
    assert_eq!(chosen(&browser), (inside, json!([7, 4, 18, 18])));
    browser.stroke(".maps", &[(0.27, 0.52)]);
    let (text, field) = chosen(&browser);
    assert!(
        text.starts_with("Channel ") && !text.starts_with("Channel 1 row 3,") && field.is_array(),
        "{text} {field}"
    );
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn the_page_fits_a_phone() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(browser) = page(folder.path(), PHONE) else { return };
    let widths = browser.run("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]");
    assert_eq!(widths[0], widths[1], "the page scrolls sideways");
    assert_eq!(browser.console(), Vec::<String>::new());
}

/// Writes the picture of the documentation to the folder `CNN_CUDA_SCREENSHOTS`; `just screenshots` runs it.
#[test]
#[ignore = "writes a picture of the documentation; `just screenshots` runs it"]
fn screenshots_of_explanations() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = std::env::var_os("CNN_CUDA_SCREENSHOTS").map_or_else(|| folder.path().to_path_buf(), PathBuf::from);
    let run = std::env::var_os("CNN_CUDA_SCREENSHOT_RUN").map_or_else(
        || {
            let run = folder.path().join("run");
            train(&run, &["--max-steps", "60", "--quiet"]);
            run
        },
        PathBuf::from,
    );
    let Some(browser) = page_of(&run, folder.path(), Window { height: 1500, ..DESKTOP }) else { return };
    browser.run("document.querySelectorAll('.maps')[1].focus({ preventScroll: true })");
    browser
        .press(&[PAGE_DOWN, DOWN, DOWN, DOWN, DOWN, DOWN, DOWN, DOWN, DOWN, RIGHT, RIGHT, RIGHT, RIGHT, RIGHT, RIGHT]);
    browser.run("window.scrollTo(0, 0)");
    let picture = browser.screenshot();
    assert!(picture.len() > 50_000, "the picture is nearly empty");
    fs::write(target.join("explain.png"), picture).expect("written");
}
