//! Runs tests on the CUDA emulator.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::emulator_build::{build, compiler};
use super::{Need, skip};

/// What `on_emulator` takes for kernels whose accesses are checked for data races. In the environment, it makes all tests
/// take them.
pub const RACES: (&str, &str) = ("CUDA_EMULATOR_RACES", "1");

/// The folder of the emulator's libraries, to stand first on a child process's `LD_LIBRARY_PATH`; built on first use.
/// None, after saying that the test is skipped, where there is no C++ compiler.
pub fn emulator() -> Option<&'static Path> {
    emulator_for(std::env::var(RACES.0).is_ok_and(|value| value == RACES.1))
}

/// The same, with kernels that are checked for data races, or without.
pub fn emulator_for(races: bool) -> Option<&'static Path> {
    // A failure is kept too: no other test tries the same again.
    static BUILT: [OnceLock<Option<Result<PathBuf, ()>>>; 2] = [OnceLock::new(), OnceLock::new()];
    let attempt = |compiler: String| std::panic::catch_unwind(|| build(&compiler, races)).map_err(drop);
    let built = BUILT[usize::from(races)].get_or_init(|| compiler().map(attempt));
    if built.is_none() {
        skip(Need::CppCompiler, "no C++ compiler ($CXX, g++, clang++ or c++), so the CUDA emulator cannot be built");
    }
    let folder = |built: &'static Result<PathBuf, ()>| {
        built.as_deref().expect("the CUDA emulator cannot be built; the first test that needed it says why")
    };
    built.as_ref().map(folder)
}

/// Runs `body`, a closure written in a test function, in a child process whose CUDA libraries are the emulator, with
/// `settings` in its environment. Returns the child's stderr; None where the test is skipped, or in the child itself.
///
/// # Panics
/// Where the child's test fails.
pub fn on_emulator<F: FnOnce()>(settings: &[(&str, &str)], body: F) -> Option<String> {
    if std::env::var_os("CNN_CUDA_TEST_ON_EMULATOR").is_some() {
        body();
        return None;
    }
    let libraries = if settings.contains(&RACES) { emulator_for(true)? } else { emulator()? };
    // "all::room::test::{{closure}}": the closure's type names the test, whatever the harness calls its threads.
    let name = std::any::type_name::<F>();
    let name = name.split_once("::").map_or(name, |(_, path)| path).trim_end_matches("::{{closure}}");
    let output = Command::new(std::env::current_exe().expect("the test binary has a path"))
        .args([name, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .env("LD_LIBRARY_PATH", library_path(libraries))
        .env("CNN_CUDA_TEST_ON_EMULATOR", "1")
        .env("CNN_CUDA_NVRTC", nvrtc(libraries))
        .envs(settings.iter().copied())
        .output()
        .expect("the test binary can be run again");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let passed = output.status.success() && stdout.contains("1 passed");
    assert!(passed, "{name} on the emulator: {}\n{stdout}\n{stderr}", output.status);
    Some(stderr)
}

/// The emulator's compiler, to stand in `CNN_CUDA_NVRTC`: a machine's own, in one of the usual places, must not win.
pub fn nvrtc(folder: &Path) -> PathBuf {
    std::path::absolute(folder).expect("the working directory is readable").join("libnvrtc.so.13")
}

/// `folder` before what the loader searches already.
pub fn library_path(folder: &Path) -> std::ffi::OsString {
    let absolute = std::path::absolute(folder).expect("the working directory is readable");
    let mut path = absolute.into_os_string();
    if let Some(rest) = std::env::var_os("LD_LIBRARY_PATH").filter(|rest| !rest.is_empty()) {
        path.push(":");
        path.push(rest);
    }
    path
}
