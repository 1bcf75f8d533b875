//! `--graph-steps`: files are the same for any number, and what was chosen or refused is told.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::cuda::{run_with, succeed, train};
use super::cuda_mnist::small_set;
use crate::support::emulator::emulator;
use crate::support::program::fail;

/// The records of `metrics.jsonl`, without what a clock told.
fn records(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).expect("read");
    let record = |line: &str| {
        let mut record: Value = serde_json::from_str(line).expect("JSON");
        let fields = record.as_object_mut().expect("a record");
        fields.retain(|name, _| !["seconds", "images_per_second"].contains(&name.as_str()));
        record
    };
    text.lines().map(record).collect()
}

fn config(folder: &Path) -> toml::Table {
    toml::from_str(&fs::read_to_string(folder.join("config.toml")).expect("read")).expect("TOML")
}

#[test]
fn a_runs_files_are_the_same_for_any_number_of_steps() {
    let Some(libraries) = emulator() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let data = small_set(folder.path());
    // Epochs of 37 steps, the last one on a partial batch.
    let set = ["--data", &data, "--model", "lenet5", "--device", "0", "--batch-size", "7", "--max-steps", "42"];
    let refusing = [("CUDA_EMULATOR_GRAPH_NODES", "100")];
    let run = |name: &str, settings: &[(&str, &str)], steps: &str| {
        let out = folder.path().join(name);
        let ran = succeed(run_with(libraries, settings, &train(&out, &[&set[..], &["--graph-steps", steps]].concat())));
        (fs::read(out.join("model.safetensors")).expect("read"), records(&out), config(&out), ran.stderr)
    };
    let (weights, metrics, written, _) = run("one", &[], "1");
    assert_eq!((metrics.len(), written["graph-steps"].as_integer()), (44, Some(1)));
    let runs = [run("six", &[], "6"), run("auto", &[], "auto"), run("refused", &refusing, "6")];
    for (other, metrics_of_it, _, said) in &runs {
        assert!(*other == weights && *metrics_of_it == metrics, "{said}");
        assert_eq!(said.contains("cannot be one graph"), said.contains("CUDA_ERROR_OUT_OF_MEMORY"), "{said}");
    }
    let told = runs.each_ref().map(|(.., said)| said.contains("cannot be one graph"));
    assert_eq!(told, [false, false, true]);
    let written = runs.each_ref().map(|(.., config, _)| config["graph-steps"].to_string());
    assert_eq!(written, ["6", "\"auto\"", "6"]);
    // A run may go on with another number.
    let out = folder.path().join("six");
    let args = ["train", "--resume", out.to_str().expect("plain"), "--max-steps", "60", "--graph-steps", "4"];
    succeed(run_with(libraries, &[], &args));
    assert_eq!(config(&out)["graph-steps"].as_integer(), Some(4));
}

#[test]
fn bench_times_the_steps_that_training_takes_at_once() {
    let Some(libraries) = emulator() else { return };
    let bench = |settings: &[(&str, &str)], more: &[&str]| {
        let args = ["bench", "--model", "lenet5", "--device", "0", "--batch-size", "1", "--steps", "1"];
        let ways = ["--conv-algo", "direct", "--branches", "off"];
        succeed(run_with(libraries, settings, &[&args[..], &ways, more].concat())).stdout
    };
    let costly = [("CUDA_EMULATOR_GRAPH_LAUNCH_NS", "3000")];
    let graph_steps = |settings: &[(&str, &str)], steps: &str| {
        let result = bench(settings, &["--graph-steps", steps, "--json"]);
        let result: Value = serde_json::from_str(&result).expect("JSON");
        (result["graph_steps"].as_u64(), result["graph_nodes"].as_u64())
    };
    let (one, nodes) = graph_steps(&[], "1");
    assert_eq!(one, Some(1));
    assert_eq!(graph_steps(&[], "20"), (Some(20), nodes));
    assert_eq!(graph_steps(&[], "auto"), (Some(1), nodes));
    assert_eq!(graph_steps(&costly, "auto"), (Some(16), nodes));
    let text = bench(&[], &["--graph-steps", "3"]);
    assert!(text.contains("3 steps in one graph"), "{text}");
}

#[test]
fn what_is_no_number_of_steps_is_refused() {
    for wrong in ["0", "65", "some"] {
        fail(2, ["bench", "--device", "cpu", "--graph-steps", wrong], &["--graph-steps", "`auto`", "1 to 64"]);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = folder.path().join("recipe.toml");
    for wrong in ["0", "65", "'some'", "-1", "true", "1.5"] {
        fs::write(&recipe, format!("graph-steps = {wrong}")).expect("written");
        fail(1, ["train", "--config", recipe.to_str().expect("plain")], &["graph-steps", "1 to 64"]);
    }
}
