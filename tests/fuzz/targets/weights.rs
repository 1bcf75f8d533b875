//! Fuzzes the reader of files of weights.
#![no_main]

use cnn_cuda::checkpoint::{inspect_weights, load_pretrained, load_weights, weights_description};
use cnn_cuda_fuzz::{network, with_file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    with_file("model.safetensors", data, |path| {
        let _ = load_weights(path, network());
        let _ = load_pretrained(path, network(), 0);
        let _ = weights_description(path);
        let _ = inspect_weights(path, Some(path));
    });
});
