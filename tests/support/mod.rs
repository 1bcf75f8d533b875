//! Helpers that tests share: skipped tests, the program, the CUDA emulator, PyTorch's initial weights.

pub mod browser;
pub mod cuda;
pub mod program;
#[cfg(unix)]
pub mod pty;
pub mod screenshot;
pub mod server;
pub mod stored_zip;
pub mod tiny;
pub mod torch_rng;

pub mod emulator;
mod emulator_build;
#[path = "../../src/cuda/driver/sources.rs"]
#[expect(dead_code, reason = "the options are for NVRTC")]
pub mod sources;

use std::io::Write;

/// What a test needs and a user's machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Mnist,
    Cifar10,
    CppCompiler,
    Python,
    Browser,
    Nvrtc,
    Cudnn,
    Gpu,
    /// The absence of a CUDA toolkit.
    NoToolkit,
}

/// Reports on stderr, which the test harness does not capture here, that the running test is skipped. If
/// `CNN_CUDA_NO_SKIP` is set, as in CI, the test fails instead unless it needs a GPU.
pub fn skip(need: Need, why: &str) {
    let must_not_skip = std::env::var_os("CNN_CUDA_NO_SKIP").is_some() && need != Need::Gpu;
    assert!(!must_not_skip, "CNN_CUDA_NO_SKIP is set, but this test lacks something: {why}");
    let name = std::thread::current().name().unwrap_or("a test").to_string();
    // The harness captures eprintln!, but a skipped test must be visible.
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {why}");
}
