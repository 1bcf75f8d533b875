//! The program with cuDNN on the emulator: if it is missing, too old, without an engine or failing; and runs with it.

use std::fs;
use std::path::Path;

use super::cuda::{run_with, succeed};
use super::cuda_mnist::small_set;
use crate::support::emulator::emulator;
use crate::support::program::Ran;

const BENCH: [&str; 9] = ["bench", "--model", "lenet5", "--steps", "1", "--device", "0", "--batch-size", "1"];

/// A device with few tiles, so that trying all algorithms is quick.
const FEW_TILES: (&str, &str) = ("CUDA_EMULATOR_CC", "7.5");

/// No CUDA toolkit and no Python wheels.
const NO_TOOLKIT: [(&str, &str); 4] =
    [("CUDA_PATH", "/none"), ("CUDA_HOME", "/none"), ("PATH", "/none"), ("HOME", "/dev/null")];

const OLD: (&str, &str) = ("CUDA_EMULATOR_CUDNN_VERSION", "8907");

#[test]
fn an_old_cudnn_is_an_error_if_it_was_asked_for() {
    let Some(libraries) = emulator() else { return };
    let settings = [&NO_TOOLKIT[..], &[OLD]].concat();
    let asked = run_with(libraries, &settings, &[&BENCH[..], &["--conv-algo", "cudnn"]].concat());
    assert_eq!(asked.code, Some(1), "{}", asked.stderr);
    for words in ["cuDNN was not found (libcudnn.so.9)", "CNN_CUDA_CUDNN", "another --conv-algo"] {
        assert!(asked.stderr.contains(words), "{}", asked.stderr);
    }
}

fn bench(libraries: &Path, setting: (&str, &str), algorithm: &str) -> Ran {
    run_with(libraries, &[FEW_TILES, setting], &[&BENCH[..], &["--conv-algo", algorithm]].concat())
}

#[test]
fn a_failing_cudnn_is_named() {
    let Some(libraries) = emulator() else { return };
    let failed = bench(libraries, ("CUDA_EMULATOR_CUDNN_EXECUTE", "5000"), "cudnn");
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    for words in ["forward", "a convolution by cuDNN", "CUDNN_STATUS_EXECUTION_FAILED", "another --conv-algo"] {
        assert!(failed.stderr.contains(words), "{words:?} is missing from: {}", failed.stderr);
    }
}

/// That it has no engine, or is too old, is no failure.
#[test]
#[ignore = "long; CI runs it"]
fn a_failing_cudnn_is_skipped_if_it_was_not_asked_for() {
    let Some(libraries) = emulator() else { return };
    let failing = succeed(bench(libraries, ("CUDA_EMULATOR_CUDNN_EXECUTE", "5000"), "auto"));
    assert!(failing.stderr.contains("cudnn failed and is skipped"), "{}", failing.stderr);
    let without = succeed(bench(libraries, OLD, "auto"));
    assert!(!without.stderr.contains("cudnn"), "{}", without.stderr);
}

/// Memory that another process had taken may be free at the next start.
#[test]
#[ignore = "long; CI runs it"]
fn a_lack_of_memory_is_not_remembered() {
    let Some(libraries) = emulator() else { return };
    let cache = tempfile::tempdir().expect("a folder");
    let cached = [FEW_TILES, ("XDG_CACHE_HOME", cache.path().to_str().expect("UTF-8"))];
    let args = [&BENCH[..], &["--algorithms", "--json"]].concat();
    let lacking = [&cached[..], &[("CUDA_EMULATOR_CUDNN_PLAN", "4004")]].concat();
    let first = succeed(run_with(libraries, &lacking, &args));
    assert!(first.stderr.contains("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), "{}", first.stderr);
    assert!(!first.stdout.contains("\"cudnn\""), "{}", first.stdout);
    assert!(succeed(run_with(libraries, &cached, &args)).stdout.contains("\"cudnn\""));
}

/// Three steps: the first runs its launches directly, the second captures them, the third replays them.
#[test]
fn runs_with_cudnn_are_captured_and_reproducible() {
    let Some(libraries) = emulator() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let data = small_set(folder.path());
    let train = |name: &str| {
        let (out, log) = (folder.path().join(name), folder.path().join(format!("{name}.log")));
        let set = ["train", "--out", out.to_str().expect("UTF-8"), "--data", &data, "--model", "lenet5"];
        let device = ["--device", "0", "--max-steps", "3", "--batch-size", "8", "--conv-algo", "cudnn"];
        let submitted = [("CUDA_EMULATOR_SUBMITTED", log.to_str().expect("UTF-8"))];
        succeed(run_with(libraries, &submitted, &[&set[..], &device, &["--precision", "fp16"]].concat()));
        assert!(fs::read_to_string(&log).expect("the emulator wrote it").contains("cuDNN convolution"));
        let config = fs::read_to_string(out.join("config.toml")).expect("read");
        assert!(config.contains("= \"cudnn\""), "{config}");
        fs::read(out.join("model.safetensors")).expect("weights")
    };
    assert!(train("first") == train("second"), "the weights differ");
}

#[test]
fn the_plan_names_convolutions_by_cudnn_without_a_device() {
    let Some(libraries) = emulator() else { return };
    let ran = succeed(run_with(libraries, &[], &["summary", "--model", "lenet5", "--plan", "--conv-algo", "cudnn"]));
    assert!(ran.stdout.contains("cuDNN convolution"), "{}", ran.stdout);
}
