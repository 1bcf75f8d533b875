//! `--crop-pct`: the logits of torchvision's transforms and a model, and what a run's weights remember.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;

use crate::support::program::{fail, succeed};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn numbers(values: &Value) -> Vec<f32> {
    values.as_array().expect("an array").iter().map(|value| value.as_f64().expect("a number") as f32).collect()
}

#[test]
fn logits_are_those_of_torchvisions_transforms_and_a_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = fs::read("tests/reference/crops.safetensors").expect("read");
    let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("metadata");
    let crops = json(&metadata.metadata().clone().expect("metadata")["crops"]);
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut compared = 0;
    for (name, sides) in crops.as_object().expect("an object").iter().filter(|(name, _)| name.starts_with("gray")) {
        let path = folder.path().join(format!("{name}.png"));
        fs::write(&path, tensors.tensor(&format!("file.{name}")).expect("a file").data()).expect("written");
        let part = (sides["crop"].as_f64().expect("a side") / sides["resize"].as_f64().expect("a side")).to_string();
        let args = ["predict", "--json", "--device", "cpu", "--model", "lenet5", "--crop-pct", &part];
        let weights = ["--weights", "tests/reference/lenet5.safetensors", "--channels", "1", "--image-size", "28"];
        let ran = succeed([&args[..], &weights, &[text(&path)]].concat());
        let logits = numbers(&json(&ran.stdout)["logits"]);
        let expected = tensors.tensor(&format!("logits.{name}")).expect("logits").data().to_vec();
        for (logit, expected) in logits.iter().zip(expected.chunks_exact(4)) {
            let expected = f32::from_le_bytes(expected.try_into().expect("4 bytes"));
            assert!((logit - expected).abs() <= 1e-4, "{name}: {logit} instead of {expected}");
            compared += 1;
        }
    }
    assert_eq!(compared, 50);
}

/// Writes two classes of pictures of 60×44, bright and dark, with a frame that a crop removes.
pub fn write_set(root: &Path) {
    for (class, level) in [("bright", 200), ("dark", 20)] {
        for (split, count) in [("train", 8), ("test", 4)] {
            let folder = root.join(split).join(class);
            fs::create_dir_all(&folder).expect("a folder");
            for number in 0..count {
                let picture = image::GrayImage::from_fn(44, 60, |x, y| {
                    let frame = x < 6 || y < 14 || x >= 38 || y >= 46;
                    image::Luma([if frame { 255 - level } else { level + ((x * 31 + y * 7 + number * 17) % 40) as u8 }])
                });
                picture.save(folder.join(format!("{number}.png"))).expect("saved");
            }
        }
    }
}

#[test]
fn weights_remember_the_crop() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, out, alone) =
        (folder.path().join("data"), folder.path().join("run"), folder.path().join("w.safetensors"));
    write_set(&data);
    let run = |out: &Path, more: &[&str]| {
        let args =
            ["train", "--dataset", text(&data), "--model", "lenet5", "--device", "cpu", "--quiet", "--image-size"];
        succeed([&args[..], &["28", "--batch-size", "4", "--lr", "0.05", "--out", text(out)], more].concat())
    };
    run(&out, &["--crop-pct", "0.7", "--epochs", "3"]);
    fs::copy(out.join("model.safetensors"), &alone).expect("copied");
    let picture = data.join("test/dark/0.png");
    let eval = |weights: &Path, more: &[&str]| {
        let args = ["eval", "--json", "--device", "cpu", "--weights", text(weights), "--dataset", text(&data)];
        json(&succeed([&args[..], more].concat()).stdout)["loss"].clone()
    };
    let predict = |weights: &Path, more: &[&str]| {
        let args = ["predict", "--json", "--device", "cpu", "--weights", text(weights), text(&picture)];
        json(&succeed([&args[..], more].concat()).stdout)["logits"].clone()
    };
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).expect("read");
    let last = json(metrics.lines().last().expect("an epoch"));
    assert_eq!(eval(&out, &[]), last["test_loss"], "the evaluations of a run crop, too");
    assert_eq!((eval(&alone, &[]), predict(&alone, &[])), (eval(&out, &[]), predict(&out, &[])));
    for whole in [eval(&alone, &["--crop-pct", "1"]), eval(&alone, &["--crop-pct", "0.9"])] {
        assert_ne!(whole, eval(&alone, &[]));
    }
    assert_ne!(predict(&alone, &["--crop-pct", "1"]), predict(&alone, &[]));
    // Pictures to train with are not cropped, so all but the evaluation is the same.
    let usual = folder.path().join("usual");
    run(&usual, &["--epochs", "3"]);
    let train_losses = |out: &Path| -> Vec<Value> {
        let text = fs::read_to_string(out.join("metrics.jsonl")).expect("read");
        text.lines().map(|line| json(line)["train_loss"].clone()).collect()
    };
    assert_eq!(train_losses(&usual), train_losses(&out));
    let refused = ["train", "--resume", text(&out), "--epochs", "4", "--crop-pct", "0.8"];
    fail(1, refused, &["--crop-pct 0.8 contradicts the run"]);
    succeed(["train", "--resume", text(&out), "--epochs", "4", "--quiet"]);
    fail(2, ["train", "--dataset", "digits", "--crop-pct", "0.875"], &["--crop-pct", "folders of pictures"]);
    fail(2, ["train", "--dataset", text(&data), "--crop-pct", "1.5"], &["--crop-pct"]);
}
