//! Runs with a different activation, frozen Gabor filters, gradient clipping, averaged weights and augmentation.

use std::fs;

use serde_json::Value;

use super::train;
use crate::support::program::{fail, succeed};

const SETTINGS: [&str; 15] = [
    "--activation",
    "leaky-relu:0.125",
    "--conv1",
    "gabor-frozen",
    "--clip-grad-norm",
    "2.5",
    "--ema",
    "0.75",
    "--crop-padding",
    "2",
    "--flip",
    "--cutout",
    "5",
    "--brightness",
    "0.25",
];

#[test]
#[ignore = "long; CI runs it"]
fn a_run_is_resumed_and_evaluated_with_its_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    let settings = [&SETTINGS[..], &["--batch-size", "512", "--epochs", "1", "--lr", "0.2", "--quiet"]].concat();
    train(&whole, &settings);
    train(&cut, &[&settings[..], &["--max-steps", "7"]].concat());
    let name = cut.to_str().expect("UTF-8");
    succeed(["train", "--resume", name, "--no-max-steps", "--quiet", "--activation", "leaky-relu:0.125"]);
    let read = |run: &std::path::Path, file: &str| fs::read(run.join(file)).expect("read");
    assert!(read(&whole, "model.safetensors") == read(&cut, "model.safetensors"), "the weights differ");
    let config = String::from_utf8(read(&whole, "config.toml")).expect("text");
    for line in [
        "activation = \"leaky-relu:0.125\"",
        "conv1 = \"gabor-frozen\"",
        "clip-grad-norm = 2.5",
        "ema = 0.75",
        "[augmentation]",
        "flip = true",
    ] {
        assert!(config.contains(line), "{line} is missing from {config}");
    }
    let metrics = String::from_utf8(read(&whole, "metrics.jsonl")).expect("text");
    let epoch: Value = serde_json::from_str(metrics.lines().last().expect("an epoch")).expect("JSON");
    let weights = whole.join("model.safetensors");
    let weights = weights.to_str().expect("UTF-8");
    let eval = |more: &[&str]| -> f64 {
        let args = ["eval", "--weights", weights, "--device", "cpu", "--json"];
        let result: Value = serde_json::from_str(&succeed([&args[..], more].concat()).stdout).expect("JSON");
        result["loss"].as_f64().expect("a loss")
    };
    // The averaged weights are saved and evaluated, with the run's activation unless a flag overrides it.
    let trained = epoch["test_loss"].as_f64().expect("a loss");
    assert!((eval(&[]) - trained).abs() < 1e-6);
    assert!((eval(&["--activation", "tanh"]) - trained).abs() > 1e-3);
    fail(1, ["train", "--resume", name, "--activation", "relu"], &["--activation relu", "leaky-relu:0.125"]);
    fail(1, ["train", "--resume", name, "--conv1", "gabor"], &["--conv1 gabor", "gabor-frozen"]);
    fail(1, ["train", "--resume", name, "--cutout", "6"], &["--cutout 6", "5"]);
    fail(1, ["train", "--resume", name, "--ema", "0.5"], &["--ema 0.5", "0.75"]);
}

#[test]
fn invalid_settings_are_usage_errors() {
    let cases = [
        ("--activation", "swish"),
        ("--activation", "leaky-relu:2"),
        ("--activation", "leaky-relu:-0.1"),
        ("--conv1", "sobel"),
        ("--clip-grad-norm", "0"),
        ("--clip-grad-norm", "nan"),
        ("--ema", "1"),
        ("--ema", "0"),
        ("--crop-padding", "-1"),
        ("--cutout", "5000"),
        ("--brightness", "1.5"),
        ("--contrast", "nan"),
    ];
    for (flag, value) in cases {
        fail(2, ["train", &format!("{flag}={value}")], &[flag]);
    }
}
