//! Fuzzes the reader of checkpoints.
#![no_main]

use cnn_cuda::checkpoint::{RunIdentity, inspect_checkpoint, load_state};
use cnn_cuda_fuzz::{network, with_file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    with_file("checkpoint.safetensors", data, |path| {
        let _ = load_state(path, network(), &RunIdentity::default());
        let _ = inspect_checkpoint(path);
    });
});
