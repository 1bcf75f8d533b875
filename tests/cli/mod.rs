//! The program as a user meets it: commands, files, errors, exit codes, signals.

mod cublas;
mod cuda;
mod cuda_mnist;
mod datasets;
mod errors;
mod graph_steps;
mod recipes;
mod runs;
mod signals;
mod tools;
mod variations;

use std::path::Path;

use crate::support::program::{Ran, succeed};

/// Arguments of a short run on the embedded digits.
pub fn short_run<'a>(out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let out = out.to_str().expect("a plain path");
    let mut args = vec!["train", "--dataset", "digits", "--model", "lenet5", "--device", "cpu", "--out", out];
    args.extend(more);
    args
}

/// Trains a few steps and returns what the program said.
pub fn train(out: &Path, more: &[&str]) -> Ran {
    succeed(short_run(out, more))
}
