//! The program at the limits that `ulimit` sets: memory, file sizes and threads. Whatever the limit, it ends with exit code
//! 0, or 1 and a sentence.
#![cfg(target_os = "linux")]

use std::fs;
use std::process::Command;

use crate::support::program::{Ran, binary};

/// Runs `ulimit LIMIT`, then the program with these arguments.
fn limited(limit: &str, args: &[&str]) -> Ran {
    let script = format!("ulimit {limit} && exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(binary()).args(args).env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
    command.output().expect("a shell").into()
}

fn ends_in_order(ran: &Ran, limit: &str) {
    // The standard library panics if there is no memory for the signal stack of a new thread, which no program can prevent.
    if ran.stderr.contains("stack_overflow.rs") {
        return;
    }
    assert!(!ran.stderr.contains("panicked"), "ulimit {limit}: {}", ran.stderr);
    match ran.code {
        Some(0) => {}
        Some(1) => assert!(ran.stderr.contains("error: "), "ulimit {limit}: {}", ran.stderr),
        code => panic!("ulimit {limit}: {code:?} {}", ran.stderr),
    }
}

const TRAIN: [&str; 16] = [
    "train",
    "--model",
    "mnist-cnn",
    "--dataset",
    "digits",
    "--max-steps",
    "1",
    "--batch-size",
    "8",
    "--eval-batch-size",
    "100",
    "--device",
    "cpu",
    "--threads",
    "2",
    "--quiet",
];

#[test]
#[ignore = "long; CI runs it"]
fn little_memory_is_an_error_with_a_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    // With less, the kernel or the loader cannot map the program itself.
    let starts = |mb: &usize| limited(&format!("-v {mb}000"), &["--version"]).code == Some(0);
    let least = (1..1000).find(starts).expect("the program starts in 1 GB");
    let (mut failed, mut succeeded) = (0, 0);
    for kilobytes in [0, 1, 3, 6, 10, 15, 19, 50, 116, 128, 152, 272, 4000].map(|mb| (least + mb) * 1000) {
        let out = folder.path().join(kilobytes.to_string());
        let limit = format!("-v {kilobytes}");
        let ran = limited(&limit, &[&TRAIN[..], &["--out", out.to_str().expect("UTF-8")]].concat());
        ends_in_order(&ran, &limit);
        failed += usize::from(ran.code == Some(1));
        succeeded += usize::from(ran.code == Some(0));
    }
    // How much memory is needed depends on the machine's libraries.
    assert!(failed >= 2 && succeeded >= 1, "{failed} failed, {succeeded} succeeded");
}

/// A write beyond the limit fails, as it does on a full disk.
#[test]
fn a_limit_of_file_sizes_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let ran = limited("-f 100", &[&TRAIN[..], &["--out", out.to_str().expect("UTF-8")]].concat());
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("File too large") && ran.stderr.contains("safetensors"), "{}", ran.stderr);
    let too_large = |entry: fs::DirEntry| entry.metadata().is_ok_and(|it| it.len() > 100 * 512);
    assert!(!fs::read_dir(&out).expect("a folder").flatten().any(too_large));
}

/// More threads than processors can run only wait for each other: 1024 on two processors did not end within a minute.
#[test]
fn many_threads_are_limited() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let args = TRAIN.map(|argument| if argument == "2" { "1024" } else { argument });
    let ran: Ran = Command::new(binary()).args(args).arg("--out").arg(out).output().expect("the program starts").into();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let few = std::thread::available_parallelism().is_ok_and(|processors| processors.get() < 256);
    assert_eq!(ran.stderr.contains("--threads is limited to"), few, "{}", ran.stderr);
}

/// rayon would start a million threads.
#[test]
fn a_mad_number_of_threads_in_the_environment_does_no_harm() {
    let folder = tempfile::tempdir().expect("a folder");
    for threads in ["1000000", "-1"] {
        let out = folder.path().join(format!("with {threads}"));
        let mut command = Command::new(binary());
        command.args(TRAIN).arg("--out").arg(out).env("RAYON_NUM_THREADS", threads);
        let ran: Ran = command.output().expect("the program starts").into();
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
}
