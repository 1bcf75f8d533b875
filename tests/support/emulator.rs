//! Runs tests on the CUDA emulator.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::emulator_build::{build, compiler};
use super::{Need, skip};

/// The setting of `on_emulator` that checks kernels for data races. In the environment, it applies to all tests.
pub const RACES: (&str, &str) = ("CUDA_EMULATOR_RACES", "1");

/// The folder of the emulator's libraries, to go first on a child process's `LD_LIBRARY_PATH`; built on first use.
/// Without a C++ compiler, reports that the test is skipped and returns None.
pub fn emulator() -> Option<&'static Path> {
    emulator_for(std::env::var(RACES.0).is_ok_and(|value| value == RACES.1))
}

/// Like [`emulator`], with or without checks for data races.
pub fn emulator_for(races: bool) -> Option<&'static Path> {
    // A failure is stored too, so that no other test repeats the build.
    static BUILT: [OnceLock<Option<Result<PathBuf, ()>>>; 2] = [OnceLock::new(), OnceLock::new()];
    let attempt = |compiler: String| std::panic::catch_unwind(|| build(&compiler, races)).map_err(drop);
    let built = BUILT[usize::from(races)].get_or_init(|| compiler().map(attempt));
    if built.is_none() {
        skip(Need::CppCompiler, "no C++ compiler ($CXX, g++, clang++ or c++), so the CUDA emulator cannot be built");
    }
    let folder = |built: &'static Result<PathBuf, ()>| {
        built.as_deref().expect("the CUDA emulator cannot be built; the first test that needed it shows why")
    };
    built.as_ref().map(folder)
}

/// Runs `body`, a closure written in a test function, in a child process whose CUDA libraries are the emulator, with
/// `settings` in its environment. Returns the child's stderr, or None in the child itself or if the test is skipped.
///
/// # Panics
/// If the test fails in the child process.
pub fn on_emulator<F: FnOnce()>(settings: &[(&str, &str)], body: F) -> Option<String> {
    if std::env::var_os("CNN_CUDA_TEST_ON_EMULATOR").is_some() {
        body();
        return None;
    }
    let libraries = if settings.contains(&RACES) { emulator_for(true)? } else { emulator()? };
    // The closure's type, "all::module::test::{{closure}}", names the test however the harness names its threads.
    let name = std::any::type_name::<F>();
    let name = name.split_once("::").map_or(name, |(_, path)| path).trim_end_matches("::{{closure}}");
    let output = Command::new(std::env::current_exe().expect("the test binary has a path"))
        .args([name, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .env("LD_LIBRARY_PATH", library_path(libraries))
        .env("CNN_CUDA_TEST_ON_EMULATOR", "1")
        .envs(installed(libraries))
        .envs(settings.iter().copied())
        .output()
        .expect("the test binary can be run again");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let passed = output.status.success() && stdout.contains("1 passed");
    assert!(passed, "{name} on the emulator: {}\n{stdout}\n{stderr}", output.status);
    Some(stderr)
}

/// Settings by which the program uses the emulator's libraries instead of those installed on the machine.
pub fn installed(folder: &Path) -> [(&'static str, PathBuf); 2] {
    let folder = std::path::absolute(folder).expect("the working directory is readable");
    [("CNN_CUDA_NVRTC", folder.join("libnvrtc.so.13")), ("CNN_CUDA_CUDNN", folder.join("libcudnn.so.9"))]
}

/// `LD_LIBRARY_PATH` with `folder` in front.
pub fn library_path(folder: &Path) -> std::ffi::OsString {
    let absolute = std::path::absolute(folder).expect("the working directory is readable");
    let mut path = absolute.into_os_string();
    if let Some(rest) = std::env::var_os("LD_LIBRARY_PATH").filter(|rest| !rest.is_empty()) {
        path.push(":");
        path.push(rest);
    }
    path
}
