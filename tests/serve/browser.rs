//! The page in a headless browser: drawing, layers, the computation of a value, Grad-CAM, a phone, the keyboard.

use std::fs;
use std::path::{Path, PathBuf};

use image::ImageFormat;

use super::{TRAINED, untrained};
use crate::support::browser::{Browser, DESKTOP, PHONE, Window};
use crate::support::server::Server;

const RIGHT: char = '\u{e014}';
const DOWN: char = '\u{e015}';
const ENTER: char = '\u{e007}';

/// A one, as a stroke over the drawing area.
const ONE: [(f64, f64); 6] = [(0.35, 0.35), (0.5, 0.2), (0.5, 0.35), (0.5, 0.5), (0.5, 0.65), (0.5, 0.85)];
const SEVEN: [(f64, f64); 7] =
    [(0.25, 0.2), (0.4, 0.2), (0.6, 0.2), (0.75, 0.2), (0.65, 0.4), (0.55, 0.6), (0.45, 0.85)];

/// A point of a sheet that is not between two maps.
const IN_A_MAP: (f64, f64) = (0.04, 0.4);

const ANSWER: &str = "document.getElementById('answer-class').textContent";
const HAS_ANSWER: &str = "return document.getElementById('answer-class').textContent !== '–'";

fn open(server: &Server, window: Window) -> Option<Browser> {
    let browser = Browser::start(window)?;
    browser.open(&server.page());
    browser.wait("return document.documentElement.dataset.ready === 'true'");
    Some(browser)
}

/// Fails if a screenshot is of nearly one colour.
fn check_screenshot(bytes: &[u8], window: Window) {
    let picture = image::load_from_memory_with_format(bytes, ImageFormat::Png).expect("a picture").into_rgb8();
    assert!(picture.width() >= window.width, "{} pixels wide", picture.width());
    let mut colours: Vec<[u8; 3]> = picture.pixels().map(|pixel| pixel.0).collect();
    colours.sort_unstable();
    colours.dedup();
    assert!(colours.len() > 100, "the screenshot has {} colours", colours.len());
}

fn check_quiet(browser: &Browser) {
    let messages = browser.console();
    assert!(messages.is_empty(), "the console is not empty: {messages:?}");
}

/// Draws a digit on an empty page, and waits until it is recognised.
fn draw(browser: &Browser, points: &[(f64, f64)], digit: &str) {
    browser.click("#clear");
    browser.wait(&format!("return {ANSWER} === '–'"));
    browser.stroke("#pad", points);
    browser.wait(&format!("return {ANSWER} === '{digit}'"));
}

/// Scrolls to a layer, waits until it has been loaded, and clicks a value of its first map.
fn click_in_map(browser: &Browser, layer: &str) {
    let canvas = format!("[data-layer='{layer}'] .sheet canvas");
    browser.run(&format!("document.querySelector(\"{canvas}\").scrollIntoView({{ block: 'center' }})"));
    browser.wait(&format!("return document.querySelector(\"{canvas}\").height > 20"));
    browser.stroke(&canvas, &[IN_A_MAP]);
}

fn try_page(window: Window) {
    let server = Server::start(["--weights".as_ref(), TRAINED.as_os_str()]);
    let Some(browser) = open(&server, window) else { return };
    // It starts with a sample of the built-in digits.
    browser.wait(HAS_ANSWER);
    assert_eq!(browser.run("return document.querySelectorAll('#chips button').length"), 10);
    assert_eq!(browser.run("return document.querySelectorAll('.layer').length"), 7);

    // Its class is known, so the page says whether the prediction is right.
    let [truth, predicted] = ["truth", "answer-class"]
        .map(|id| browser.text(&format!("return document.getElementById('{id}').textContent")));
    let outcome = if predicted == "3" { "right" } else { "wrong" };
    assert_eq!(truth, format!("The sample is of class 3: the prediction is {outcome}."));

    draw(&browser, &ONE, "1");
    draw(&browser, &SEVEN, "7");
    assert_eq!(browser.text("return document.getElementById('truth').textContent"), "");
    let spoken = "return document.getElementById('spoken').textContent.startsWith('Prediction: 7,')";
    browser.wait(spoken);

    // The bars are the server's probabilities.
    let bars = "return [...document.querySelectorAll('#bars .value')].reduce((sum, it) => sum + parseFloat(it.textContent), 0)";
    assert!((browser.run(bars).as_f64().expect("a sum") - 100.0).abs() < 0.5);

    // A click on a map shows the window, the filter, the sum and the activation.
    click_in_map(&browser, "conv1");
    let shown = "return !document.querySelector(\"[data-layer='conv1'] .unit\").hidden";
    browser.wait(shown);
    let unit = browser.text("return document.querySelector(\"[data-layer='conv1'] .unit\").innerText");
    for part in ["window", "filter", "sum of products", "bias", "tanh"] {
        let found = unit.contains(part)
            || browser.text("return document.querySelector(\"[data-layer='conv1'] .unit\").innerHTML").contains(part);
        assert!(found, "{part} is missing from {unit}");
    }
    assert_eq!(browser.run("return document.querySelectorAll(\"[data-layer='conv1'] .unit .grid\").length"), 2);
    click_in_map(&browser, "fc3");
    browser.wait("return document.querySelectorAll(\"[data-layer='fc3'] .products tbody tr\").length > 10");

    // Grad-CAM changes the picture of the input.
    let input = "return document.getElementById('input').toDataURL()";
    let before = browser.text(input);
    browser.click("#gradcam");
    browser.wait(&format!("{input} !== {}", serde_json::Value::from(before.clone())));
    browser.click("#gradcam");
    browser.wait(&format!("{input} === {}", serde_json::Value::from(before)));

    // Nothing is wider than the window.
    let width = browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth");
    assert_eq!(width, 0);
    check_screenshot(&browser.screenshot(), window);
    check_quiet(&browser);
}

#[test]
fn a_drawing_is_answered_layer_by_layer() {
    try_page(DESKTOP);
}

#[test]
fn the_page_fits_a_phone_and_a_finger() {
    try_page(PHONE);
}

#[test]
fn the_keyboard_reaches_samples_maps_and_computations() {
    let server = Server::start(["--weights".as_ref(), TRAINED.as_os_str()]);
    let Some(browser) = open(&server, DESKTOP) else { return };
    browser.wait(HAS_ANSWER);
    browser.run("document.querySelector('#chips [data-class=\"7\"]').focus()");
    browser.press(&[ENTER]);
    browser.wait("return document.querySelector('#chips [data-class=\"7\"]').getAttribute('aria-pressed') === 'true'");
    browser.run("document.querySelector(\"[data-layer='conv1'] .sheet\").focus()");
    browser.wait("return document.querySelector(\"[data-layer='conv1'] canvas\").height > 30");
    browser.press(&[RIGHT, RIGHT, DOWN]);
    browser.wait("return document.getElementById('read').textContent.startsWith('map 0, row 1, column 2: ')");
    browser.press(&[ENTER]);
    browser.wait("return document.querySelector(\"[data-layer='conv1'] .unit h4\")?.textContent.includes('row 1, column 2') ?? false");
    // Everything that can be operated has a name.
    let unnamed = "return [...document.querySelectorAll('button, input, select, [tabindex]')].filter(it => \
                   !it.textContent.trim() && !it.getAttribute('aria-label') && !(it.labels?.length > 0)).map(it => it.outerHTML)";
    assert_eq!(browser.run(unnamed), serde_json::json!([]));
    check_quiet(&browser);
}

#[test]
fn a_run_shows_its_curves_and_waits_for_its_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(TRAINED.join("config.toml"), folder.path().join("config.toml")).expect("a copy");
    fs::write(folder.path().join("metrics.jsonl"), "").expect("a file");
    let server = Server::start(["--run".as_ref(), folder.path().as_os_str()]);
    let Some(browser) = open(&server, DESKTOP) else { return };
    let state = "document.getElementById('run-state').textContent";
    browser.wait(&format!("return {state}.includes('has not saved weights yet')"));
    for name in ["model.safetensors", "metrics.jsonl"] {
        fs::copy(TRAINED.join(name), folder.path().join(name)).expect("a copy");
    }
    browser.wait(&format!("return {state}.includes('epoch 1: test accuracy')"));
    browser.wait("return document.querySelectorAll('#curves svg').length === 2");
    // The curves answer to the keyboard.
    browser.run("document.querySelector('#curves svg').focus()");
    browser.press(&[RIGHT]);
    browser.wait("return document.querySelector('#curves .readout').textContent.startsWith('Epoch 1')");
    browser.wait(HAS_ANSWER);
    check_quiet(&browser);
}

#[test]
fn a_large_network_shows_colour_pictures() {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = untrained(folder.path(), "resnet18");
    let server = Server::start(["--model".as_ref(), "resnet18".as_ref(), "--weights".as_ref(), weights.as_os_str()]);
    let Some(browser) = open(&server, DESKTOP) else { return };
    browser.wait("return document.getElementById('samples-why').textContent.startsWith('There are none')");
    // A visitor drops a picture; a file cannot be dragged from a test, so the event is made here.
    browser.run(
        "const canvas = new OffscreenCanvas(300, 200), context = canvas.getContext('2d'); \
         context.fillStyle = '#c04020'; context.fillRect(0, 0, 300, 200); \
         context.fillStyle = '#20c080'; context.fillRect(60, 40, 90, 120); \
         canvas.convertToBlob().then(blob => { const data = new DataTransfer(); \
         data.items.add(new File([blob], 'picture.png', { type: 'image/png' })); \
         document.getElementById('pad-frame').dispatchEvent(new DragEvent('drop', { dataTransfer: data, cancelable: true })); })",
    );
    browser.wait(HAS_ANSWER);
    assert_eq!(browser.run("return document.querySelectorAll('#bars li').length"), 10);
    // Only the layers in view are loaded.
    let loaded = "[...document.querySelectorAll('.layer')].map(it => it.querySelector('canvas').height > 30)";
    browser.wait(&format!("return {loaded}[0]"));
    assert_eq!(browser.run(&format!("return {loaded}.at(-1)")), false);
    browser.click(".layer:last-of-type h3");
    browser.wait(&format!("return {loaded}.at(-1)"));
    check_screenshot(&browser.screenshot(), DESKTOP);
    check_quiet(&browser);
}

/// The time from the movement of a pointer to the bars of the answer, for the default network. No test asserts a time.
#[test]
#[ignore = "measures a time; `just test-long` runs it"]
fn a_stroke_is_answered_in_milliseconds() {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = untrained(folder.path(), "mnist-cnn");
    let server = Server::start(["--weights".as_ref(), weights.as_os_str()]);
    let Some(browser) = open(&server, DESKTOP) else { return };
    browser.wait(HAS_ANSWER);
    let mut times = Vec::new();
    for number in 0..40 {
        let row = 0.1 + 0.02 * f64::from(number);
        browser.stroke("#pad", &[(0.3, row), (0.4, row)]);
        std::thread::sleep(std::time::Duration::from_millis(300));
        times.push(browser.run("return Number(document.getElementById('timing').dataset.milliseconds)").as_f64());
    }
    let mut times: Vec<f64> = times.into_iter().flatten().collect();
    times.sort_by(f64::total_cmp);
    println!(
        "stroke to bars: median {:.1} ms, slowest of {} {:.1} ms",
        times[times.len() / 2],
        times.len(),
        times[times.len() - 1]
    );
}

/// Writes the pictures of the documentation to the folder `CNN_CUDA_SCREENSHOTS`; `just screenshots` runs it.
#[test]
#[ignore = "writes the pictures of the documentation; `just screenshots` runs it"]
fn screenshots() {
    let folder =
        std::env::var_os("CNN_CUDA_SCREENSHOTS").map_or_else(|| super::FOLDER.path().join("pictures"), PathBuf::from);
    fs::create_dir_all(&folder).expect("a folder");
    let run = std::env::var_os("CNN_CUDA_SCREENSHOT_RUN").map_or_else(|| TRAINED.clone(), PathBuf::from);
    let server = Server::start(["--weights".as_ref(), run.as_os_str()]);
    let light = Window { height: 1500, ..DESKTOP };
    let dark = Window { is_dark: true, ..light };
    for (name, window) in [("serve", light), ("serve-dark", dark), ("serve-phone", PHONE)] {
        let Some(browser) = open(&server, window) else { return };
        save(&browser, &folder.join(format!("{name}.png")), window);
    }
}

fn save(browser: &Browser, path: &Path, window: Window) {
    browser.wait(HAS_ANSWER);
    draw(browser, &SEVEN, "7");
    browser.click("#gradcam");
    browser.wait("return document.getElementById('timing').textContent.startsWith('Answered')");
    browser.run("document.querySelector('.layer canvas').scrollIntoView({ block: 'center' })");
    browser.wait("return document.querySelector('.layer canvas').height > 30");
    browser.stroke(".layer .sheet canvas", &[(0.055, 0.1)]);
    browser.wait("return !document.querySelector('.unit').hidden");
    browser.run("document.activeElement.blur(); window.scrollTo(0, 0)");
    let picture = browser.screenshot();
    check_screenshot(&picture, window);
    fs::write(path, picture).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
