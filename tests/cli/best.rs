//! The best epoch of a run: which files have its weights, after kills too, and what a run says about it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::cuda_mnist::small_set;
use super::numbers;
use crate::support::program::{Ran, fail, run, succeed};

/// The learning rate rises for three epochs. The first learns, the others are worse than it.
const FORGETTING: [&str; 12] = [
    "--model",
    "lenet5",
    "--epochs",
    "4",
    "--batch-size",
    "16",
    "--lr",
    "1.5",
    "--warm-up",
    "3",
    "--val-fraction",
    "0.25",
];

/// A folder for runs on a small set.
struct Runs {
    folder: tempfile::TempDir,
    data: String,
}

impl Runs {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = small_set(folder.path());
        Self { folder, data }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn args<'a>(&'a self, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        let set = ["train", "--device", "cpu", "--data", &self.data, "--out", text(out)];
        [&set[..], &FORGETTING, more].concat()
    }

    fn train(&self, name: &str, more: &[&str]) -> (PathBuf, Ran) {
        let out = self.out(name);
        let ran = succeed(self.args(&out, more));
        (out, ran)
    }

    /// What `eval` says of weights on a split.
    fn eval(&self, weights: &Path, split: &str) -> Value {
        let args = ["eval", "--device", "cpu", "--data", &self.data, "--weights", text(weights), "--split", split];
        serde_json::from_str(&succeed([&args[..], &["--json"]].concat()).stdout).expect("JSON")
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The records of the epochs, and the best of them by validation loss.
fn epochs(out: &Path) -> (Vec<Value>, Value) {
    let epochs = numbers(out);
    let loss = |epoch: &Value| epoch["val_loss"].as_f64().expect("a loss");
    let best = epochs.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).expect("epochs").clone();
    (epochs, best)
}

fn assert_close(ours: &Value, recorded: &Value) {
    let [ours, recorded] = [ours, recorded].map(|value| value.as_f64().expect("a number"));
    assert!((ours - recorded).abs() <= 1e-6 * recorded.abs(), "{ours} instead of {recorded}");
}

#[test]
fn the_best_and_the_last_weights_have_files_of_their_own() {
    let runs = Runs::new();
    let (out, ran) = runs.train("run", &[]);
    assert!(ran.stdout.contains("val loss"), "{}", ran.stdout);
    let (epochs, best) = epochs(&out);
    let last = &epochs[3];
    assert_ne!(best["epoch"], last["epoch"], "{epochs:?}");
    let said = format!("the best epoch is {}, by its validation loss of ", best["epoch"]);
    assert!(ran.stderr.contains(&said), "{}", ran.stderr);
    for (file, epoch) in [("model.safetensors", &best), ("last.safetensors", last)] {
        for split in ["val", "test"] {
            let evaluated = runs.eval(&out.join(file), split);
            assert_eq!(evaluated["split"], split);
            assert_close(&evaluated["loss"], &epoch[format!("{split}_loss")]);
            assert_close(&evaluated["accuracy"], &epoch[format!("{split}_accuracy")]);
        }
    }
    // A quarter of 25 or 26 images of every class: 6 or 7.
    assert_eq!(runs.eval(&out.join("model.safetensors"), "val")["images"], 66);
    assert_eq!(runs.eval(&out.join("model.safetensors"), "train")["images"], 190);
    // The file alone says which images were held out.
    let alone = runs.out("alone.safetensors");
    fs::copy(out.join("model.safetensors"), &alone).expect("a copy");
    let evaluated = run([
        "eval",
        "--device",
        "cpu",
        "--data",
        &runs.data,
        "--dataset",
        "mnist",
        "--split",
        "val",
        "--json",
        "--weights",
        text(&alone),
    ]);
    let evaluated: Value = serde_json::from_str(&evaluated.stdout).expect("JSON");
    assert_close(&evaluated["loss"], &best["val_loss"]);
    let verified = succeed(["verify", text(&out)]).stdout;
    let best_weights = format!("model.safetensors: SHA-256 matches; the weights of the best epoch, {}", best["epoch"]);
    assert!(verified.contains(&best_weights), "{verified}");
    assert!(verified.contains("last.safetensors: SHA-256 matches; the weights of the checkpoint"), "{verified}");
    let curves = fs::read_to_string(out.join("curves.svg")).expect("read");
    assert!(curves.contains("the best by validation loss"), "{curves}");
}

/// Images that a run was trained on are not those of a validation set.
#[test]
fn eval_validates_on_the_images_that_the_run_held_out() {
    let runs = Runs::new();
    let (held_out, _) = runs.train("held-out", &["--max-steps", "2"]);
    let all = runs.out("all");
    let plain = ["train", "--device", "cpu", "--data", &runs.data, "--model", "lenet5", "--max-steps", "2"];
    succeed([&plain[..], &["--out", text(&all)]].concat());
    let given = |weights: &Path, more: &[&str]| {
        let args = ["eval", "--device", "cpu", "--data", &runs.data, "--weights", text(weights), "--split", "val"];
        [&args[..], more].concat().into_iter().map(String::from).collect::<Vec<_>>()
    };
    let fraction = FORGETTING[FORGETTING.iter().position(|it| *it == "--val-fraction").expect("a flag") + 1];
    succeed(given(&held_out, &["--val-fraction", fraction]).iter().map(String::as_str));
    for (weights, words) in [(&held_out, "the run held out those of --val-fraction"), (&all, "held out none of them")] {
        let args = given(weights, &["--val-fraction", "0.3"]);
        let trained = "would evaluate on images that these weights were trained on";
        fail(2, args.iter().map(String::as_str), &[trained, words]);
    }
}

/// Stops before, at and after the best epoch, of 12 steps each.
#[test]
fn a_resumed_run_keeps_the_best_weights() {
    let runs = Runs::new();
    let (whole, _) = runs.train("whole", &["--keep", "2"]);
    for stop in ["7", "24", "30"] {
        let (out, _) = runs.train(stop, &["--keep", "2", "--max-steps", stop]);
        succeed(["train", "--resume", text(&out), "--no-max-steps", "--quiet"]);
        // A run that stops within an epoch evaluates it twice.
        let mut records = numbers(&out);
        records.retain(|record| record["steps"].as_u64().is_some_and(|steps| steps % 12 == 0));
        assert_eq!(records, numbers(&whole), "stopped after {stop}");
        for file in ["model.safetensors", "last.safetensors", "epoch-2.safetensors"] {
            let [a, b] = [&whole, &out].map(|run| fs::read(run.join(file)).expect("read"));
            assert!(a == b, "stopped after {stop}, {file} differs");
        }
    }
}

#[test]
fn the_number_of_epochs_to_keep_is_respected() {
    let runs = Runs::new();
    let kept = |out: &Path| -> Vec<String> {
        let names = fs::read_dir(out).expect("list").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().expect("UTF-8")).collect();
        names.retain(|name| name.starts_with("epoch-") || name.starts_with("last"));
        names.sort();
        names
    };
    let (out, _) = runs.train("best", &["--keep", "2"]);
    let (mut all, best) = epochs(&out);
    all.sort_by(|a, b| a["val_loss"].as_f64().partial_cmp(&b["val_loss"].as_f64()).expect("no NaN"));
    let mut expected: Vec<String> =
        all[..2].iter().map(|epoch| format!("epoch-{}.safetensors", epoch["epoch"])).collect();
    expected.sort();
    assert_eq!(kept(&out), [&expected[..], &["last.safetensors".into()]].concat());
    let own = runs.eval(&out.join(format!("epoch-{}.safetensors", best["epoch"])), "val");
    assert_close(&own["loss"], &best["val_loss"]);
    // Without a monitored number, the last two.
    let (out, _) = runs.train("last", &["--no-val-fraction", "--keep", "2"]);
    assert_eq!(kept(&out), ["epoch-3.safetensors", "epoch-4.safetensors"]);
    let (out, _) = runs.train("only", &["--keep", "last"]);
    assert!(kept(&out).is_empty());
    assert_close(&runs.eval(&out.join("model.safetensors"), "val")["loss"], &epochs(&out).0[3]["val_loss"]);
}

#[test]
fn damaged_weights_of_the_best_epoch_are_reported_and_those_of_the_last_written_again() {
    let runs = Runs::new();
    let (out, _) = runs.train("run", &[]);
    let resume = ["train", "--resume", text(&out)];
    let last = fs::read(out.join("last.safetensors")).expect("read");
    fs::write(out.join("last.safetensors"), "damaged").expect("write");
    assert!(run(["verify", text(&out)]).stdout.contains("last.safetensors: FAILED"));
    let ran = succeed(resume);
    assert!(ran.stderr.contains("last.safetensors in"), "{}", ran.stderr);
    assert!(fs::read(out.join("last.safetensors")).expect("read") == last);
    // The weights of another epoch are not those of the best.
    fs::copy(out.join("last.safetensors"), out.join("model.safetensors")).expect("a copy");
    let verified = run(["verify", text(&out)]);
    assert!(verified.code == Some(1) && verified.stdout.contains("not of the best"), "{}", verified.stdout);
    fail(1, resume, &["model.safetensors", "cannot be written again"]);
}

#[test]
fn a_choice_by_the_test_set_is_said() {
    let runs = Runs::new();
    let (out, ran) = runs.train("test", &["--no-val-fraction", "--monitor", "test-accuracy"]);
    assert!(ran.stderr.contains("chosen by the test set"), "{}", ran.stderr);
    assert!(!ran.stdout.contains("val loss"), "{}", ran.stdout);
    // So do later reports, also of a copy of the file, but not those of the last epoch.
    let best = out.join("model.safetensors");
    let alone = runs.out("chosen.safetensors");
    fs::copy(&best, &alone).expect("a copy");
    let last = out.join("last.safetensors");
    for (weights, chosen_by) in
        [(&best, "test-accuracy".into()), (&alone, "test-accuracy".into()), (&last, Value::Null)]
    {
        assert_eq!(runs.eval(weights, "test")["chosen_by"], chosen_by, "{}", weights.display());
        let args = ["eval", "--device", "cpu", "--data", &runs.data, "--weights", text(weights)];
        let said = succeed(args).stdout.contains("these weights were chosen by their test accuracy");
        assert_eq!(said, !chosen_by.is_null(), "{}", weights.display());
    }
    assert!(succeed(["verify", text(&out)]).stdout.contains(", by its test accuracy"));
    let (_, ran) = runs.train("patient", &["--no-val-fraction", "--patience", "3"]);
    assert!(ran.stderr.contains("--patience watches the accuracy on the test set"), "{}", ran.stderr);
    let out = runs.out("none");
    let without = ["--no-val-fraction", "--monitor", "val-loss"];
    fail(2, runs.args(&out, &without), &["--monitor val-loss needs a validation set", "--val-fraction"]);
    fail(2, runs.args(&out, &["--no-val-fraction", "--val-seed", "1"]), &["--val-seed", "--val-fraction"]);
    fail(2, runs.args(&out, &["--monitor", "loss"]), &["val-loss, val-accuracy, test-loss, test-accuracy"]);
    fail(2, runs.args(&out, &["--keep", "0"]), &["best, last"]);
    assert!(!out.exists());
    let (out, _) = runs.train("plain", &["--no-val-fraction"]);
    let args = ["eval", "--device", "cpu", "--data", &runs.data, "--weights", text(&out), "--split", "val"];
    fail(1, args, &["no validation images for --split", "--val-fraction"]);
}
