//! A file that is not what was written is refused: every flipped bit, and headers that no run can have.

use std::fs;
use std::path::Path;

use cnn_cuda::checkpoint::{
    RunIdentity, inspect_checkpoint, inspect_weights, load_state, load_weights, save_described_weights, save_state,
    save_weights, weights_description,
};
use cnn_cuda::network::Network;
use cnn_cuda::train::TrainState;

use super::{identity, network, state};
use crate::support::tiny::tiny;

/// The state of an untrained tiny network.
fn tiny_state(network: &Network) -> TrainState {
    let weights = network.initial_weights(3);
    let parameters = weights.parameters;
    TrainState {
        momentum: parameters.clone(),
        average: Vec::new(),
        parameters,
        statistics: weights.statistics,
        ..state(false)
    }
}

/// Flips bits of the file, one at a time, and expects that `is_refused` is true of each.
fn flip(path: &Path, step: usize, is_refused: impl Fn() -> bool) {
    let whole = fs::read(path).expect("read");
    assert!(!is_refused(), "the unchanged file is refused");
    for bit in (0..8 * whole.len()).step_by(step) {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(path, &bytes).expect("write");
        assert!(is_refused(), "bit {} of byte {} of {} was flipped unnoticed", bit % 8, bit / 8, whole.len());
    }
}

#[test]
fn a_flipped_bit_in_a_checkpoint_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.safetensors");
    let (network, run) = (tiny(), identity());
    save_state(&path, &network, &run, &tiny_state(&network)).expect("saved");
    flip(&path, 3, || load_state(&path, &network, &run).is_err() && inspect_checkpoint(&path).is_err());
}

#[test]
fn a_flipped_bit_in_weights_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let (network, weights) = (tiny(), tiny().initial_weights(3));
    save_described_weights(&path, &network, &weights.parameters, &weights.statistics, "{}", Some(2)).expect("saved");
    assert_eq!(weights_description(&path).expect("a description").as_deref(), Some("{}"));
    flip(&path, 3, || load_weights(&path, &network).is_err() && inspect_weights(&path, None).is_err());
}

#[test]
fn the_same_content_gives_the_same_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let (network, weights) = (tiny(), tiny().initial_weights(3));
    let files: Vec<Vec<u8>> = (0..8)
        .map(|_| {
            save_described_weights(&path, &network, &weights.parameters, &weights.statistics, "{}", Some(2))
                .expect("saved");
            fs::read(&path).expect("read")
        })
        .collect();
    assert!(files.iter().all(|file| *file == files[0]));
}

#[test]
fn impossible_headers_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.safetensors");
    let refused = |state: &TrainState, words: &str| {
        save_state(&path, &network(), &identity(), state).expect("saved");
        let error = load_state(&path, &network(), &identity()).expect_err("the header is impossible");
        let message = format!("{error:#}");
        assert!(message.contains("header is damaged") && message.contains(words), "{message}");
    };
    let good = state(true);
    let mut bad = good.clone();
    bad.metrics.samples = 129; // four steps of 32
    refused(&bad, "number of images");
    bad = good.clone();
    bad.metrics.correct = 129;
    refused(&bad, "correct images");
    bad = good.clone();
    bad.metrics.loss_sum = f64::NAN;
    refused(&bad, "sum of losses");
    bad = good.clone();
    bad.position.step_in_epoch = 15;
    refused(&bad, "number of steps");
    bad = good.clone();
    bad.best.as_mut().expect("a best epoch").test_accuracy = 1.5;
    refused(&bad, "best test accuracy");
    bad = good.clone();
    bad.best.as_mut().expect("a best epoch").epoch = 3;
    refused(&bad, "best epoch");
    bad = good.clone();
    bad.loss_scale.as_mut().expect("a loss scale").scale = -1.0;
    refused(&bad, "loss scale");
    bad = good;
    bad.epoch_seconds = -1.0;
    refused(&bad, "time");
}

#[test]
fn a_checkpoint_is_not_taken_for_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.safetensors");
    save_state(&path, &network(), &RunIdentity::default(), &state(false)).expect("saved");
    let errors = [
        load_weights(&path, &network()).expect_err("it is a checkpoint"),
        weights_description(&path).expect_err("it is a checkpoint"),
    ];
    for error in errors.map(|error| format!("{error:#}")) {
        assert!(error.contains("checkpoint of a run") && error.contains("model.safetensors"), "{error}");
    }
    let weights = folder.path().join("model.safetensors");
    let state = state(false);
    save_weights(&weights, &network(), &state.parameters, &state.statistics).expect("saved");
    let compared = |checkpoint| inspect_weights(&weights, checkpoint).expect("weights").are_of_checkpoint;
    assert_eq!((compared(Some(path.as_path())), compared(None)), (Some(true), None));
    assert!(inspect_weights(&weights, Some(&weights.with_extension("none"))).is_err());
    save_weights(&weights, &network(), &network().initial_parameters(9), &state.statistics).expect("saved");
    assert_eq!(inspect_weights(&weights, Some(&path)).expect("weights").are_of_checkpoint, Some(false));
}
