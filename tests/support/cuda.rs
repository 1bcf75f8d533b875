//! Runs device tests on the machine's GPU, if it has one, and on the emulator.

use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::ops::Algorithm;

use super::emulator::on_emulator;
use super::{Need, skip};

/// Whether this machine has a usable GPU (not the emulator).
pub fn has_gpu() -> bool {
    !on_the_emulator() && cnn_cuda::cuda::devices().is_ok()
}

/// Whether this machine has cuDNN, as the emulator does; otherwise reports that the test is skipped.
pub fn has_cudnn() -> bool {
    let opened = Cuda::new(Options { algorithm: Some(Algorithm::Cudnn), ..Options::default() });
    let is_missing = opened.is_err_and(|error| format!("{error:#}").contains("cuDNN was not found"));
    if is_missing {
        skip(Need::Cudnn, "cuDNN is not installed");
    }
    !is_missing
}

/// Whether this process is the child process of a test, which runs on the emulator.
pub fn on_the_emulator() -> bool {
    std::env::var_os("CNN_CUDA_TEST_ON_EMULATOR").is_some()
}

/// Runs `body`, a closure written in a test function, on the machine's GPU, if it has one, and in a child process on
/// the emulator. If `CNN_CUDA_NEED_GPU` is set, it runs on the GPU only, and the test fails without one.
pub fn on_cuda<F: Fn()>(body: F) {
    on_cuda_with(&[], body);
}

/// Like [`on_cuda`], with `settings` in the environment of the emulator's process.
pub fn on_cuda_with<F: Fn()>(settings: &[(&str, &str)], body: F) {
    if std::env::var_os("CNN_CUDA_NEED_GPU").is_some() {
        if let Err(error) = cnn_cuda::cuda::devices() {
            panic!("CNN_CUDA_NEED_GPU is set, but there is no usable device: {error:#}");
        }
        return body();
    }
    if has_gpu() {
        body();
    }
    on_emulator(settings, body);
}

#[test]
fn reports_if_no_gpu_was_tested() {
    if !has_gpu() {
        skip(Need::Gpu, "no CUDA device: device tests ran only on the emulator");
    }
}
