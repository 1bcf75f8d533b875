//! `--precision bf16` on the CPU: trained, resumed and evaluated, in bf16 and in fp32.

use std::fs;

use serde_json::Value;

use crate::support::program::{fail, succeed};

const TRAIN: [&str; 10] =
    ["train", "--dataset", "digits", "--model", "lenet5", "--device", "cpu", "--seed", "0", "--quiet"];

fn accuracy(weights: &str, more: &[&str]) -> f64 {
    let args = ["eval", "--dataset", "digits", "--device", "cpu", "--json", "--weights", weights];
    let printed: Value = serde_json::from_str(&succeed([&args[..], more].concat()).stdout).expect("JSON");
    printed["accuracy"].as_f64().expect("an accuracy")
}

#[test]
fn a_run_is_resumed_to_the_same_weights_and_evaluated_in_both_precisions() {
    let folder = tempfile::tempdir().expect("a folder");
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name).to_str().expect("UTF-8").to_string());
    let precision = ["--precision", "bf16"];
    succeed([&TRAIN[..], &precision, &["--epochs", "2", "--out", &whole, "--threads", "2"]].concat());
    succeed(
        [&TRAIN[..], &precision, &["--epochs", "2", "--out", &parts, "--max-steps", "7", "--threads", "1"]].concat(),
    );
    // The run keeps its precision.
    succeed(["train", "--resume", &parts, "--max-steps", "1000000", "--quiet"]);
    let weights = [&whole, &parts].map(|run| format!("{run}/model.safetensors"));
    let [a, b] = [0, 1].map(|run| fs::read(&weights[run]).expect("weights"));
    assert!(a == b, "the resumed run has other weights");

    let [rounded, exact] = [&precision[..], &[]].map(|more| accuracy(&weights[0], more));
    assert!(exact > 0.9 && (rounded - exact).abs() < 0.01, "{rounded} in bf16, {exact} in fp32");
}

#[test]
fn precisions_of_gpus_are_refused() {
    for precision in ["tf32", "fp16"] {
        fail(2, [&TRAIN[..], &["--precision", precision]].concat(), &[precision, "CUDA", "fp32 and bf16"]);
    }
}
