//! `cnn-cuda serve`: its answers, its limits, and its page in a browser.

mod answers;
mod browser;
mod computation;
mod limits;
mod run;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use cnn_cuda::checkpoint::save_weights;
use cnn_cuda::models;
use tempfile::TempDir;

use crate::support::program::succeed;

/// A folder that exists until the tests end.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

/// The weights of an untrained network, with the model's own input.
fn untrained(folder: &Path, name: &str) -> PathBuf {
    let model = models::find(name).expect("a model");
    let network = (model.build)(model.input, model.classes).expect("a network");
    let (path, weights) = (folder.join(format!("{name}.safetensors")), network.initial_weights(1));
    save_weights(&path, &network, &weights.parameters, &weights.statistics).expect("a file");
    path
}

/// The folder of a run that trained a network on the built-in digits for one epoch.
static TRAINED: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = FOLDER.path().join("trained");
    let shown = folder.to_string_lossy().into_owned();
    let args =
        "train --model lenet5 --dataset digits --epochs 1 --lr 0.1 --batch-size 32 --device cpu --threads 2 --out";
    succeed(args.split(' ').chain([shown.as_str()]));
    folder
});
