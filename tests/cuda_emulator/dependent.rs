//! Programmatic dependent launch: the emulator refuses what a driver refuses, and catches kernels that do not wait for
//! the previous kernel.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys::{self, CUgraphInstantiate_flags, CUlaunchAttributeID as Id, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaFunction, CudaSlice};

use super::device::Device;
use crate::support::emulator::{RACES, on_emulator};

/// The words of a `CUlaunchAttribute`, whose identifier need not be valid.
type Attribute = [u32; 18];

fn attribute(id: Id, number: u32) -> Attribute {
    let mut words = [0; 18];
    (words[0], words[2]) = (id as u32, number);
    words
}

fn dependent(number: u32) -> Attribute {
    attribute(Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, number)
}

/// Launches one block of 256 threads of `planted_wait` with these attributes.
fn launch_with(
    device: &Device,
    kernel: &CudaFunction,
    attributes: &mut [Attribute],
    values: &CudaSlice<f32>,
    way: u32,
) -> Result<(), CUresult> {
    use cudarc::driver::DevicePtr;
    let (mut pointer, mut way) = (values.device_ptr(&device.stream).0, way);
    let mut parameters = [(&raw mut pointer).cast::<c_void>(), (&raw mut way).cast()];
    let config = sys::CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 256,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 1024,
        hStream: device.stream.cu_stream(),
        attrs: if attributes.is_empty() { ptr::null_mut() } else { attributes.as_mut_ptr().cast() },
        numAttrs: attributes.len() as u32,
    };
    // SAFETY: the parameters match the kernel's.
    let launched = unsafe {
        sys::cuLaunchKernelEx(&raw const config, kernel.cu_function(), parameters.as_mut_ptr(), ptr::null_mut())
    };
    launched.result().map_err(|error| error.0)
}

fn device() -> (Device, CudaFunction) {
    let device = Device::new().with_target("sm_90");
    let kernel = device.kernel("planted_wait_f32");
    (device, kernel)
}

/// The numbers of `Way` in planted_dependent.cu.
const RIGHT: u32 = 0;
const SHARED_FIRST: u32 = 7;

#[test]
fn a_dependent_kernel_runs_after_kernels_copies_and_in_graphs() {
    on_emulator(&[], || {
        let (device, kernel) = device();
        let mut values = device.upload(&[1.0f32; 257]);
        let run = |values: &CudaSlice<f32>| launch_with(&device, &kernel, &mut [dependent(1)], values, RIGHT).unwrap();
        run(&values); // after the copy
        run(&values);
        device.stream.memset_zeros(&mut values).unwrap();
        run(&values);
        launch_with(&device, &kernel, &mut [], &values, SHARED_FIRST).unwrap();
        run(&values);
        assert_eq!(device.download(&values)[..256], [3.0; 256]);
        device.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        run(&values);
        run(&values);
        let graph = device.stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().expect("work was recorded");
        graph.launch().unwrap();
        graph.launch().unwrap();
        assert_eq!(device.download(&values)[..256], [7.0; 256]);
    });
}

#[test]
fn refuses_attributes_that_a_driver_refuses() {
    on_emulator(&[], || {
        let (device, kernel) = device();
        let values = device.upload(&[1.0f32; 257]);
        let refusal = |attributes: &mut [Attribute]| {
            launch_with(&device, &kernel, attributes, &values, RIGHT).expect_err("it is refused")
        };
        let mut unknown = dependent(1);
        unknown[0] = 999;
        assert_eq!(refusal(&mut [unknown]), CUresult::CUDA_ERROR_INVALID_VALUE);
        let twice = &mut [dependent(1), dependent(1)];
        assert_eq!(refusal(twice), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(refusal(&mut [dependent(1); 99]), CUresult::CUDA_ERROR_INVALID_VALUE);
        let cooperative = Id::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
        assert_eq!(refusal(&mut [attribute(cooperative, 1)]), CUresult::CUDA_ERROR_NOT_SUPPORTED);
        let ignored = attribute(Id::CU_LAUNCH_ATTRIBUTE_IGNORE, 1);
        launch_with(&device, &kernel, &mut [ignored, dependent(1)], &values, RIGHT).unwrap();
        device.wait().unwrap();
    });
}

#[test]
fn devices_before_9_0_refuse_it() {
    on_emulator(&[("CUDA_EMULATOR_CC", "8.9")], || {
        let device = Device::new();
        let (kernel, values) = (device.kernel("planted_wait_f32"), device.upload(&[1.0f32; 257]));
        let launch = |allowed| launch_with(&device, &kernel, &mut [dependent(allowed)], &values, 1);
        assert_eq!(launch(1), Err(CUresult::CUDA_ERROR_NOT_SUPPORTED));
        assert_eq!(launch(0), Ok(()));
        device.wait().unwrap();
    });
}

#[test]
fn drivers_before_12_3_do_not_capture_it() {
    for (driver, captures) in [("12020", ""), ("12030", "1")] {
        on_emulator(&[("CUDA_EMULATOR_DRIVER", driver), ("CAPTURES", captures)], || {
            let captures = std::env::var("CAPTURES").is_ok_and(|value| value == "1");
            let device = Device::new();
            let ptx = super::device::image(&["planted_wait_f32"]).replace("8.7", "8.0").replace("sm_75", "sm_90");
            let module = device.context.load_module(cudarc::nvrtc::Ptx::from_src(ptx)).unwrap();
            let kernel = module.load_function("planted_wait_f32").unwrap();
            let values = device.upload(&[1.0f32; 257]);
            let launch = || launch_with(&device, &kernel, &mut [dependent(1)], &values, RIGHT);
            launch().unwrap();
            device.wait().unwrap();
            device.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
            let launched = launch();
            let ended = device.stream.end_capture(CUgraphInstantiate_flags(0)).map(|_| ()).map_err(|error| error.0);
            let unsupported = Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
            assert_eq!(launched, if captures { Ok(()) } else { unsupported });
            let invalidated = Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            assert_eq!(ended, if captures { Ok(()) } else { invalidated });
        });
    }
}

/// Runs variants on the emulator, which must report a message for each. A fault ends its process, so every variant runs
/// in its own.
fn catches<F: FnOnce() + Copy>(settings: &[(&str, &str)], variants: &[(&str, &str)], body: F) {
    for &(way, message) in variants {
        let Some(stderr) = on_emulator(&[settings, &[("WAY", way)]].concat(), body) else { return };
        let line = stderr.lines().find(|line| line.contains("CUDA emulator: ")).unwrap_or_default();
        assert!(line.contains(message) && line.contains("kernel planted_wait_f32"), "no {message:?} in:\n{stderr}");
    }
}

/// Without the attribute, a variant has no fault.
fn fail_if_dependent(target: &'static str) {
    let way = std::env::var("WAY").expect("set above").parse().expect("a number");
    let device = Device::new().with_target(target);
    let kernel = device.kernel("planted_wait_f32");
    let values = device.upload(&[1.0f32; 257]);
    launch_with(&device, &kernel, &mut [], &values, way).unwrap();
    device.wait().unwrap();
    launch_with(&device, &kernel, &mut [dependent(1)], &values, way).unwrap();
    assert_eq!(device.wait().unwrap_err().0, CUresult::CUDA_ERROR_LAUNCH_FAILED);
    std::mem::forget((values, device));
}

#[test]
fn catches_threads_that_end_without_waiting() {
    let message = "a thread ends without griddepcontrol.wait";
    catches(&[], &[("1", message), ("2", message)], || fail_if_dependent("sm_90"));
}

#[test]
fn catches_an_asynchronous_copy_before_the_wait() {
    catches(&[], &[("6", "cp.async before griddepcontrol.wait")], || fail_if_dependent("sm_90"));
}

#[test]
#[ignore = "long; CI runs it"]
fn catches_accesses_of_global_memory_before_the_wait() {
    let variants = [
        ("3", "accessed byte "),
        ("4", "wrote byte 1024 of allocation #1"),
        ("5", "accessed byte 1024 of allocation #1"),
    ];
    catches(&[RACES], &variants, || fail_if_dependent("sm_90"));
}

#[test]
#[ignore = "long; CI runs it"]
fn shared_memory_may_be_used_before_the_wait() {
    on_emulator(&[RACES], || {
        let (device, kernel) = device();
        let values = device.upload(&[1.0f32; 257]);
        for way in [RIGHT, SHARED_FIRST] {
            launch_with(&device, &kernel, &mut [dependent(1)], &values, way).unwrap();
        }
        assert_eq!(device.download(&values)[..256], [3.0; 256]);
    });
}

/// It would do nothing on a GPU either, because such a module has no instruction that waits.
#[test]
fn catches_a_dependent_kernel_for_an_earlier_target() {
    catches(&[], &[("0", "a thread ends without griddepcontrol.wait")], || fail_if_dependent("sm_75"));
}
