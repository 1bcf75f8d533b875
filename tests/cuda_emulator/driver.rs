//! Unmodified cudarc on the emulated driver: launches, copies, events, capture and replay.

use cudarc::driver::CudaContext;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};

use super::device::{Device, blocks, launch, launch_planted, queue};
use crate::support::emulator::on_emulator;

#[test]
fn describes_the_device() {
    on_emulator(&[("CUDA_EMULATOR_CC", "8.6"), ("CUDA_EMULATOR_DEVICES", "2")], || {
        assert_eq!(CudaContext::device_count().unwrap(), 2);
        let context = CudaContext::new(1).unwrap();
        assert_eq!(context.name().unwrap(), "CUDA emulator");
        assert_eq!(context.compute_capability().unwrap(), (8, 6));
        assert_eq!(context.total_mem().unwrap(), 2048 << 20);
        assert_eq!(CudaContext::new(2).unwrap_err().0, CUresult::CUDA_ERROR_INVALID_DEVICE);
    });
}

#[test]
fn reports_a_missing_device() {
    on_emulator(&[("CUDA_EMULATOR_DEVICES", "0")], || {
        assert_eq!(CudaContext::new(0).unwrap_err().0, CUresult::CUDA_ERROR_NO_DEVICE);
    });
}

#[test]
fn launches_a_kernel() {
    on_emulator(&[], || {
        let device = Device::new();
        let input: Vec<f32> = (0..1001).map(|i| i as f32 - 500.0).collect();
        let (source, target) = (device.upload(&input), device.poisoned::<f32>(input.len()));
        launch!(device, "activation_forward_f32", blocks(2), &source, &target, &1001u64, &0.0f32).unwrap();
        let expected: Vec<f32> = input.iter().map(|x| x.max(0.0)).collect();
        assert_eq!(device.download(&target), expected);
    });
}

#[test]
fn runs_warp_operations() {
    on_emulator(&[], || {
        let device = Device::new();
        let values = device.poisoned::<u32>(256);
        launch_planted!(device, "planted_warp_f32", blocks(1), &values).unwrap();
        for (thread, value) in device.download(&values).into_iter().enumerate() {
            let lane = thread % 32;
            let (down, from) = (if lane + 3 < 32 { lane + 3 } else { lane }, thread - lane + 5);
            assert_eq!(value as usize, down + 100 * from + 1_000_000, "thread {thread}");
        }
    });
}

#[test]
fn captures_and_replays() {
    on_emulator(&[], || {
        let device = Device::new();
        let mut pinned = unsafe { device.context.alloc_pinned::<f32>(4) }.unwrap();
        pinned.as_mut_slice().unwrap().copy_from_slice(&[1.0, 2.0, 3.0, 4.0]);
        let total = device.stream.alloc_zeros::<f32>(4).unwrap();
        let mut step = device.stream.alloc_zeros::<f32>(4).unwrap();
        let add = device.kernel("add_forward_f32");
        device.wait().unwrap();

        device.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        device.stream.memcpy_htod(&pinned, &mut step).unwrap();
        queue(&device.stream, &add, blocks(1), &[&total, &step, &total, &4u64]).unwrap();
        let graph = device.stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().expect("work was recorded");

        assert_eq!(device.download(&total), [0.0; 4], "capturing runs nothing");
        graph.launch().unwrap();
        graph.launch().unwrap();
        device.wait().unwrap();
        assert_eq!(device.download(&total), [2.0, 4.0, 6.0, 8.0]);
        // Host memory is read when the graph runs.
        pinned.as_mut_slice().unwrap().fill(10.0);
        graph.launch().unwrap();
        assert_eq!(device.download(&total), [12.0, 14.0, 16.0, 18.0]);
    });
}

#[test]
fn a_copy_runs_only_when_waited_for() {
    on_emulator(&[], || {
        let device = Device::new();
        let values = device.upload(&[7.0f32; 2]);
        let mut pinned = unsafe { device.context.alloc_pinned::<f32>(2) }.unwrap();
        pinned.as_mut_slice().unwrap().fill(0.0);
        let host = pinned.as_ptr().unwrap();
        device.stream.memcpy_dtoh(&values, &mut pinned).unwrap();
        // SAFETY: the pinned memory is alive; the test reads it before the copy on purpose.
        assert_eq!(unsafe { *host }, 0.0, "the copy waits in the stream");
        device.wait().unwrap();
        assert_eq!(pinned.as_slice().unwrap(), [7.0; 2]);
    });
}

#[test]
fn times_with_events() {
    on_emulator(&[], || {
        let device = Device::new();
        let timed = Some(cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT);
        let start = device.stream.record_event(timed).unwrap();
        let end = device.stream.record_event(timed).unwrap();
        assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
    });
}

#[test]
fn a_capture_forks_by_events_and_must_be_joined() {
    on_emulator(&[], || {
        let device = Device::new();
        let other = device.context.new_stream().unwrap();
        let mut values = device.upload(&[1.0f32; 4]);
        let begin = || device.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let end = || device.stream.end_capture(CUgraphInstantiate_flags(0));
        for joined in [false, true] {
            begin();
            other.wait(&device.stream.record_event(None).unwrap()).unwrap();
            other.memset_zeros(&mut values).unwrap();
            if joined {
                device.stream.wait(&other.record_event(None).unwrap()).unwrap();
                end().unwrap().unwrap().launch().unwrap();
            } else {
                assert_eq!(end().err().unwrap().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
                assert_eq!(device.download(&values), [1.0; 4]);
            }
        }
        assert_eq!(device.download(&values), [0.0; 4]);

        let outside = other.record_event(None).unwrap();
        begin();
        assert_eq!(device.stream.wait(&outside).unwrap_err().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        assert_eq!(end().err().unwrap().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    });
}

/// Independent nodes of a graph run in alternating orders, so that a missing dependency shows.
#[test]
fn replays_alternate_the_order_of_independent_nodes() {
    on_emulator(&[], || {
        let device = Device::new();
        let other = device.context.new_stream().unwrap();
        let (mut source, mut target) = (device.upload(&[1.0f32]), device.poisoned::<f32>(1));
        let mut copies = |waits: bool| {
            device.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
            other.wait(&device.stream.record_event(None).unwrap()).unwrap();
            other.memcpy_dtod(&source, &mut target).unwrap();
            let copied = other.record_event(None).unwrap();
            if waits {
                device.stream.wait(&copied).unwrap();
            }
            device.stream.memset_zeros(&mut source).unwrap();
            device.stream.wait(&copied).unwrap();
            let graph = device.stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().expect("work was recorded");
            [(); 2].map(|()| {
                device.stream.memcpy_htod(&[1.0], &mut source).unwrap();
                graph.launch().unwrap();
                device.download(&target)[0]
            })
        };
        assert_eq!(copies(true), [1.0, 1.0]);
        assert_eq!(copies(false), [1.0, 0.0]);
    });
}

#[test]
fn refuses_parallel_branches_that_write_the_same_memory() {
    let said = on_emulator(&[], || {
        let device = Device::new();
        let other = device.context.new_stream().unwrap();
        let (sum, term) = (device.upload(&[0.0f32; 4]), device.upload(&[1.0f32; 4]));
        let add = device.kernel("add_forward_f32");
        device.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        other.wait(&device.stream.record_event(None).unwrap()).unwrap();
        for stream in [&other, &device.stream] {
            queue(stream, &add, blocks(1), &[&sum, &term, &sum, &4u64]).unwrap();
        }
        device.stream.wait(&other.record_event(None).unwrap()).unwrap();
        let ended = device.stream.end_capture(CUgraphInstantiate_flags(0)).map(|_| ());
        assert_eq!(ended.err().unwrap().0, CUresult::CUDA_ERROR_INVALID_VALUE);
    });
    assert!(
        said.is_none_or(|said| said.contains("may run concurrently, and one writes memory that the other accesses"))
    );
}
