//! The files that a run writes, and resuming a run.

use std::fs;

use serde_json::Value;

use super::{numbers, short_run, train, weights};
use crate::support::program::{fail, succeed};

#[test]
fn a_run_writes_all_its_files_and_a_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let ran = train(&out, &["--max-steps", "30", "--log-steps"]);
    let names = ["config.toml", "metrics.jsonl", "model.safetensors", "checkpoint.safetensors", "curves.svg"];
    for name in names {
        assert!(out.join(name).is_file(), "{name} is missing");
    }
    assert_eq!(fs::read_dir(&out).expect("list").count(), names.len(), "there are other files");
    let ends = format!("(--max-steps); continue with: cnn-cuda train --resume {} --no-max-steps", out.display());
    assert!(ran.stderr.contains(&ends), "{}", ran.stderr);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ran.stdout);
    assert!(lines[0].contains("test acc") && lines[1].contains('%'), "{}", ran.stdout);
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).expect("read");
    let records: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(records.len(), 31);
    assert_eq!((&records[0]["kind"], &records[0]["step"]), (&"step".into(), &0.into()));
    assert_eq!((&records[30]["kind"], &records[30]["steps"]), (&"epoch".into(), &30.into()));
    assert!(fs::read_to_string(out.join("curves.svg")).expect("read").starts_with("<svg"));
}

#[test]
fn quiet_prints_nothing_on_stdout() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(train(&folder.path().join("run"), &["--max-steps", "2", "--quiet"]).stdout, "");
}

#[test]
fn an_earlier_run_is_never_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--max-steps", "2"]);
    let before = fs::read(out.join("model.safetensors")).expect("read");
    fail(1, short_run(&out, &["--max-steps", "3"]), &["--out", "already contains a run", "--resume"]);
    assert_eq!(fs::read(out.join("model.safetensors")).expect("read"), before);
    // Without --out, a number is added.
    let args = ["train", "--dataset", "digits", "--model", "lenet5", "--device", "cpu", "--max-steps", "1", "--quiet"];
    for name in ["lenet5-digits-0", "lenet5-digits-0-2", "lenet5-digits-0-3"] {
        let mut command = crate::support::program::command(args);
        assert!(command.current_dir(folder.path()).status().expect("it runs").success());
        assert!(folder.path().join("runs").join(name).join("model.safetensors").is_file(), "{name} is missing");
    }
}

#[test]
#[ignore = "long; CI runs it"]
fn a_resumed_run_ends_with_the_same_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    let settings = ["--epochs", "2", "--batch-size", "256", "--momentum", "0.9", "--log-steps", "--quiet"];
    train(&whole, &settings);
    for stop in ["30", "79"] {
        // An epoch has 79 steps: stop within the first, and at its end.
        let _ = fs::remove_dir_all(&cut);
        train(&cut, &[&settings[..], &["--max-steps", stop]].concat());
        let resume = ["train", "--resume", cut.to_str().expect("UTF-8"), "--no-max-steps"];
        succeed([&resume[..], &["--quiet", "--threads", "1"]].concat());
        assert!(weights(&whole) == weights(&cut), "stopped after {stop}, the weights differ");
        assert_eq!(numbers(&whole), numbers(&cut), "stopped after {stop}");
    }
}

/// Earlier versions had two more options for running a step, which did not change the results.
#[test]
fn a_run_of_an_earlier_version_resumes_and_its_flags_are_accepted() {
    let folder = tempfile::tempdir().expect("a folder");
    let [plain, earlier] = ["plain", "earlier"].map(|name| folder.path().join(name));
    let flags = ["--branches", "on", "--graph-steps", "4"];
    let warns = |stderr: &str, flag: &str| stderr.contains(&format!("{flag} no longer has any effect"));
    for (out, more) in [(&plain, &[][..]), (&earlier, &flags)] {
        let ran = train(out, &[&["--max-steps", "2", "--quiet"][..], more].concat());
        for flag in ["--branches", "--graph-steps"] {
            assert_eq!(warns(&ran.stderr, flag), !more.is_empty(), "{}", ran.stderr);
        }
    }
    let path = earlier.join("config.toml");
    let text = fs::read_to_string(&path).expect("read");
    assert!(!text.contains("branches") && !text.contains("graph-steps"), "{text}");
    fs::write(&path, format!("branches = \"auto\"\ngraph-steps = 4\n{text}")).expect("write");
    for out in [&plain, &earlier] {
        let ran = succeed(["train", "--resume", out.to_str().expect("UTF-8"), "--max-steps", "5", "--quiet"]);
        assert!(!warns(&ran.stderr, "branches") && !warns(&ran.stderr, "graph-steps"), "{}", ran.stderr);
    }
    let weights = [&plain, &earlier].map(|out| fs::read(out.join("model.safetensors")).expect("read"));
    assert!(weights[0] == weights[1]);
    // Its configuration can be a recipe, like that of any run.
    let (recipe, again) = (folder.path().join("recipe.toml"), folder.path().join("again"));
    fs::write(&recipe, format!("branches = \"auto\"\ngraph-steps = 4\n{text}")).expect("write");
    let args = ["train", "--config", recipe.to_str().expect("UTF-8"), "--out", again.to_str().expect("UTF-8")];
    let ran = succeed([&args[..], &["--quiet"]].concat());
    assert!(warns(&ran.stderr, "branches") && warns(&ran.stderr, "graph-steps"), "{}", ran.stderr);
    // The error for a misspelled key does not suggest the old keys.
    fs::write(&recipe, "branchs = 1").expect("write");
    let message = fail(1, args, &["branchs"]);
    assert!(!message.contains("branches"), "{message}");
    let ran = succeed([&["bench", "--model", "lenet5", "--device", "cpu", "--steps", "1"][..], &flags].concat());
    assert!(warns(&ran.stderr, "--branches") && warns(&ran.stderr, "--graph-steps"), "{}", ran.stderr);
}

#[test]
fn resuming_refuses_settings_that_would_change_the_results() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--max-steps", "2"]);
    let resume = |more: &[&'static str], words: &[&str]| {
        let mut args = vec!["train", "--resume", out.to_str().expect("UTF-8")];
        args.extend(more);
        fail(1, args, words);
    };
    resume(&["--lr", "0.2"], &["--lr 0.2", "0.1"]);
    resume(&["--model", "mnist-cnn"], &["--model mnist-cnn", "lenet5"]);
    resume(&["--dataset", "mnist"], &["--dataset mnist", "digits"]);
    resume(&["--seed", "1"], &["--seed 1"]);
    resume(&["--no-shuffle"], &["--no-shuffle contradicts", "has --shuffle"]);
    resume(&["--flip"], &["--flip contradicts", "has --no-flip"]);
    // Flags that switch off what the run does not use change nothing.
    let name = out.to_str().expect("UTF-8");
    succeed(["train", "--resume", name, "--no-cutout", "--no-momentum", "--no-flip", "--max-steps", "3", "--quiet"]);
    resume(&["--ema", "0.5"], &["--ema 0.5 contradicts", "does not use it"]);
    fs::write(out.join("checkpoint.safetensors"), b"junk").expect("write");
    resume(&[], &["checkpoint.safetensors", "is plain text", "--init"]);
    fs::write(out.join("config.toml"), b"junk").expect("write");
    resume(&[], &["config.toml", "damaged"]);
    fail(1, ["train", "--resume", "no/such/folder"], &["--resume no/such/folder"]);
    fail(2, ["train", "--resume", "a", "--init", "b"], &["--init"]);
}

#[test]
fn a_run_without_a_checkpoint_cannot_be_resumed() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--max-steps", "1", "--quiet"]);
    fs::remove_file(out.join("checkpoint.safetensors")).expect("removed");
    let init = format!("--init {}", out.join("model.safetensors").display());
    let resume = ["train", "--resume", out.to_str().expect("UTF-8")];
    fail(1, resume, &["the run has no checkpoint.safetensors", "cannot be resumed", &init]);
    let message = fail(1, short_run(&out, &["--max-steps", "1"]), &["--out", "choose another folder"]);
    assert!(!message.contains("--resume"), "{message}");
}

#[test]
fn resuming_refuses_other_data_of_the_same_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = |name: &str, first: u8| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.join("mnist")).expect("a folder");
        let idx = |kind: u8, sizes: &[u32], bytes: &[u8]| {
            let sizes: Vec<u8> = sizes.iter().flat_map(|size| size.to_be_bytes()).collect();
            [&[0, 0, 8, kind][..], &sizes, bytes].concat()
        };
        let mut images = vec![7; 20 * 28 * 28];
        images[0] = first;
        for part in ["train", "t10k"] {
            let write = |kind: &str, bytes: Vec<u8>| fs::write(path.join(format!("mnist/{part}-{kind}-ubyte")), bytes);
            write("images-idx3", idx(3, &[20, 28, 28], &images)).expect("write");
            write("labels-idx1", idx(1, &[20], &[1; 20])).expect("write");
        }
        path.to_str().expect("UTF-8").to_string()
    };
    let (ours, other) = (data("ours", 1), data("other", 2));
    let out = folder.path().join("run");
    let name = out.to_str().expect("UTF-8");
    let start = ["train", "--model", "lenet5", "--device", "cpu", "--batch-size", "4", "--quiet", "--out", name];
    succeed([&start[..], &["--data", &ours, "--max-steps", "2"]].concat());
    fail(1, ["train", "--resume", name, "--data", &other], &["fingerprint"]);
    // The run's data folder takes precedence over the environment's.
    let mut command = crate::support::program::command(["train", "--resume", name, "--quiet", "--max-steps", "3"]);
    assert!(command.env("CNN_CUDA_DATA", &other).status().expect("it runs").success());
}

#[test]
fn a_run_can_start_from_the_weights_of_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    train(&first, &["--max-steps", "60", "--quiet"]);
    let weights = first.join("model.safetensors");
    let more = ["--max-steps", "1", "--log-steps", "--quiet", "--init", weights.to_str().expect("UTF-8")];
    train(&second, &more);
    let metrics = fs::read_to_string(second.join("metrics.jsonl")).expect("read");
    let record: Value = serde_json::from_str(metrics.lines().next().expect("a line")).expect("JSON");
    // Fresh weights have an accuracy of about 0.1.
    assert!(record["accuracy"].as_f64().expect("accuracy") > 0.3, "{record}");
}

#[test]
#[ignore = "long; CI runs it"]
fn a_target_ends_a_run_and_is_reported_with_its_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let settings = ["--schedule", "one-cycle", "--epochs", "3", "--batch-size", "128", "--lr", "0.2"];
    let ran = train(&out, &[&settings[..], &["--target-accuracy", "0.12", "--quiet"]].concat());
    assert!(
        ran.stderr.contains("reached --target-accuracy") && ran.stderr.contains(" s of training"),
        "{}",
        ran.stderr
    );
    let epochs = || fs::read_to_string(out.join("metrics.jsonl")).expect("read").lines().count();
    let first = epochs();
    assert!((1..3).contains(&first), "{first} epochs");
    let name = out.to_str().expect("UTF-8");
    let ran = succeed(["train", "--resume", name]);
    assert!(ran.stderr.contains("nothing left to do") && epochs() == first, "{}", ran.stderr);
    // The learning rates depend on the number of epochs, so it must not change.
    fail(1, ["train", "--resume", name, "--epochs", "9"], &["--epochs 9", "contradicts"]);
    fail(1, ["train", "--resume", name, "--schedule", "cosine"], &["--schedule cosine", "one-cycle:0.3"]);
    succeed(["train", "--resume", name, "--target-accuracy", "0.9999", "--quiet"]);
    assert_eq!(epochs(), 3);
}
