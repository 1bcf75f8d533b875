//! The program on the emulator if cuBLAS or cuBLASLt fails, is not needed, or refuses an algorithm that it proposed.

use std::fs;

use super::cuda::{run_with, succeed};
use crate::support::emulator::emulator;

#[test]
fn cublas_errors_are_reported_with_their_name_and_a_remedy() {
    let Some(libraries) = emulator() else { return };
    let device = ["bench", "--model", "lenet5", "--steps", "1", "--device", "0"];
    let device = [&device[..], &["--conv-algo", "im2col"]].concat();
    let cases = [
        ("CUDA_EMULATOR_CUBLAS_CREATE", "1", ["CUBLAS_STATUS_NOT_INITIALIZED", "must match the NVIDIA driver"]),
        ("CUDA_EMULATOR_CUBLAS_CREATE", "3", ["CUBLAS_STATUS_ALLOC_FAILED", "--batch-size"]),
        ("CUDA_EMULATOR_CUBLAS_PRODUCT", "8", ["CUBLAS_STATUS_ARCH_MISMATCH", "--precision fp32"]),
        ("CUDA_EMULATOR_CUBLAS_PRODUCT", "13", ["CUBLAS_STATUS_EXECUTION_FAILED", "nvidia-smi"]),
        ("CUDA_EMULATOR_CUBLAS_PRODUCT", "7", ["CUBLAS_STATUS_INVALID_VALUE", "please report it"]),
    ];
    for (variable, status, words) in cases {
        let ran = run_with(libraries, &[(variable, status)], &device);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        words.iter().for_each(|word| assert!(ran.stderr.contains(word), "{word:?} is missing from: {}", ran.stderr));
        let is_product = variable.ends_with("PRODUCT");
        assert!(!is_product || ran.stderr.contains("a matrix product of"), "the operator is missing: {}", ran.stderr);
    }
}

/// Starting cuBLAS is slow, so a run that does not need it does not start it.
#[test]
#[ignore = "long; CI runs it"]
fn cublas_is_started_by_its_first_product() {
    let Some(libraries) = emulator() else { return };
    let args = ["bench", "--model", "lenet5", "--steps", "2", "--device", "0", "--batch-size", "2"];
    let none = [("CUDA_EMULATOR_CUBLAS_CREATE", "1"), ("CUDA_EMULATOR_CUBLASLT_CREATE", "1")];
    let ran = |algorithm| run_with(libraries, &none, &[&args[..], &["--conv-algo", algorithm]].concat());
    succeed(ran("implicit"));
    let auto = succeed(ran("auto"));
    assert!(auto.stderr.contains("im2col failed and is skipped"), "{}", auto.stderr);
    assert_eq!(ran("im2col").code, Some(1));
}

/// A library may propose an algorithm and then refuse it. The trial skips it, and the next run does not try it again.
#[test]
#[ignore = "long; CI runs it"]
fn an_algorithm_that_fails_in_its_trial_is_skipped() {
    let Some(libraries) = emulator() else { return };
    let args =
        ["bench", "--model", "lenet5", "--steps", "1", "--device", "0", "--batch-size", "2", "--algorithms", "--json"];
    let cache = tempfile::tempdir().expect("a folder");
    let cached = ("XDG_CACHE_HOME", cache.path().to_str().expect("UTF-8"));
    let choices = |settings: &[(&str, &str)], warns: bool| {
        let ran = succeed(run_with(libraries, settings, &args));
        assert_eq!(ran.stderr.contains("cublaslt failed and is skipped"), warns, "{}", ran.stderr);
        let result: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert!(ran.stdout.contains("linear_forward") && !ran.stdout.contains("cublaslt"), "{}", ran.stdout);
        result["algorithms"].clone()
    };
    let refused = ("CUDA_EMULATOR_CUBLASLT_PRODUCT", "15");
    let first = choices(&[cached, refused], true);
    assert_eq!(choices(&[cached, refused], false), first);
    // Nor is it tried again if it would work now. A file of an earlier version, which holds only times, is still read.
    assert_eq!(choices(&[cached], false), first);
    let files: Vec<_> = fs::read_dir(cache.path().join("cnn-cuda")).expect("a cache").flatten().collect();
    let cache_file = files.iter().map(fs::DirEntry::path).find(|path| path.to_string_lossy().contains("algorithms-"));
    let cache_file = cache_file.expect("a file");
    let mut file: serde_json::Value = serde_json::from_slice(&fs::read(&cache_file).expect("read")).expect("JSON");
    for times in file["microseconds"].as_object_mut().expect("times").values_mut() {
        times.as_object_mut().expect("times").retain(|_, time| !time.is_null());
    }
    fs::write(&cache_file, file.to_string()).expect("written");
    assert_eq!(choices(&[cached, refused], true), first);
}

/// The products that measure the device's limits are not layers of the network.
#[test]
#[ignore = "long; CI runs it"]
fn a_profile_lists_only_the_choices_of_the_network() {
    let Some(libraries) = emulator() else { return };
    let args = ["bench", "--model", "lenet5", "--steps", "1", "--device", "0", "--batch-size", "2", "--json"];
    let listed = |more: &[&str]| {
        let ran = succeed(run_with(libraries, &[], &[&args[..], &["--algorithms"], more].concat()));
        let result: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
        result["algorithms"]
            .as_array()
            .expect("choices")
            .iter()
            .map(|choice| choice["site"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(&["--profile"]), listed(&[]));
}
