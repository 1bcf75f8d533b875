//! cuBLAS and cuBLASLt that fail, are not needed, or refuse what they proposed: the program on the emulator.

use super::cuda::{run_with, succeed};
use crate::support::emulator::emulator;

#[test]
fn errors_of_cublas_come_with_their_name_and_a_remedy() {
    let Some(libraries) = emulator() else { return };
    let device = ["bench", "--model", "lenet5", "--steps", "1", "--device", "0"];
    let device = [&device[..], &["--conv-algo", "im2col"]].concat();
    let cases = [
        ("CUDA_EMULATOR_CUBLAS_CREATE", "1", ["CUBLAS_STATUS_NOT_INITIALIZED", "must fit the NVIDIA driver"]),
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

/// Starting cuBLAS takes long: what needs none does not start it.
#[test]
fn cublas_is_started_by_its_first_product() {
    let Some(libraries) = emulator() else { return };
    let args = ["bench", "--model", "lenet5", "--steps", "2", "--device", "0", "--batch-size", "2"];
    let none = [("CUDA_EMULATOR_CUBLAS_CREATE", "1"), ("CUDA_EMULATOR_CUBLASLT_CREATE", "1")];
    let ran = |algorithm| run_with(libraries, &none, &[&args[..], &["--conv-algo", algorithm]].concat());
    succeed(ran("implicit"));
    let auto = succeed(ran("auto"));
    assert!(auto.stderr.contains("fails by im2col and is computed otherwise"), "{}", auto.stderr);
    assert_eq!(ran("im2col").code, Some(1));
}

/// Libraries may propose what they then refuse: a trial leaves it out.
#[test]
fn an_algorithm_that_fails_in_its_trial_is_left_out() {
    let Some(libraries) = emulator() else { return };
    let args =
        ["bench", "--model", "lenet5", "--steps", "1", "--device", "0", "--batch-size", "2", "--algorithms", "--json"];
    let ran = succeed(run_with(libraries, &[("CUDA_EMULATOR_CUBLASLT_PRODUCT", "15")], &args));
    assert!(ran.stderr.contains("fails by cublaslt and is computed otherwise"), "{}", ran.stderr);
    assert!(ran.stdout.contains("linear_forward") && !ran.stdout.contains("cublaslt"), "{}", ran.stdout);
}
