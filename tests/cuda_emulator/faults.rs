//! The emulator reports the errors and faults that a GPU would, with the same codes.

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaSlice, DriverError, LaunchConfig};

use super::device::{Device, blocks, launch_planted};
use crate::support::emulator::on_emulator;

const ONE_BLOCK: LaunchConfig = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };

fn code<T>(result: Result<T, DriverError>) -> CUresult {
    result.err().expect("the fault is caught").0
}

/// Asserts that the error is sticky: as on a GPU, every later call on the device fails with it.
fn assert_sticky(device: Device, error: CUresult) {
    assert_eq!(code(device.stream.alloc_zeros::<f32>(1)), error);
    assert_eq!(code(device.wait()), error);
    std::mem::forget(device);
}

/// Asserts that the child process, if it was run, printed `message`.
fn expect_message(stderr: Option<String>, message: &str) {
    if let Some(stderr) = stderr {
        assert!(stderr.contains(message), "no {message:?} in:\n{stderr}");
    }
}

fn write_outside(distance: i64) {
    let device = Device::new();
    let values: CudaSlice<f32> = device.poisoned(100);
    let error = code(launch_planted!(device, "planted_write_outside_f32", ONE_BLOCK, &values, &100i64, &distance));
    assert_eq!(error, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    std::mem::forget(values);
    assert_sticky(device, error);
}

#[test]
fn catches_a_write_at_the_end() {
    let stderr = on_emulator(&[], || write_outside(0));
    expect_message(stderr, "kernel planted_write_outside_f32 wrote byte 400 of allocation #1, which has 400 bytes");
}

#[test]
fn catches_a_write_near_the_end() {
    let stderr = on_emulator(&[], || write_outside(3));
    expect_message(stderr, "wrote byte 412 of allocation #1, which has 400 bytes");
}

#[test]
fn catches_a_write_before_the_start() {
    let stderr = on_emulator(&[], || write_outside(-1));
    expect_message(stderr, "wrote byte -4 of allocation #1, which has 400 bytes");
}

#[test]
fn catches_accesses_far_outside_an_allocation() {
    let stderr = on_emulator(&[], || {
        let device = Device::new();
        let values = device.upload(&[1.0f32; 100]);
        let result: CudaSlice<f32> = device.poisoned(1);
        let error = code(launch_planted!(device, "planted_read_f32", ONE_BLOCK, &values, &result, &200i64));
        assert_eq!(error, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        std::mem::forget((values, result));
        assert_sticky(device, error);
    });
    expect_message(stderr, "accessed byte 800 of allocation #1, which has 400 bytes");
}

#[test]
fn catches_use_after_free() {
    let stderr = on_emulator(&[], || {
        let device = Device::new();
        let values = device.upload(&[1.0f32; 8]);
        let result: CudaSlice<f32> = device.poisoned(1);
        // SAFETY: never dereferenced outside the emulator.
        let dangling = unsafe { device.stream.upgrade_device_ptr::<f32>(values.leak(), 8) };
        let pointer = dangling.leak();
        drop(unsafe { device.stream.upgrade_device_ptr::<f32>(pointer, 8) });
        // Copies refuse the pointer; a kernel that dereferences it faults.
        let mut host = [0.0f32];
        let copied = unsafe { cudarc::driver::result::memcpy_dtoh_sync(&mut host, pointer) };
        assert_eq!(code(copied), CUresult::CUDA_ERROR_INVALID_VALUE);
        let error = code(launch_planted!(device, "planted_read_f32", ONE_BLOCK, &pointer, &result, &0i64));
        assert_eq!(error, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        std::mem::forget(result);
        assert_sticky(device, error);
    });
    expect_message(stderr, "accessed byte 0 of allocation #1, which was freed and had 32 bytes");
}

#[test]
fn shows_uninitialised_reads_as_nan() {
    on_emulator(&[], || {
        let device = Device::new();
        let values: CudaSlice<f32> = device.poisoned(8);
        let result: CudaSlice<f32> = device.poisoned(1);
        launch_planted!(device, "planted_read_f32", ONE_BLOCK, &values, &result, &3i64).unwrap();
        assert!(device.download(&result)[0].is_nan());
    });
}

#[test]
fn refuses_a_host_pointer() {
    on_emulator(&[], || {
        let device = Device::new();
        let host = [1.0f32; 4];
        let result: CudaSlice<f32> = device.poisoned(1);
        let pointer = host.as_ptr() as u64;
        let copied = unsafe { cudarc::driver::result::memcpy_htod_sync(pointer, &host) };
        assert_eq!(code(copied), CUresult::CUDA_ERROR_INVALID_VALUE);
        let error = code(launch_planted!(device, "planted_read_f32", ONE_BLOCK, &pointer, &result, &0i64));
        assert_eq!(error, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        std::mem::forget(result);
        std::mem::forget(device);
    });
}

#[test]
fn refuses_launches_beyond_the_limits() {
    on_emulator(&[], || {
        let device = Device::new();
        let values: CudaSlice<f32> = device.poisoned(1024);
        let launch_with = |grid_dim, block_dim, shared_mem_bytes| {
            let config = LaunchConfig { grid_dim, block_dim, shared_mem_bytes };
            launch_planted!(device, "planted_dynamic_shared_f32", config, &values, &1u32)
        };
        let refused = CUresult::CUDA_ERROR_INVALID_VALUE;
        assert_eq!(code(launch_with((1, 1, 1), (2048, 1, 1), 4)), refused);
        assert_eq!(code(launch_with((1, 1, 1), (32, 64, 1), 4)), refused);
        assert_eq!(code(launch_with((1, 1, 1), (1, 1, 65), 4)), refused);
        assert_eq!(code(launch_with((1, 1, 1), (512, 1, 1), 4)), refused, "above the launch bounds");
        assert_eq!(code(launch_with((0, 1, 1), (32, 1, 1), 4)), refused);
        assert_eq!(code(launch_with((1, 65536, 1), (32, 1, 1), 4)), refused);
        assert_eq!(code(launch_with((1, 1, 1), (32, 1, 1), 48 * 1024 + 1)), refused);
        // A refused launch is not a fault: the device still works.
        launch_with((70000, 1, 1), (1, 1, 1), 48 * 1024).unwrap();
    });
}

#[test]
fn raises_the_shared_memory_limit_on_request() {
    on_emulator(&[], || {
        let device = Device::new();
        let values: CudaSlice<f32> = device.poisoned(1);
        let function = device.kernel("planted_dynamic_shared_f32");
        use cudarc::driver::{PushKernelArg, sys::CUfunction_attribute_enum::*};
        let largest = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        assert_eq!(code(function.set_attribute(largest, 228 * 1024)), CUresult::CUDA_ERROR_INVALID_VALUE);
        function.set_attribute(largest, 100 * 1024).unwrap();
        let config = LaunchConfig { shared_mem_bytes: 100 * 1024, ..ONE_BLOCK };
        let count = 25 * 1024u32;
        unsafe { device.stream.launch_builder(&function).arg(&values).arg(&count).launch(config) }.unwrap();
        assert_eq!(device.download(&values), [(count - 1) as f32]);
        // One more element is outside the block's shared memory.
        let count = count + 1;
        unsafe { device.stream.launch_builder(&function).arg(&values).arg(&count).launch(config) }.unwrap();
        assert_eq!(code(device.wait()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        std::mem::forget(values);
        std::mem::forget(device);
    });
}

#[test]
fn has_the_shared_memory_of_each_capability() {
    for (capability, kilobytes) in
        [("7.5", "64"), ("8.0", "163"), ("8.6", "99"), ("8.9", "99"), ("9.0", "227"), ("10.0", "227"), ("12.0", "99")]
    {
        on_emulator(&[("CUDA_EMULATOR_CC", capability), ("KILOBYTES", kilobytes)], || {
            use cudarc::driver::sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
            use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = 1024 * std::env::var("KILOBYTES").expect("set above").parse::<i32>().expect("a number");
            let device = Device::new();
            let limit = device.context.attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
            assert_eq!(limit, Ok(bytes));
            let function = device.kernel("planted_dynamic_shared_f32");
            function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes).unwrap();
            let refused = function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes + 1);
            assert_eq!(code(refused), CUresult::CUDA_ERROR_INVALID_VALUE);
        });
    }
}

fn assert_fault(kernel: &str, error: CUresult) {
    let device = Device::new();
    let values = device.upload(&[1.0f32; 256]);
    assert_eq!(code(launch_planted!(device, kernel, ONE_BLOCK, &values, &1u32)), error, "{kernel}");
    std::mem::forget(values);
    assert_sticky(device, error);
}

#[test]
fn catches_a_divergent_barrier() {
    let stderr = on_emulator(&[], || assert_fault("planted_divergent_barrier_f32", CUresult::CUDA_ERROR_LAUNCH_FAILED));
    expect_message(stderr, "divergent barrier");
}

#[test]
fn catches_half_a_block_at_each_of_two_barriers() {
    let stderr = on_emulator(&[], || assert_fault("planted_two_barriers_f32", CUresult::CUDA_ERROR_LAUNCH_FAILED));
    expect_message(stderr, "divergent barrier");
}

#[test]
fn catches_a_shuffle_with_missing_lanes() {
    let stderr = on_emulator(&[], || assert_fault("planted_partial_shuffle_f32", CUresult::CUDA_ERROR_LAUNCH_FAILED));
    expect_message(stderr, "lanes named by a shuffle's mask never reach it");
}

#[test]
fn catches_a_product_with_missing_lanes() {
    let stderr = on_emulator(&[], || assert_fault("planted_divergent_mma_f32", CUresult::CUDA_ERROR_LAUNCH_FAILED));
    expect_message(stderr, "not every lane of the warp takes part in a product");
}

#[test]
fn catches_a_misaligned_vector() {
    let stderr =
        on_emulator(&[], || assert_fault("planted_misaligned_vector_f32", CUresult::CUDA_ERROR_MISALIGNED_ADDRESS));
    expect_message(stderr, "misaligned access");
}

#[test]
fn catches_a_misaligned_float() {
    let stderr =
        on_emulator(&[], || assert_fault("planted_misaligned_scalar_f32", CUresult::CUDA_ERROR_MISALIGNED_ADDRESS));
    expect_message(stderr, "misaligned access");
}

#[test]
fn catches_a_shared_array_overrun() {
    let stderr =
        on_emulator(&[], || assert_fault("planted_shared_out_of_bounds_f32", CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
    expect_message(stderr, "index 32 is outside its array");
}

/// A GPU returns garbage. The emulator reports an error if the processor traps the division.
#[cfg(target_arch = "x86_64")]
#[test]
fn catches_a_division_by_zero() {
    let stderr = on_emulator(&[], || {
        let device = Device::new();
        let values = device.upload(&[8u32; 32]);
        launch_planted!(device, "planted_divide_f32", ONE_BLOCK, &values, &4u32).unwrap();
        assert_eq!(device.download(&values), [2; 32]);
        let error = code(launch_planted!(device, "planted_divide_f32", ONE_BLOCK, &values, &0u32));
        assert_eq!(error, CUresult::CUDA_ERROR_LAUNCH_FAILED);
        std::mem::forget(values);
        assert_sticky(device, error);
    });
    expect_message(stderr, "integer division by zero");
}

/// Threads run one after another, so a missing barrier shows in only one of the two orders. Kernel tests run both.
#[test]
fn reverse_order_shows_a_missing_barrier() {
    on_emulator(&[("CUDA_EMULATOR_ORDER", "reverse")], || {
        let device = Device::new();
        let values: CudaSlice<f32> = device.poisoned(256);
        launch_planted!(device, "planted_missing_barrier_f32", blocks(1), &values).unwrap();
        assert!(device.download(&values)[1].is_nan());
    });
}

#[test]
fn refuses_synchronous_calls_during_capture() {
    on_emulator(&[], || {
        let device = Device::new();
        let values = device.upload(&[1.0f32; 4]);
        device.wait().unwrap();
        let pointer = values.leak();
        let mut host = [0.0f32; 4];
        type Call<'a> = Box<dyn FnMut() -> Result<(), DriverError> + 'a>;
        let calls: [(&str, Call); 4] = [
            ("copy", Box::new(|| unsafe { cudarc::driver::result::memcpy_dtoh_sync(&mut host, pointer) })),
            ("allocation", Box::new(|| unsafe { cudarc::driver::result::malloc_sync(16) }.map(|_| ()))),
            ("stream", Box::new(|| device.stream.synchronize())),
            ("context", Box::new(|| device.context.synchronize())),
        ];
        for (name, mut call) in calls {
            device.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
            assert_eq!(code(call()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "{name}");
            let ended = device.stream.end_capture(CUgraphInstantiate_flags(0)).map(|_| ());
            assert_eq!(code(ended), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "{name}");
        }
        // The device still works.
        device.wait().unwrap();
    });
}

#[test]
fn runs_out_of_memory() {
    on_emulator(&[("CUDA_EMULATOR_MEMORY_MB", "1")], || {
        let device = Device::new();
        let half = device.stream.alloc_zeros::<u8>(512 << 10).unwrap();
        let (free, total) = device.context.mem_get_info().unwrap();
        assert_eq!((free, total), (512 << 10, 1 << 20));
        assert_eq!(code(device.stream.alloc_zeros::<u8>((512 << 10) + 1)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        drop(half);
        device.wait().unwrap();
        device.stream.alloc_zeros::<u8>(1 << 20).unwrap();
    });
}
