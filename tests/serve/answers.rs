//! The answers of the server: its files, predictions, feature maps and Grad-CAM.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{GrayImage, ImageFormat, Luma};
use serde_json::Value;

use super::{TRAINED, untrained};
use crate::support::program::succeed;
use crate::support::server::Server;

const SIDE: u32 = 280;

/// A one, as a visitor draws it: white on black, not in the middle.
fn drawing() -> GrayImage {
    GrayImage::from_fn(SIDE, SIDE, |x, y| {
        let ink = (60..80).contains(&x) && (90..250).contains(&y) || (y as i32 - 150 + x as i32).abs() < 12 && x < 75;
        Luma([if ink { 255 } else { 0 }])
    })
}

fn png(picture: &GrayImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).expect("a PNG file");
    bytes.into_inner()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("numbers").iter().map(|it| it.as_f64().expect("a number")).collect()
}

fn name(answer: &Value) -> &str {
    answer["picture"].as_str().expect("a name")
}

#[test]
fn every_file_of_the_page_is_served_with_its_type_and_a_strict_policy() {
    let folder = tempfile::tempdir().expect("a folder");
    let server =
        Server::start(["--weights".into(), untrained(folder.path(), "lenet5"), "--model".into(), "lenet5".into()]);
    let page = server.get("/");
    let text = page.text();
    let sources = fs::read_dir("src/serve/page").expect("the page").map(|entry| entry.expect("a file").file_name());
    let mut files: Vec<String> = sources.map(|name| format!("/{}", name.to_string_lossy())).collect();
    files.retain(|name| name != "/index.html");
    files.extend(
        ["/", "/base.css", "/curves.css", "/curves.js", "/api/colours", "/api/site", "/api/state"].map(String::from),
    );
    let mut size = 0;
    for file in files {
        let response = server.get(&file);
        assert_eq!(response.status, 200, "{file}");
        let kind = response.header("content-type").expect("a type");
        let expected = match Path::new(&file).extension().and_then(|it| it.to_str()) {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ if file == "/" => "text/html; charset=utf-8",
            _ if file == "/api/colours" => "application/octet-stream",
            _ => "application/json",
        };
        assert_eq!(kind, expected, "{file}");
        let policy = response.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(response.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(response.header("set-cookie"), None);
        size += response.body.len();
    }
    assert!(size < 200_000, "the page has {size} bytes");
    // Nothing comes from elsewhere, and there is neither a script nor a style inside.
    for forbidden in ["://", "<style", "style=", "onclick", "<script>"] {
        assert!(!text.contains(forbidden), "the page contains {forbidden}");
    }
}

#[test]
fn a_drawing_and_its_file_get_the_prediction_of_predict() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("one.png");
    let picture = drawing();
    fs::write(&path, png(&picture)).expect("a file");
    let server = Server::start(["--weights".as_ref(), TRAINED.as_os_str()]);
    let drawn = server.picture("/api/picture?width=280&height=280", "application/octet-stream", picture.as_raw());
    let sent = server.picture("/api/picture", "image/png", &png(&picture));
    assert_eq!((&drawn["logits"], &drawn["pixels"]), (&sent["logits"], &sent["pixels"]));
    let weights = TRAINED.to_string_lossy().into_owned();
    let path = path.to_string_lossy().into_owned();
    let args = ["predict", "--json", "--device", "cpu", "--top-k", "10", "--weights", &weights, &path];
    let predicted: Value = serde_json::from_str(&succeed(args).stdout).expect("an object");
    let [got, expected] = [&drawn["logits"], &predicted["logits"]].map(numbers);
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() < 1e-4, "{got} for {expected}");
    }
    let probabilities = numbers(&drawn["probabilities"]);
    assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    for class in predicted["classes"].as_array().expect("classes") {
        let index: usize = class["class"].as_str().and_then(|name| name.parse().ok()).expect("a digit");
        assert!((probabilities[index] - class["probability"].as_f64().expect("a number")).abs() < 1e-4);
    }
    assert_eq!((&drawn["inverted"], &drawn["blank"]), (&false.into(), &false.into()));
    let blank = server.picture("/api/picture?width=9&height=9", "application/octet-stream", &[0; 81]);
    assert_eq!(blank["blank"], true);
}

#[test]
fn maps_are_the_layers_of_the_picture_that_is_named() {
    let server = Server::start(["--weights".as_ref(), TRAINED.as_os_str()]);
    let site = server.get("/api/site").json();
    let layers = site["layers"].as_array().expect("layers");
    let state = server.state(|state| state["samples"]["state"] != "loading");
    assert_eq!(state["samples"]["dataset"], "digits");
    let [first, second] =
        [3, 7].map(|class| server.picture(&format!("/api/sample?class={class}&index=0"), "text/plain", &[]));
    assert_ne!(name(&first), name(&second));
    let maps = |answer: &Value, layer: &Value, first: u64, count: u64| {
        let (picture, node) = (name(answer), &layer["node"]);
        server.get(&format!("/api/maps?picture={picture}&layer={node}&first={first}&count={count}")).floats()
    };
    for layer in layers {
        let [channels, height, width] = ["channels", "height", "width"].map(|it| layer[it].as_u64().expect("a number"));
        let all = maps(&first, layer, 0, channels);
        assert_eq!(all.len() as u64, channels * height * width);
        // Questions about two pictures may alternate.
        assert_ne!(all, maps(&second, layer, 0, channels), "{layer}");
        let last = maps(&first, layer, channels - 1, 1);
        assert_eq!(last, all[all.len() - (height * width) as usize..], "{layer}");
    }
    // The last layer is the logits.
    let logits = maps(&first, layers.last().expect("layers"), 0, 10);
    let expected: Vec<f32> = numbers(&first["logits"]).into_iter().map(|value| value as f32).collect();
    assert_eq!(logits, expected);
    let cam = server.get(&format!("/api/gradcam?picture={}&class=3", name(&first))).floats();
    let largest = cam.iter().fold(0.0_f32, |largest, &value| largest.max(value));
    assert_eq!(cam.len(), 28 * 28);
    assert!(cam.iter().all(|value| (0.0..=1.0).contains(value)) && largest > 0.99, "{largest}");
    assert_ne!(cam, server.get(&format!("/api/gradcam?picture={}&class=8", name(&first))).floats());
}

#[test]
fn unknown_things_are_refused_with_a_sentence() {
    let server = Server::start(["--weights".as_ref(), TRAINED.as_os_str()]);
    let drawn = server.picture("/api/picture?width=2&height=2", "application/octet-stream", &[0, 255, 0, 0]);
    let picture = name(&drawn);
    let raw = "Content-Type: application/octet-stream\r\n";
    let cases: [(&str, String, &str, &[u8], u16); 18] = [
        ("GET", "/nothing".into(), "", b"", 404),
        ("GET", "/../../etc/passwd".into(), "", b"", 404),
        ("GET", "/%2e%2e/Cargo.toml".into(), "", b"", 404),
        ("GET", "/api/curves".into(), "", b"", 404),
        ("POST", "/".into(), "", b"", 405),
        ("GET", "/api/picture".into(), "", b"", 405),
        ("DELETE", "/api/state".into(), "", b"", 405),
        ("POST", "/api/picture".into(), "Content-Type: text/html\r\n", b"x", 415),
        ("POST", "/api/picture".into(), "", b"x", 415),
        ("POST", "/api/picture".into(), "Content-Type: image/png\r\n", b"no picture", 400),
        ("POST", "/api/picture".into(), raw, b"x", 400),
        ("POST", "/api/picture?width=3&height=0".into(), raw, b"x", 400),
        ("POST", "/api/picture?width=100000&height=9".into(), raw, b"x", 400),
        ("POST", "/api/picture?width=2&height=2".into(), raw, b"abc", 400),
        ("POST", "/api/picture?width=2&height=2".into(), raw, b"abcde", 413),
        ("GET", "/api/maps?picture=none&layer=1&first=0&count=1".into(), "", b"", 404),
        ("GET", format!("/api/maps?picture={picture}&layer=-1&first=0&count=1"), "", b"", 400),
        ("GET", format!("/api/gradcam?picture={picture}&class=10"), "", b"", 404),
    ];
    for (method, target, headers, body, expected) in cases {
        let response = server.request(method, &target, headers, body);
        assert_eq!(response.status, expected, "{method} {target}: {}", response.text());
        assert!(response.text().len() > 9, "{method} {target}");
    }
    let layer = &server.get("/api/site").json()["layers"][0]["node"].to_string();
    for (first, count) in [(0, 0), (0, 7), (6, 1), (usize::MAX, 2)] {
        let target = format!("/api/maps?picture={picture}&layer={layer}&first={first}&count={count}");
        assert_eq!(server.get(&target).status, 400, "{target}");
    }
    assert_eq!(server.get(&format!("/api/maps?picture=0&layer={layer}&first=0&count=1")).status, 410);
    assert_eq!(server.get(&format!("/api/unit?picture={picture}&layer={layer}&channel=0&row=28&column=0")).status, 404);
}
