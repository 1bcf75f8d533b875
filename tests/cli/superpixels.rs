//! `--superpixels`: training, evaluation and prediction see the same images, and the weights remember it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::crops::write_set;
use crate::support::program::{fail, succeed};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn weights_remember_the_superpixels_and_a_resumed_run_keeps_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (data, out, alone) = (at("data"), at("run"), at("w.safetensors"));
    write_set(&data);
    let run = |out: &Path, more: &[&str]| {
        let args =
            ["train", "--dataset", text(&data), "--model", "lenet5", "--device", "cpu", "--quiet", "--image-size"];
        succeed([&args[..], &["28", "--batch-size", "4", "--lr", "0.05", "--out", text(out)], more].concat())
    };
    run(&out, &["--superpixels", "12", "--epochs", "2"]);
    fs::copy(out.join("model.safetensors"), &alone).expect("copied");
    let eval = |weights: &Path, more: &[&str]| {
        let args = ["eval", "--json", "--device", "cpu", "--weights", text(weights), "--dataset", text(&data)];
        json(&succeed([&args[..], more].concat()).stdout)["loss"].clone()
    };
    let picture = data.join("test/dark/0.png");
    let predict = |weights: &Path, more: &[&str]| {
        let args = ["predict", "--json", "--device", "cpu", "--weights", text(weights), text(&picture)];
        json(&succeed([&args[..], more].concat()).stdout)["logits"].clone()
    };
    let metrics = |out: &Path| fs::read_to_string(out.join("metrics.jsonl")).expect("read");
    let last = json(metrics(&out).lines().last().expect("an epoch"));
    assert_eq!(eval(&out, &[]), last["test_loss"]);
    assert_eq!((eval(&alone, &[]), predict(&alone, &[])), (eval(&out, &[]), predict(&out, &[])));
    assert_ne!(eval(&alone, &["--superpixels", "200"]), eval(&alone, &[]));
    assert_ne!(predict(&alone, &["--superpixels", "200"]), predict(&alone, &[]));
    // A program that does not know them must not read the description.
    let written = fs::read(&alone).expect("read");
    let header = String::from_utf8_lossy(&written[..2000.min(written.len())]).replace('\\', "");
    assert!(header.contains("\"superpixels\":12") && header.contains("\"version\":3"), "{header}");
    // Streamed pictures are the same, and so is a resumed run.
    let streamed = at("streamed");
    run(&streamed, &["--superpixels", "12", "--epochs", "1", "--residency", "stream"]);
    succeed(["train", "--resume", text(&streamed), "--epochs", "2", "--quiet"]);
    let weights = |out: &Path| fs::read(out.join("model.safetensors")).expect("read");
    assert!(weights(&streamed) == weights(&out));
    let plain = at("plain");
    run(&plain, &["--epochs", "2"]);
    assert_ne!(json(metrics(&plain).lines().last().expect("an epoch"))["test_loss"], last["test_loss"]);
    let refused = ["train", "--resume", text(&out), "--epochs", "4", "--superpixels", "8"];
    fail(1, refused, &["--superpixels 8 contradicts the run", "--superpixels 12"]);
    for value in ["0", "-3", "many", "16777217"] {
        fail(2, ["train", &format!("--superpixels={value}")], &["--superpixels", "it must be"]);
    }
}
