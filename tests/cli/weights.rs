//! Weights files describe themselves; a configuration next to them must be theirs; what is assumed is said.

use std::fs;
use std::path::{Path, PathBuf};

use cnn_cuda::checkpoint::{save_weights, weights_description};
use serde_json::{Value, json};

use super::train;
use crate::support::program::{fail, succeed};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A gray picture of a vertical stroke.
fn picture(folder: &Path) -> PathBuf {
    let path = folder.join("one.png");
    let pixels: Vec<u8> = (0..28 * 28).map(|at| if (12..15).contains(&(at % 28)) { 250 } else { 0 }).collect();
    image::save_buffer(&path, &pixels, 28, 28, image::ExtendedColorType::L8).expect("saved");
    path
}

#[test]
fn a_file_alone_is_enough() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let settings = ["--max-steps", "40", "--activation", "tanh", "--mean", "0.25", "--std", "0.75", "--quiet"];
    train(&out, &[&settings[..], &["--classes", "11"]].concat());
    let (beside, alone) = (out.join("model.safetensors"), folder.path().join("alone.safetensors"));
    fs::copy(&beside, &alone).expect("copied");
    let picture = picture(folder.path());
    let results = [&beside, &alone].map(|weights| {
        let args = ["--json", "--device", "cpu", "--weights", text(weights)];
        let ran =
            [succeed([&["eval"][..], &args].concat()), succeed([&["predict"][..], &args, &[text(&picture)]].concat())];
        assert!(ran.iter().all(|ran| !ran.stderr.contains("WARN")), "{}{}", ran[0].stderr, ran[1].stderr);
        let [eval, predict] = ran.each_ref().map(|ran| parse(&ran.stdout));
        (eval["loss"].clone(), eval["confusion"]["classes"].clone(), predict)
    });
    assert_eq!(results[0], results[1]);
    let description = parse(&weights_description(&alone).expect("read").expect("a description"));
    let expected = json!({
        "version": 1, "model": "lenet5", "activation": "tanh", "dataset": "digits", "preparation": "fit",
        "input": {"channels": 1, "height": 28, "width": 28, "mean": [0.25], "std": [0.75],
                  "classes": results[0].1},
    });
    assert_eq!(description, expected);
}

#[test]
fn a_cut_or_foreign_configuration_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let [out, other] = ["run", "other"].map(|name| folder.path().join(name));
    train(&out, &["--max-steps", "1", "--quiet"]);
    train(&other, &["--max-steps", "1", "--mean", "0.4", "--std", "0.4", "--quiet"]);
    let (weights, config) = (out.join("model.safetensors"), out.join("config.toml"));
    let whole = fs::read_to_string(&config).expect("read");
    let cut = &whole[..whole.find("[input]").expect("a section")];
    let damaged = ["config.toml is damaged, or not the configuration of a run", "move them to another folder"];
    for content in [cut, "", "[somebody]\nelse = true\n", "lr = 0.1\n", "no TOML"] {
        fs::write(&config, content).expect("write");
        fail(1, ["eval", "--device", "cpu", "--weights", text(&weights)], &damaged);
        fail(1, ["predict", "--device", "cpu", "--weights", text(&weights), "no.png"], &damaged);
    }
    fs::copy(other.join("config.toml"), &config).expect("copied");
    let words = ["config.toml is the configuration of another run", "move them to another folder"];
    fail(1, ["eval", "--device", "cpu", "--weights", text(&weights)], &words);
    fs::write(&config, &whole).expect("write");
    succeed(["eval", "--device", "cpu", "--weights", text(&weights)]);
}

/// PyTorch's files describe nothing.
#[test]
fn what_is_assumed_about_other_weights_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = cnn_cuda::models::find("lenet5").expect("LeNet-5");
    let network = (model.build)(model.input, model.classes).expect("a network");
    let weights = folder.path().join("theirs.safetensors");
    let initial = network.initial_weights(0);
    save_weights(&weights, &network, &initial.parameters, &initial.statistics).expect("saved");
    let eval = ["eval", "--device", "cpu", "--model", "lenet5", "--dataset", "digits", "--weights", text(&weights)];
    let ran = succeed(eval);
    let words = "theirs.safetensors was trained for, so this is assumed: their mean is [0.5] and std [0.5] (--mean";
    assert!(ran.stderr.contains(words) && !ran.stderr.contains("--model"), "{}", ran.stderr);
    let ran = succeed([&eval[..], &["--mean", "0.5", "--std", "0.5"]].concat());
    assert!(!ran.stderr.contains("assumed"), "{}", ran.stderr);
    let picture = picture(folder.path());
    let predict = ["predict", "--device", "cpu", "--weights", text(&weights), text(&picture)];
    let ran = succeed([&predict[..], &["--model", "lenet5"]].concat());
    for words in
        ["1×28×28 (--channels, --image-size)", "mean 0.5 and std 0.5", "10 classes", "like the digits of MNIST"]
    {
        assert!(ran.stderr.contains(words), "{words:?} is missing from: {}", ran.stderr);
    }
    assert!(!ran.stderr.contains("--model"), "{}", ran.stderr);
    // Without --model, the error follows the assumption that caused it.
    fail(1, predict, &["the network is mnist-cnn (--model)", "layer1.0.weight of mnist-cnn is missing"]);
}
