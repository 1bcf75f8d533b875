//! Ctrl-C and SIGTERM save the run; a kill at any moment leaves the last checkpoint.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{numbers, short_run, train, weights};
#[cfg(unix)]
use crate::support::program::heeding_interrupts;
use crate::support::program::{binary, succeed};

/// Starts a run of many epochs.
#[cfg(unix)]
fn start(out: &std::path::Path, more: &[&str]) -> Child {
    start_program(&short_run(out, &[&["--epochs", "200", "--log-steps"], more].concat()))
}

#[cfg(unix)]
fn start_program(args: &[&str]) -> Child {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    heeding_interrupts(&mut command).spawn().expect("it starts")
}

/// Polls until `ready`, for up to a minute.
#[cfg(unix)]
fn wait_until(pause: Duration, ready: impl Fn() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(60), "the run never became ready");
        std::thread::sleep(pause);
    }
}

/// Starts a long run, waits until `ready`, sends it a signal, and returns its exit code and stderr.
#[cfg(unix)]
fn interrupt(out: &std::path::Path, signal: &str, ready: impl Fn() -> bool) -> (Option<i32>, String) {
    let child = start(out, &[]);
    wait_until(Duration::from_millis(20), ready);
    std::thread::sleep(Duration::from_millis(100));
    send(signal, &child);
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The file names in a folder.
fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Sends a signal to a process.
#[cfg(unix)]
fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill").success());
}

/// The number of steps that a checkpoint records as done.
fn steps_done(run: &std::path::Path) -> usize {
    let bytes = fs::read(run.join("checkpoint.safetensors")).expect("read");
    let text = String::from_utf8_lossy(&bytes);
    let (_, after) = text.split_once("total_steps\\\":").expect("a checkpoint has its position");
    after.split(',').next().and_then(|number| number.parse().ok()).expect("a number")
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_is_saved_and_resumes_bit_identically() {
    let folder = tempfile::tempdir().expect("a folder");
    for signal in ["-INT", "-TERM"] {
        let out = folder.path().join(format!("run{signal}"));
        let metrics = out.join("metrics.jsonl");
        let (code, stderr) = interrupt(&out, signal, || out.join("checkpoint.safetensors").exists());
        assert_eq!(code, Some(130), "{stderr}");
        assert!(stderr.contains("finishing the step and saving; press Ctrl-C again"), "{stderr}");
        let folder_name = out.display().to_string();
        assert!(stderr.contains(&format!("cnn-cuda train --resume {folder_name}")), "{stderr}");
        let done = fs::read_to_string(&metrics).expect("read").matches("\"kind\":\"step\"").count().to_string();
        let stop = (done.parse::<u64>().expect("a number") + 3).to_string();
        succeed(["train", "--resume", &folder_name, "--max-steps", &stop, "--quiet"]);
        let whole = folder.path().join(format!("whole{signal}"));
        train(&whole, &["--max-steps", &stop, "--quiet"]);
        assert!(weights(&out) == weights(&whole), "resumed after {done} steps, the weights differ");
    }
}

#[cfg(unix)]
#[test]
#[ignore = "long; CI runs it"]
fn a_killed_run_resumes_from_its_last_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let checkpoint = out.join("checkpoint.safetensors");
    interrupt(&out, "-KILL", || checkpoint.exists());
    let (name, stop) = (out.to_str().expect("UTF-8"), ["--max-steps", "330", "--quiet"]);
    succeed([&["train", "--resume", name][..], &stop].concat());
    let whole = folder.path().join("whole");
    train(&whole, &stop);
    assert!(weights(&out) == weights(&whole), "the weights differ");
    assert!(!names(&out).iter().any(|name| name.starts_with('.')), "{:?}", names(&out));
}

#[cfg(unix)]
#[test]
fn a_second_process_cannot_resume_or_overwrite_a_running_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let name = out.to_str().expect("UTF-8").to_string();
    let checkpoint = out.join("checkpoint.safetensors");
    let both = || {
        if !checkpoint.exists() {
            return false;
        }
        crate::support::program::fail(1, ["train", "--resume", &name], &["another process", &name]);
        crate::support::program::fail(1, short_run(&out, &["--max-steps", "1"]), &["another process", &name]);
        true
    };
    interrupt(&out, "-TERM", both);
}

/// `nohup` starts a program with SIGHUP ignored, which must stay ignored.
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

/// Exit code 130 means that the run was saved; without a save it is another.
#[cfg(unix)]
#[test]
fn a_second_signal_ends_a_run_without_a_save() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut unsaved = 0;
    for number in 0..3 {
        let out = folder.path().join(number.to_string());
        // A step takes long enough for three signals.
        let mut args = short_run(&out, &["--batch-size", "2000", "--threads", "1"]);
        args[4] = "mnist-cnn";
        let child = start_program(&args);
        wait_until(Duration::from_millis(20), || out.join("model.safetensors").exists());
        std::thread::sleep(Duration::from_millis(100));
        send("-INT", &child);
        std::thread::sleep(Duration::from_millis(1100));
        send("-TERM", &child);
        let output = child.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(3) => {
                assert!(stderr.contains("the steps since the last save are lost"), "{stderr}");
                unsaved += 1;
            }
            // The step ended between the signals.
            Some(130) => assert!(stderr.contains("interrupted after"), "{stderr}"),
            code => panic!("{code:?}: {stderr}"),
        }
        assert!(!names(&out).iter().any(|name| name.starts_with('.')), "{:?}", names(&out));
        succeed(["verify", out.to_str().expect("UTF-8")]);
    }
    assert!(unsaved > 0, "every step ended between the signals");
}

/// `timeout` sends its signal to the process and to its group.
#[cfg(unix)]
#[test]
fn a_signal_that_is_sent_twice_is_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let mut args = short_run(&out, &["--batch-size", "2000", "--threads", "1"]);
    args[4] = "mnist-cnn";
    let child = start_program(&args);
    wait_until(Duration::from_millis(20), || out.join("model.safetensors").exists());
    send("-TERM", &child);
    std::thread::sleep(Duration::from_millis(50));
    send("-TERM", &child);
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
}

/// Before there is anything to save, a signal ends the process at once.
#[cfg(unix)]
#[test]
fn a_signal_before_the_run_ends_the_process_without_claiming_a_save() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    // A mirror that never answers.
    let mirror = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}/", mirror.local_addr().expect("an address"));
    let data = folder.path().join("data");
    let args = ["train", "--data", data.to_str().expect("UTF-8"), "--out", out.to_str().expect("UTF-8")];
    let child = crate::support::program::command(args)
        .env("CNN_CUDA_MNIST_MIRROR", address)
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let _connection = mirror.accept().expect("a connection");
    send("-TERM", &child);
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("nothing was saved") && !out.exists(), "{stderr}");
}

/// An epoch is saved before it is evaluated, so that a kill during a long evaluation does not lose it.
#[cfg(unix)]
#[test]
fn a_kill_during_the_evaluation_keeps_the_epoch() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let name = out.to_str().expect("UTF-8");
    let settings = ["--batch-size", "1000", "--eval-batch-size", "1"];
    let mut child = start(&out, &settings);
    let is_pending = || {
        let bytes = fs::read(out.join("checkpoint.safetensors")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains("evaluation_pending\\\":true")
    };
    wait_until(Duration::from_millis(1), is_pending);
    child.kill().expect("a signal");
    child.wait().expect("it ends");
    assert!(is_pending(), "the evaluation was over");
    let done = steps_done(&out);
    assert_eq!(numbers(&out).len(), done, "there is a record of the evaluation");
    succeed(["verify", name]);
    succeed(["train", "--resume", name, "--max-steps", &done.to_string(), "--quiet"]);
    let whole = folder.path().join("whole");
    train(&whole, &[&settings[..], &["--log-steps", "--max-steps", &done.to_string(), "--quiet"]].concat());
    assert_eq!(numbers(&out), numbers(&whole));
    assert!(weights(&out) == weights(&whole), "the weights differ");
}

#[cfg(unix)]
#[test]
fn a_kill_keeps_what_was_saved_within_an_epoch() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let name = out.to_str().expect("UTF-8");
    let mut child = start(&out, &["--save-every", "3"]);
    wait_until(Duration::from_millis(5), || out.join("model.safetensors").exists() && steps_done(&out) > 0);
    child.kill().expect("a signal");
    child.wait().expect("it ends");
    let done = steps_done(&out);
    assert!(done.is_multiple_of(3) && done < 313, "{done} steps");
    let stop = (done + 2).to_string();
    succeed(["train", "--resume", name, "--max-steps", &stop, "--quiet"]);
    let whole = folder.path().join("whole");
    train(&whole, &["--log-steps", "--max-steps", &stop, "--quiet"]);
    assert!(weights(&out) == weights(&whole), "the weights differ");
    assert_eq!(numbers(&out), numbers(&whole));
}
