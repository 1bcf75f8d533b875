//! `--model neocognitron`: a run that learns without gradients, what its files are good for, and refused settings.

use std::fs;

use serde_json::Value;

use crate::support::program::{fail, succeed};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
#[ignore = "long; CI runs it"]
fn it_learns_digits_and_its_weights_are_evaluated_verified_and_resumed() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let name = out.to_str().expect("UTF-8");
    let args = ["train", "--model", "neocognitron", "--dataset", "digits", "--device", "cpu", "--out", name];
    let ran = succeed(args);
    for words in ["without gradients", "s2: ", "s3: ", " features, from 20000 images"] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).expect("read");
    let epoch = json(metrics.lines().last().expect("an epoch"));
    let accuracy = epoch["test_accuracy"].as_f64().expect("a number");
    assert!(accuracy > 0.9, "{accuracy}");
    let evaluated = json(&succeed(["eval", "--weights", name, "--device", "cpu", "--json"]).stdout);
    assert_eq!(evaluated["accuracy"], epoch["test_accuracy"]);
    succeed(["verify", name]);
    succeed(["summary", "--model", "neocognitron"]);
    let resumed = succeed(["train", "--resume", name]);
    assert!(resumed.stderr.contains("nothing left to do after 1 epoch"), "{}", resumed.stderr);
    // The settings of the run are a recipe for the same run.
    let (again, config) = (folder.path().join("again"), out.join("config.toml"));
    let config = config.to_str().expect("UTF-8");
    succeed(["train", "--config", config, "--out", again.to_str().expect("UTF-8"), "--threads", "1", "--quiet"]);
    let weights = |run: &std::path::Path| fs::read(run.join("model.safetensors")).expect("read");
    assert!(weights(&again) == weights(&out));
    fail(2, ["train", "--resume", name, "--epochs", "2"], &["--epochs has no effect"]);
}

#[test]
fn settings_of_gradient_descent_are_refused() {
    let unused: [&[&str]; 12] = [
        &["--lr", "0.1"],
        &["--optimizer", "adam"],
        &["--epochs", "5"],
        &["--schedule", "cosine"],
        &["--max-steps", "3"],
        &["--conv1", "gabor"],
        &["--activation", "tanh"],
        &["--crop-padding", "2"],
        &["--flip"],
        &["--freeze", "backbone"],
        &["--label-smoothing", "0.1"],
        &["--class-weights", "balanced"],
    ];
    for flags in unused {
        let args = [&["train", "--model", "neocognitron", "--dataset", "digits"], flags].concat();
        fail(2, args, &[&format!("{} has no effect with --model neocognitron", flags[0]), "leave it out"]);
    }
    fail(2, ["lr-find", "--model", "neocognitron", "--dataset", "digits"], &["has no learning rate"]);
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = folder.path().join("recipe.toml");
    fs::write(&recipe, "model = 'neocognitron'\ndataset = 'digits'\nmomentum = 0.9").expect("write");
    let recipe = recipe.to_str().expect("UTF-8");
    fail(2, ["train", "--config", recipe], &["--momentum has no effect with --model neocognitron"]);
}
