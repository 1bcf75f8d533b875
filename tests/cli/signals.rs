//! Ctrl-C and SIGTERM save the run; a kill at any moment leaves the last checkpoint.

use std::fs;
#[cfg(unix)]
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{short_run, train};
use crate::support::program::{binary, succeed};

/// Starts a long run, waits until `ready`, sends it a signal, and returns its exit code and stderr.
#[cfg(unix)]
fn interrupt(out: &std::path::Path, signal: &str, ready: impl Fn() -> bool) -> (Option<i32>, String) {
    let args = short_run(out, &["--epochs", "200", "--log-steps"]);
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // Tests that a script runs in the background inherit an ignored SIGINT, which the program would keep.
    // SAFETY: signal() may be called between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::signal(libc::SIGINT, libc::SIG_DFL) {
            libc::SIG_ERR => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let child = command.spawn().expect("it starts");
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(60), "the run never got there");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(100));
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_and_ends_bit_identical_when_resumed() {
    let folder = tempfile::tempdir().expect("a folder");
    for signal in ["-INT", "-TERM"] {
        let out = folder.path().join(format!("run{signal}"));
        let metrics = out.join("metrics.jsonl");
        let (code, stderr) = interrupt(&out, signal, || metrics.exists());
        assert_eq!(code, Some(130), "{stderr}");
        let folder_name = out.display().to_string();
        assert!(stderr.contains(&format!("cnn-cuda train --resume {folder_name}")), "{stderr}");
        let done = fs::read_to_string(&metrics).expect("read").matches("\"kind\":\"step\"").count().to_string();
        let stop = (done.parse::<u64>().expect("a number") + 3).to_string();
        succeed(["train", "--resume", &folder_name, "--max-steps", &stop, "--quiet"]);
        let whole = folder.path().join(format!("whole{signal}"));
        train(&whole, &["--max-steps", &stop, "--quiet"]);
        let weights = |run: &std::path::Path| fs::read(run.join("model.safetensors")).expect("read");
        assert!(weights(&out) == weights(&whole), "resumed after {done} steps, the weights differ");
    }
}

#[cfg(unix)]
#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let checkpoint = out.join("checkpoint.safetensors");
    interrupt(&out, "-KILL", || checkpoint.exists());
    let (name, stop) = (out.to_str().expect("plain"), ["--max-steps", "330", "--quiet"]);
    succeed([&["train", "--resume", name][..], &stop].concat());
    let whole = folder.path().join("whole");
    train(&whole, &stop);
    let weights = |run: &std::path::Path| fs::read(run.join("model.safetensors")).expect("read");
    assert!(weights(&out) == weights(&whole), "the weights differ");
    let hidden = fs::read_dir(&out).expect("list").filter_map(Result::ok);
    assert_eq!(hidden.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).count(), 0);
}

#[cfg(unix)]
#[test]
fn a_second_process_is_kept_out_of_a_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let name = out.to_str().expect("plain").to_string();
    let checkpoint = out.join("checkpoint.safetensors");
    let both = || {
        if !checkpoint.exists() {
            return false;
        }
        crate::support::program::fail(1, ["train", "--resume", &name], &["another process", &name]);
        true
    };
    interrupt(&out, "-TERM", both);
}

/// `nohup` starts a program with SIGHUP ignored, and it must stay so.
#[cfg(unix)]
#[test]
fn an_ignored_signal_stays_ignored() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let script = format!(
        "trap '' HUP; '{}' {} & p=$!; while [ ! -e '{}' ]; do sleep 0.05; done; kill -HUP $p; wait $p",
        binary().display(),
        short_run(&out, &["--max-steps", "40", "--quiet"]).join(" "),
        out.join("checkpoint.safetensors").display()
    );
    let status = Command::new("bash").args(["-c", &script]).status().expect("bash");
    assert_eq!(status.code(), Some(0));
}
