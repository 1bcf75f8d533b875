//! Runs the program as a user would.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The program's path: the one of this build, or `CNN_CUDA_BIN` on a host without cargo.
pub fn binary() -> PathBuf {
    std::env::var_os("CNN_CUDA_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_cnn-cuda")), PathBuf::from)
}

/// A command that runs the program with these arguments, without input and without the user's `RUST_LOG`.
pub fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// Lets a command end at SIGINT. If a script runs the tests in the background, they inherit an ignored SIGINT, which the
/// program would keep.
#[cfg(unix)]
pub fn heeding_interrupts(command: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt;
    // SAFETY: signal() may be called between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::signal(libc::SIGINT, libc::SIG_DFL) {
            libc::SIG_ERR => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        })
    }
}

/// The exit code and output of the program.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs the program to completion.
pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    command(args).output().expect("the program starts").into()
}

/// Runs the program, which must succeed.
pub fn succeed<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    let ran = run(args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran
}

/// Runs the program, which must fail with `code`, without a panic, and with all of `words` on stderr. Returns stderr.
pub fn fail<S: AsRef<OsStr>>(code: i32, args: impl IntoIterator<Item = S>, words: &[&str]) -> String {
    let ran = run(args);
    assert_eq!(ran.code, Some(code), "{}", ran.stderr);
    for word in words {
        assert!(ran.stderr.contains(word), "{word:?} is missing from: {}", ran.stderr);
    }
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    ran.stderr
}
