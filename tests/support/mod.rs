//! What the tests share: saying that a test is skipped, and why; PyTorch's initial weights.

pub mod cuda;
pub mod program;
pub mod torch_rng;

pub mod emulator;
mod emulator_build;
#[path = "../../src/cuda/driver/sources.rs"]
#[allow(dead_code, reason = "the options are for NVRTC")]
mod sources;

use std::io::Write;

/// What a test may lack on a user's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Mnist,
    Cifar10,
    CppCompiler,
    Nvrtc,
    Gpu,
    /// That there is no CUDA toolkit.
    NoToolkit,
}

/// Says on stderr, past the test harness's capture, that the running test is skipped. With `CNN_CUDA_NO_SKIP` set
/// (CI), lacking anything but a GPU fails the test instead.
pub fn skip(need: Need, why: &str) {
    let must_not_skip = std::env::var_os("CNN_CUDA_NO_SKIP").is_some() && need != Need::Gpu;
    assert!(!must_not_skip, "CNN_CUDA_NO_SKIP is set, but this test lacks something: {why}");
    let name = std::thread::current().name().unwrap_or("a test").to_string();
    // Not eprintln!: the harness would swallow it, and a skipped test must be seen.
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {why}");
}
