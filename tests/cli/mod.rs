//! The program as users see it: commands, files, errors, exit codes, signals.

mod bench;
mod best;
mod bf16;
mod class_weights;
mod crops;
mod cublas;
mod cuda;
mod cuda_mnist;
mod cuda_tiles;
mod cudnn;
#[cfg(unix)]
mod dashboard;
mod datasets;
mod dependent;
mod errors;
mod explain;
mod explain_browser;
mod finetuning;
mod limits;
mod lr_find;
mod neocognitron;
mod optimisers;
mod pictures;
mod recipes;
mod report;
mod report_browser;
mod resume;
mod runs;
mod signals;
mod superpixels;
mod tools;
mod transforms;
mod variations;
mod views;
mod weights;

use std::path::Path;

use serde_json::Value;

use crate::support::program::{Ran, succeed};

/// The arguments of a short run on the embedded digits, without a report.
pub fn short_run<'a>(out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let out = out.to_str().expect("a UTF-8 path");
    let mut args = vec!["train", "--dataset", "digits", "--model", "lenet5", "--device", "cpu", "--out", out];
    args.push("--no-report");
    args.extend(more);
    args
}

/// Trains on the embedded digits and returns the program's output.
pub fn train(out: &Path, more: &[&str]) -> Ran {
    succeed(short_run(out, more))
}

/// The records of a run's metrics.jsonl, without the times.
pub fn numbers(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("read");
    let mut records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for record in &mut records {
        for timing in ["seconds", "images_per_second"] {
            record.as_object_mut().expect("an object").remove(timing);
        }
    }
    records
}

/// The bytes of a run's weights.
pub fn weights(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("model.safetensors")).expect("read")
}
