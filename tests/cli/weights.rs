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
    fs::remove_file(&config).and_then(|()| fs::create_dir(&config)).expect("a folder");
    fail(1, ["eval", "--device", "cpu", "--weights", text(&weights)], &["config.toml", "it is not a file"]);
    fs::remove_dir(&config).expect("removed");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere", &config).expect("a link");
        let words = ["config.toml", "a link to a file that does not exist"];
        fail(1, ["eval", "--device", "cpu", "--weights", text(&weights)], &words);
        fs::remove_file(&config).expect("removed");
    }
    fs::write(&config, &whole).expect("write");
    succeed(["eval", "--device", "cpu", "--weights", text(&weights)]);
}

/// Writes the file without its digest, after `change` to its description.
fn rewrite(from: &Path, to: &Path, change: impl FnOnce(&mut Value)) {
    let bytes = fs::read(from).expect("read");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut description = parse(&weights_description(from).expect("read").expect("a description"));
    change(&mut description);
    let metadata = std::collections::HashMap::from([("cnn-cuda.weights".to_string(), description.to_string())]);
    fs::write(to, safetensors::serialize(file.tensors(), Some(metadata)).expect("serialised")).expect("write");
}

/// A change of a description.
type Edit<'a> = &'a dyn Fn(&mut Value);

#[test]
fn a_described_file_that_another_program_changed_is_used_with_a_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    let (out, changed) = (folder.path().join("run"), folder.path().join("changed.safetensors"));
    train(&out, &["--max-steps", "1", "--quiet"]);
    let picture = picture(folder.path());
    let eval = ["eval", "--device", "cpu", "--weights", text(&changed)];
    let predict = ["predict", "--device", "cpu", "--weights", text(&changed), text(&picture)];
    rewrite(&out.join("model.safetensors"), &changed, |_| ());
    for args in [&eval[..], &predict] {
        let ran = succeed(args);
        assert_eq!(ran.stderr.matches("changed.safetensors has no SHA-256").count(), 1, "{}", ran.stderr);
    }
    // A description that contradicts the data set or the tensors is refused by both.
    let contradictions: [(Edit, [&str; 2]); 3] = [
        (
            &|it| it["input"]["classes"].as_array_mut().expect("names").truncate(5),
            ["trained for 5 classes, but digits has 10", "fc3.weight"],
        ),
        (&|it| it["input"]["height"] = 64.into(), ["images of 1×64×28", "fc1.weight"]),
        (&|it| it["model"] = "nosuch".into(), ["changed.safetensors is described as weights of a network"; 2]),
    ];
    for (change, words) in contradictions {
        rewrite(&out.join("model.safetensors"), &changed, change);
        fail(1, eval, &words[..1]);
        fail(1, predict, &words[1..]);
    }
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
    // Assumptions are said of weights that could be read.
    for args in [&predict[..], &["eval", "--device", "cpu", "--dataset", "digits", "--weights", text(&weights)]] {
        let message = fail(1, args, &["layer1.0.weight of mnist-cnn is missing", "See --model"]);
        assert!(!message.contains("assumed"), "{message}");
    }
    fs::write(&weights, [0xf3; 99]).expect("write");
    let message = fail(1, eval, &["truncated or damaged"]);
    assert!(!message.contains("assumed"), "{message}");
}
