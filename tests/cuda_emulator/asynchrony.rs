//! The emulator reports faults in asynchronous copies, loads of matrices and products of warpgroups.

use cudarc::driver::sys::CUresult::{self, *};
use cudarc::driver::{CudaSlice, LaunchConfig};

use super::device::{Device, launch_planted};
use crate::support::emulator::{RACES, on_emulator};

/// The number of a fault in the planted kernel, the error, and a part of its message.
type Fault = (u32, CUresult, &'static str);

/// The faults that every build reports.
const COPIES: &[Fault] = &[
    (1, CUDA_ERROR_LAUNCH_FAILED, "ld.shared reads byte 16 of dynamic shared memory, the destination of a copy that"),
    (4, CUDA_ERROR_MISALIGNED_ADDRESS, "cp.async writes byte 8 of dynamic shared memory, which is not aligned to 16"),
    (5, CUDA_ERROR_MISALIGNED_ADDRESS, "the source of cp.async is not aligned, at "),
    (6, CUDA_ERROR_ILLEGAL_ADDRESS, "cp.async writes byte 4096 of dynamic shared memory, which has 4096 bytes"),
    (7, CUDA_ERROR_ILLEGAL_ADDRESS, "cp.async accessed byte 4112 of allocation #1, which has 4112 bytes"),
    (8, CUDA_ERROR_LAUNCH_FAILED, "st.shared writes byte 0 of dynamic shared memory, the destination of a copy that"),
    (9, CUDA_ERROR_LAUNCH_FAILED, "a thread ends without waiting for a copy"),
];
const MATRICES: &[Fault] = &[
    (1, CUDA_ERROR_LAUNCH_FAILED, "not every lane of the warp takes part in ldmatrix"),
    (2, CUDA_ERROR_LAUNCH_FAILED, "the lanes of a warp request different forms of ldmatrix"),
    (3, CUDA_ERROR_MISALIGNED_ADDRESS, "ldmatrix reads byte 4 of dynamic shared memory, which is not aligned to 16"),
    (4, CUDA_ERROR_ILLEGAL_ADDRESS, "ldmatrix reads byte 512 of dynamic shared memory, which has 512 bytes"),
    (5, CUDA_ERROR_ILLEGAL_ADDRESS, "st.shared writes byte 512 of dynamic shared memory, which has 512 bytes"),
    (6, CUDA_ERROR_ILLEGAL_ADDRESS, "takes the shared address of a pointer that is not to dynamic shared memory"),
];
const PRODUCTS: &[Fault] = &[
    (1, CUDA_ERROR_LAUNCH_FAILED, "has not called fence_async_proxy() since then, at "),
    (2, CUDA_ERROR_LAUNCH_FAILED, "has not called fence_async_proxy() since then, at "),
    (4, CUDA_ERROR_LAUNCH_FAILED, "the block has passed no barrier since the writing thread's fence_async_proxy()"),
    (5, CUDA_ERROR_LAUNCH_FAILED, "a product without wgmma_fence() since the warpgroup last waited for products"),
    (6, CUDA_ERROR_LAUNCH_FAILED, "a product without wgmma_fence() since the warpgroup last waited for products"),
    (8, CUDA_ERROR_LAUNCH_FAILED, "the accumulators of a product were changed before it was waited for"),
    (11, CUDA_ERROR_LAUNCH_FAILED, "a descriptor without the 128-byte swizzle"),
    (12, CUDA_ERROR_LAUNCH_FAILED, "a descriptor with a base offset"),
    (13, CUDA_ERROR_ILLEGAL_ADDRESS, "a product reads byte 14336 of dynamic shared memory, which has 14336 bytes"),
    (14, CUDA_ERROR_LAUNCH_FAILED, "not every thread of the warpgroup takes part"),
    (15, CUDA_ERROR_LAUNCH_FAILED, "the threads of a warpgroup commit different products"),
    (16, CUDA_ERROR_LAUNCH_FAILED, "the threads of a warpgroup request different products"),
    (17, CUDA_ERROR_LAUNCH_FAILED, "has not called fence_async_proxy() since then, at "),
    (18, CUDA_ERROR_LAUNCH_FAILED, "a product reads byte 16 of dynamic shared memory, the destination of a copy that"),
    (21, CUDA_ERROR_LAUNCH_FAILED, "a thread ends without waiting for a product"),
    (22, CUDA_ERROR_LAUNCH_FAILED, "a thread ends without waiting for a product"),
    (23, CUDA_ERROR_LAUNCH_FAILED, "wgmma needs the 128 threads of a warpgroup"),
];

/// The faults that only the build with checks for races reports.
const COPY_RACES: &[Fault] = &[
    (
        2,
        CUDA_ERROR_LAUNCH_FAILED,
        " of dynamic shared memory, the destination of a copy that has not been waited for (planted_async.cu:",
    ),
    (3, CUDA_ERROR_LAUNCH_FAILED, "a race in shared memory"),
    // A race, or an access before the wait, depending on the order of threads.
    (10, CUDA_ERROR_LAUNCH_FAILED, " shared memory"),
    (11, CUDA_ERROR_LAUNCH_FAILED, " shared memory"),
];
const MATRICES_RACES: &[Fault] = &[(7, CUDA_ERROR_LAUNCH_FAILED, "a race in shared memory: it reads (")];
const PRODUCT_RACES: &[Fault] = &[
    (3, CUDA_ERROR_LAUNCH_FAILED, "has not called fence_async_proxy() since then, at "),
    (19, CUDA_ERROR_LAUNCH_FAILED, "a race in shared memory: it writes ("),
    (24, CUDA_ERROR_LAUNCH_FAILED, "a race in shared memory: it reads ("),
    (25, CUDA_ERROR_LAUNCH_FAILED, "a race in shared memory: it "),
];

/// The faults that show as wrong numbers.
const WRONG_COPIES: &[u32] = &[2];
const WRONG_PRODUCTS: &[u32] = &[7, 9, 10, 20, 25];

fn one_block(threads: u32, shared_mem_bytes: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (1, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes }
}

/// Runs a planted kernel with a fault, and returns whether its result is right.
fn run(device: &Device, kernel: &str, fault: u32) -> Result<bool, CUresult> {
    let result = match kernel {
        "planted_copy_fault_f32" => {
            let values: Vec<u32> = (0..1028).map(|i| 3 * i + 1).collect();
            let (from, to): (_, CudaSlice<u32>) = (device.upload(&values), device.poisoned(256));
            let launched = launch_planted!(device, kernel, one_block(256, 4096), &from, &to, &fault);
            launched.map(|()| device.download(&to) == (0..256).map(|i| values[(i + 1) % 256 * 4]).collect::<Vec<_>>())
        }
        "planted_matrices_fault_f32" => {
            let to: CudaSlice<u32> = device.poisoned(32);
            let launched = launch_planted!(device, kernel, one_block(32, 512), &to, &fault);
            launched.map(|()| device.download(&to) == (0..32).map(|i| i % 4).collect::<Vec<u32>>())
        }
        _ => {
            let half = |i: usize| half::f16::from_f32((i * 37 % 101) as f32 - 50.0);
            let halves = |count: usize| (0..count).map(half).collect::<Vec<_>>();
            let (left, right) = (halves(64 * 64), halves(32 * 64));
            let (a, b) = (device.upload(&left), device.upload(&right));
            let d: CudaSlice<f32> = device.poisoned(64 * 32);
            let threads = if fault == 23 { 96 } else { 128 };
            let launched = launch_planted!(device, kernel, one_block(threads, 14 * 1024), &a, &b, &d, &fault);
            launched.map(|()| {
                let sum = |i: usize| -> f32 {
                    (0..16).map(|k| left[i / 32 * 64 + k].to_f32() * right[i % 32 * 64 + k].to_f32()).sum()
                };
                device.download(&d) == (0..64 * 32).map(|i| 2.0 * sum(i)).collect::<Vec<_>>()
            })
        }
    };
    result.map_err(|error| error.0)
}

fn setting(name: &str) -> String {
    std::env::var(name).expect("set by the test")
}

/// A fault ends its process, so every one runs in its own.
macro_rules! expect_errors {
    ($kernel:expr, $faults:expr, $($more:expr),*) => {
        for &(fault, error, message) in $faults {
            let (number, code) = (fault.to_string(), (error as u32).to_string());
            let settings = [("KERNEL", $kernel), ("FAULT", &number), ("CODE", &code), $($more),*];
            let stderr = on_emulator(&settings, || {
                let device = Device::new().with_target("sm_90a");
                let result = run(&device, &setting("KERNEL"), setting("FAULT").parse().expect("a number"));
                assert_eq!(result.map_err(|error| (error as u32).to_string()), Err(setting("CODE")));
                std::mem::forget(device);
            });
            let Some(stderr) = stderr else { return };
            let line = stderr.lines().find(|line| line.contains("CUDA emulator: ")).unwrap_or_default();
            assert!(line.contains(message), "{}, fault {fault}: no {message:?} in:\n{stderr}", $kernel);
        }
    };
}

const COPY: &str = "planted_copy_fault_f32";
const MATRIX: &str = "planted_matrices_fault_f32";
const PRODUCT: &str = "planted_wgmma_fault_f32";

#[test]
fn reports_faults_in_copies() {
    expect_errors!(COPY, COPIES,);
}

#[test]
fn reports_faults_in_loads_of_matrices() {
    expect_errors!(MATRIX, MATRICES,);
}

#[test]
fn reports_faults_in_products() {
    expect_errors!(PRODUCT, PRODUCTS,);
}

#[test]
#[ignore = "long; CI runs it"]
fn finds_the_races_of_copies() {
    for order in ["forward", "reverse"] {
        expect_errors!(COPY, COPY_RACES, RACES, ("CUDA_EMULATOR_ORDER", order));
        expect_errors!(COPY, COPY_RACES, RACES, ("CUDA_EMULATOR_ORDER", order), ("CUDA_EMULATOR_COPIES", "early"));
    }
}

#[test]
#[ignore = "long; CI runs it"]
fn finds_the_races_of_loads_and_products() {
    for order in ["forward", "reverse"] {
        expect_errors!(MATRIX, MATRICES_RACES, RACES, ("CUDA_EMULATOR_ORDER", order));
        expect_errors!(PRODUCT, PRODUCT_RACES, RACES, ("CUDA_EMULATOR_ORDER", order));
        expect_errors!(
            PRODUCT,
            PRODUCT_RACES,
            RACES,
            ("CUDA_EMULATOR_ORDER", order),
            ("CUDA_EMULATOR_PRODUCTS", "early")
        );
    }
}

/// Runs the kernels without a fault, and with those that give wrong numbers.
fn compare_results(device: Device) {
    let device = device.with_target("sm_90a");
    for kernel in [COPY, MATRIX, PRODUCT] {
        assert_eq!(run(&device, kernel, 0), Ok(true), "{kernel}");
    }
    for (kernel, faults) in [(COPY, WRONG_COPIES), (PRODUCT, WRONG_PRODUCTS)] {
        for &fault in faults {
            assert_eq!(run(&device, kernel, fault), Ok(false), "{kernel}, fault {fault}");
        }
    }
}

#[test]
fn shows_wrong_order_as_wrong_numbers() {
    on_emulator(&[], || compare_results(Device::new()));
    on_emulator(&[("CUDA_EMULATOR_ORDER", "reverse")], || compare_results(Device::new()));
}

/// An instruction that the module's target does not have would not compile.
#[test]
fn refuses_instructions_that_the_target_lacks() {
    for (kernel, target, needed) in [
        (COPY, "sm_75", "cp.async needs a module for sm_80"),
        (PRODUCT, "sm_80", "wgmma.fence needs a module for sm_90a"),
        (PRODUCT, "sm_90", "wgmma.fence needs a module for sm_90a"),
    ] {
        let stderr = on_emulator(&[("KERNEL", kernel), ("TARGET", target)], || {
            let target: &'static str = setting("TARGET").leak();
            let device = Device::new().with_target(target);
            assert_eq!(run(&device, &setting("KERNEL"), 0), Err(CUDA_ERROR_LAUNCH_FAILED));
            std::mem::forget(device);
        });
        let Some(stderr) = stderr else { return };
        assert!(stderr.contains(needed), "no {needed:?} in:\n{stderr}");
    }
}

/// The accesses that need an order have it in the kernels without a fault.
#[test]
#[ignore = "long; CI runs it"]
fn finds_no_races_in_the_right_kernels() {
    for mode in ["early", "late"] {
        let modes = [RACES, ("CUDA_EMULATOR_COPIES", mode), ("CUDA_EMULATOR_PRODUCTS", mode)];
        on_emulator(&modes, || {
            let device = Device::new().with_target("sm_90a");
            for kernel in [COPY, MATRIX, PRODUCT] {
                assert_eq!(run(&device, kernel, 0), Ok(true), "{kernel}");
            }
        });
    }
}
