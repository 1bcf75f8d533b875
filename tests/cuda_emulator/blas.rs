//! Compares the emulated cuBLAS with plain sums of products.

use cudarc::cublas::sys::{cublasComputeType_t as Compute, cublasGemmAlgo_t, cublasOperation_t, cudaDataType_t};
use cudarc::cublas::{CudaBlas, Gemm, GemmConfig, result};
use cudarc::driver::DevicePtr;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use half::f16;

use super::device::Device;
use crate::support::emulator::on_emulator;

/// Small integers, whose sums of products are exact in fp32 in any order.
fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7 + seed * 13) % 17) as f32 - 8.0).collect()
}

fn at(matrix: &[f32], transposed: bool, ld: usize, row: usize, column: usize) -> f32 {
    if transposed { matrix[column + row * ld] } else { matrix[row + column * ld] }
}

fn operation(transposed: bool) -> cublasOperation_t {
    if transposed { cublasOperation_t::CUBLAS_OP_T } else { cublasOperation_t::CUBLAS_OP_N }
}

#[test]
fn multiplies_with_every_transposition() {
    on_emulator(&[], || {
        let device = Device::new();
        let blas = CudaBlas::new(device.stream.clone()).unwrap();
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (65, 33, 300), (200, 130, 70)] {
            for (ta, tb, beta) in [(false, false, 0.0), (true, false, 2.0), (false, true, 0.0), (true, true, 1.0)] {
                let (lda, ldb, ldc) = (if ta { k } else { m } + 1, if tb { n } else { k } + 2, m + 3);
                let a = values(lda * if ta { m } else { k }, 1);
                let b = values(ldb * if tb { k } else { n }, 2);
                let before = values(ldc * n, 3);
                let mut c = if beta == 0.0 { device.poisoned(ldc * n) } else { device.upload(&before) };
                let config = GemmConfig {
                    transa: operation(ta),
                    transb: operation(tb),
                    m: m as i32,
                    n: n as i32,
                    k: k as i32,
                    alpha: 0.5,
                    lda: lda as i32,
                    ldb: ldb as i32,
                    beta,
                    ldc: ldc as i32,
                };
                unsafe { blas.gemm(config, &device.upload(&a), &device.upload(&b), &mut c) }.unwrap();
                let result = device.download(&c);
                for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                    let sum: f32 = (0..k).map(|x| at(&a, ta, lda, i, x) * at(&b, tb, ldb, x, j)).sum();
                    let previous = if beta == 0.0 { 0.0 } else { beta * before[i + j * ldc] };
                    assert_eq!(result[i + j * ldc], 0.5 * sum + previous, "{m}×{n}×{k} {ta} {tb} at {i},{j}");
                }
            }
        }
    });
}

#[test]
fn multiplies_halves_and_tf32() {
    on_emulator(&[], || {
        let device = Device::new();
        let blas = CudaBlas::new(device.stream.clone()).unwrap();
        let gemm = |a: u64, b: u64, c: u64, ab_type, c_type, compute| unsafe {
            let (alpha, beta) = (1.0f32, 0.0f32);
            let op = cublasOperation_t::CUBLAS_OP_N;
            let scalar = |value: &f32| std::ptr::from_ref(value).cast();
            result::gemm_ex(
                *blas.handle(),
                op,
                op,
                2,
                1,
                2,
                scalar(&alpha),
                a as _,
                ab_type,
                2,
                b as _,
                ab_type,
                2,
                scalar(&beta),
                c as _,
                c_type,
                2,
                compute,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        let halves = |values: &[f32]| values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>();
        let (a, b) = (device.upload(&halves(&[1.5, 2.0, 3.0, 4.0])), device.upload(&halves(&[1.0, 0.5])));
        let (narrow, wide) = (device.poisoned::<f16>(2), device.poisoned::<f32>(2));
        let (a, b) = (a.device_ptr(&device.stream).0, b.device_ptr(&device.stream).0);
        let (half, float) = (cudaDataType_t::CUDA_R_16F, cudaDataType_t::CUDA_R_32F);
        gemm(a, b, narrow.device_ptr(&device.stream).0, half, half, Compute::CUBLAS_COMPUTE_32F).unwrap();
        gemm(a, b, wide.device_ptr(&device.stream).0, half, float, Compute::CUBLAS_COMPUTE_32F).unwrap();
        assert_eq!(device.download(&narrow), halves(&[3.0, 4.0]));
        assert_eq!(device.download(&wide), [3.0, 4.0]);

        // A small product may be computed in fp32 even if TF32 is allowed.
        let fine = device.upload(&[1.0 + 2f32.powi(-12), 1.0, 0.0, 0.0]);
        let one = device.upload(&[1.0f32, 0.0]);
        let (fine, one) = (fine.device_ptr(&device.stream).0, one.device_ptr(&device.stream).0);
        let out = wide.device_ptr(&device.stream).0;
        gemm(fine, one, out, float, float, Compute::CUBLAS_COMPUTE_32F_FAST_TF32).unwrap();
        assert_eq!(device.download(&wide), [1.0 + 2f32.powi(-12), 1.0]);
        // A half output of float inputs and half arithmetic are not supported.
        assert!(gemm(fine, one, out, float, half, Compute::CUBLAS_COMPUTE_32F).is_err());
        assert!(gemm(fine, one, out, half, half, Compute::CUBLAS_COMPUTE_16F).is_err());
    });
}

/// 1 + 2⁻¹² needs more than TF32's ten mantissa bits; fp32 represents it exactly.
#[test]
fn rounds_large_products_to_tf32_if_allowed() {
    on_emulator(&[], || {
        use cudarc::cublas::sys::{cublasMath_t as Math, cublasSetMathMode};
        let device = Device::new();
        let blas = CudaBlas::new(device.stream.clone()).unwrap();
        let (fine, op) = (1.0 + 2f32.powi(-12), cublasOperation_t::CUBLAS_OP_N);
        for (mode, side, expected) in [
            (Math::CUBLAS_TF32_TENSOR_OP_MATH, 16, 1.0),
            (Math::CUBLAS_TF32_TENSOR_OP_MATH, 15, fine),
            (Math::CUBLAS_DEFAULT_MATH, 16, fine),
        ] {
            // SAFETY: the handle is alive.
            unsafe { cublasSetMathMode(*blas.handle(), mode) }.result().unwrap();
            let identity = (0..side * side).map(|at| if at % (side + 1) == 0 { 1.0 } else { 0.0 });
            let (a, b) = (device.upload(&vec![fine; side * side]), device.upload(&identity.collect::<Vec<f32>>()));
            let (mut c, n) = (device.poisoned::<f32>(side * side), side as i32);
            let (m, k, lda, ldb, ldc) = (n, n, n, n, n);
            let config = GemmConfig { transa: op, transb: op, m, n, k, alpha: 1.0, lda, ldb, beta: 0.0, ldc };
            unsafe { blas.gemm(config, &a, &b, &mut c) }.unwrap();
            assert_eq!(device.download(&c), vec![expected; side * side]);
        }
    });
}

/// A matrix that extends past its allocation causes a fault when the product runs.
#[test]
fn catches_a_matrix_larger_than_its_allocation() {
    on_emulator(&[], || {
        let device = Device::new();
        let blas = CudaBlas::new(device.stream.clone()).unwrap();
        let (a, b) = (device.upload(&[1.0f32; 11]), device.upload(&[1.0f32; 12]));
        let mut c = device.poisoned::<f32>(9);
        let op = cublasOperation_t::CUBLAS_OP_N;
        let config =
            GemmConfig { transa: op, transb: op, m: 3, n: 3, k: 4, alpha: 1.0, lda: 3, ldb: 4, beta: 0.0, ldc: 3 };
        unsafe { blas.gemm(config, &a, &b, &mut c) }.unwrap();
        let error = device.wait().unwrap_err().0;
        assert_eq!(error, cudarc::driver::sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        std::mem::forget((a, b, c, blas, device));
    });
}

#[test]
fn captures_and_replays_products() {
    on_emulator(&[], || {
        let device = Device::new();
        let blas = CudaBlas::new(device.stream.clone()).unwrap();
        let (a, b) = (device.upload(&[2.0f32]), device.upload(&[3.0f32]));
        let mut c = device.upload(&[1.0f32]);
        let op = cublasOperation_t::CUBLAS_OP_N;
        let config =
            GemmConfig { transa: op, transb: op, m: 1, n: 1, k: 1, alpha: 1.0, lda: 1, ldb: 1, beta: 1.0, ldc: 1 };
        device.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        unsafe { blas.gemm(config, &a, &b, &mut c) }.unwrap();
        let graph = device.stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
        assert_eq!(device.download(&c), [1.0], "capturing computes nothing");
        graph.launch().unwrap();
        graph.launch().unwrap();
        assert_eq!(device.download(&c), [13.0]);
    });
}

/// The order of every sum is independent of the number of threads.
#[test]
fn results_do_not_depend_on_the_thread_count() {
    let product = || {
        let device = Device::new();
        let blas = CudaBlas::new(device.stream.clone()).unwrap();
        let (m, n, k) = (150, 140, 1100);
        let fraction = |v: f32| (v + 0.3) / 7.0;
        let a = device.upload(&values(m * k, 1).into_iter().map(fraction).collect::<Vec<_>>());
        let b = device.upload(&values(k * n, 2).into_iter().map(fraction).collect::<Vec<_>>());
        let mut c = device.poisoned::<f32>(m * n);
        let op = cublasOperation_t::CUBLAS_OP_N;
        let (m, n, k) = (m as i32, n as i32, k as i32);
        let config = GemmConfig { transa: op, transb: op, m, n, k, alpha: 1.0, lda: m, ldb: k, beta: 0.0, ldc: m };
        unsafe { blas.gemm(config, &a, &b, &mut c) }.unwrap();
        let bits = device.download(&c).into_iter().fold(0u64, |h, v| h.wrapping_mul(31) ^ u64::from(v.to_bits()));
        eprintln!("product {bits:016x}");
    };
    let one = on_emulator(&[("CUDA_EMULATOR_THREADS", "1")], product);
    let three = on_emulator(&[("CUDA_EMULATOR_THREADS", "3")], product);
    if let (Some(one), Some(three)) = (one, three) {
        let line = |stderr: &str| stderr.lines().find(|line| line.contains("product ")).map(String::from);
        assert_eq!(line(&one).expect("the child prints its product"), line(&three).unwrap());
    }
}
