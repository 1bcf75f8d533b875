//! The emulator runs work as late as CUDA allows, and runs streams in either order if no event orders them.

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaSlice, CudaStream, PinnedHostSlice, result};

use super::device::{Device, blocks};
use crate::support::emulator::on_emulator;

/// Page-locked memory that holds `values`, and its address for reads that wait for nothing.
fn pinned(device: &Device, values: &[f32]) -> (PinnedHostSlice<f32>, *mut f32) {
    // SAFETY: the memory is filled immediately.
    let mut pinned = unsafe { device.context.alloc_pinned::<f32>(values.len()) }.unwrap();
    pinned.as_mut_slice().unwrap().copy_from_slice(values);
    let address = pinned.as_mut_ptr().unwrap();
    (pinned, address)
}

/// Queues a copy of the first number of `from` to page-locked memory, which holds zero until the copy runs.
fn queue_fetch(device: &Device, stream: &Arc<CudaStream>, from: &CudaSlice<f32>) -> (PinnedHostSlice<f32>, *mut f32) {
    let (mut host, address) = pinned(device, &[0.0]);
    stream.memcpy_dtoh(from, &mut host).unwrap();
    (host, address)
}

/// Reads the memory now, without waiting.
fn seen((_, address): &(PinnedHostSlice<f32>, *mut f32)) -> f32 {
    // SAFETY: the slice keeps the memory alive; the test reads it while a copy may be pending.
    unsafe { address.read_volatile() }
}

#[test]
fn a_copy_reads_page_locked_memory_when_it_runs() {
    on_emulator(&[], || {
        let device = Device::new();
        let mut target = device.poisoned::<f32>(1);
        let (host, address) = pinned(&device, &[1.0]);
        device.stream.memcpy_htod(&host, &mut target).unwrap();
        // SAFETY: nothing reads the memory at the same time; the test expects the copy to read it later.
        unsafe { address.write_volatile(2.0) };
        assert_eq!(device.download(&target), [2.0], "the host did not wait, so the copy reads the newer number");
        device.stream.memcpy_htod(&host, &mut target).unwrap();
        let copied = device.stream.record_event(None).unwrap();
        copied.synchronize().unwrap();
        // SAFETY: as above.
        unsafe { address.write_volatile(3.0) };
        assert_eq!(device.download(&target), [2.0]);
        // Pageable memory is read before the call returns.
        let mut ordinary = [4.0];
        device.stream.memcpy_htod(&ordinary, &mut target).unwrap();
        ordinary[0] = 5.0;
        assert_eq!((device.download(&target), ordinary), (vec![4.0], [5.0]));
    });
}

#[test]
fn a_wait_runs_only_the_work_that_it_waits_for() {
    on_emulator(&[], || {
        let device = Device::new();
        let other = device.context.new_stream().unwrap();
        let values = device.upload(&[7.0f32]);
        device.wait().unwrap();
        let first = queue_fetch(&device, &device.stream, &values);
        let mark = device.stream.record_event(None).unwrap();
        let second = queue_fetch(&device, &device.stream, &values);
        let unrelated = queue_fetch(&device, &other, &values);
        let all = || [seen(&first), seen(&second), seen(&unrelated)];
        assert_eq!(all(), [0.0; 3]);
        mark.synchronize().unwrap();
        assert_eq!(all(), [7.0, 0.0, 0.0]);
        device.wait().unwrap();
        assert_eq!(all(), [7.0, 7.0, 0.0]);
        device.context.synchronize().unwrap();
        assert_eq!(all(), [7.0; 3]);
    });
}

#[test]
fn an_event_orders_work_between_streams() {
    on_emulator(&[], || {
        let device = Device::new();
        let [second, third] = [(); 2].map(|()| device.context.new_stream().unwrap());
        let values = device.upload(&[7.0f32]);
        device.wait().unwrap();
        let before = queue_fetch(&device, &device.stream, &values);
        let mark = device.stream.record_event(None).unwrap();
        let after = queue_fetch(&device, &device.stream, &values);
        let skipped = queue_fetch(&device, &third, &values);
        second.wait(&mark).unwrap();
        // Recording the event again or dropping it does not change what `second` waits for.
        mark.record(&third).unwrap();
        drop(mark);
        second.synchronize().unwrap();
        assert_eq!([&before, &after, &skipped].map(seen), [7.0, 0.0, 0.0]);
        device.context.synchronize().unwrap();
    });
}

/// Waits alternate between running the older and the newer stream first, so a missing event shows in one of them.
#[test]
fn streams_without_an_event_between_them_run_in_either_order() {
    on_emulator(&[], || {
        let device = Device::new();
        let [second, last] = [(); 2].map(|()| device.context.new_stream().unwrap());
        let (one, two) = (device.upload(&[1.0f32]), device.upload(&[2.0f32]));
        let mut target = device.poisoned::<f32>(1);
        device.wait().unwrap();
        let mut race = |ordered: bool| {
            device.stream.memcpy_dtod(&one, &mut target).unwrap();
            if ordered {
                second.join(&device.stream).unwrap();
            }
            second.memcpy_dtod(&two, &mut target).unwrap();
            last.join(&device.stream).unwrap();
            last.join(&second).unwrap();
            last.clone_dtoh(&target).unwrap()[0]
        };
        assert_eq!([race(true), race(true)], [2.0, 2.0]);
        let mut found = [race(false), race(false)];
        found.sort_by(f32::total_cmp);
        assert_eq!(found, [1.0, 2.0]);
    });
}

#[test]
fn an_event_query_first_reports_pending_and_then_complete() {
    on_emulator(&[], || {
        let device = Device::new();
        let values = device.upload(&[7.0f32]);
        let host = queue_fetch(&device, &device.stream, &values);
        let event = device.stream.record_event(None).unwrap();
        assert_eq!((event.try_is_complete().unwrap(), seen(&host)), (false, 0.0));
        assert_eq!((event.try_is_complete().unwrap(), seen(&host)), (true, 7.0));
        assert!(
            device.context.new_event(None).unwrap().try_is_complete().unwrap(),
            "an event that was never recorded is complete"
        );
    });
}

#[test]
fn the_default_stream_and_blocking_streams_wait_for_each_other() {
    on_emulator(&[], || {
        use result::stream::{StreamKind, create};
        let device = Device::new();
        // SAFETY: the stream is never destroyed.
        let blocking = unsafe { device.context.wrap_borrowed_stream(create(StreamKind::Default).unwrap()) };
        let legacy = device.context.default_stream();
        let values = device.upload(&[7.0f32]);
        device.wait().unwrap();
        let first = queue_fetch(&device, &blocking, &values);
        let second = queue_fetch(&device, &legacy, &values);
        let third = queue_fetch(&device, &blocking, &values);
        let unrelated = queue_fetch(&device, &device.stream, &values);
        let all = || [seen(&first), seen(&second), seen(&third), seen(&unrelated)];
        assert_eq!(all(), [0.0; 4]);
        let fourth = queue_fetch(&device, &legacy, &values);
        legacy.synchronize().unwrap();
        assert_eq!((all(), seen(&fourth)), ([7.0, 7.0, 7.0, 0.0], 7.0));
        device.wait().unwrap();
    });
}

#[test]
fn elapsed_time_counts_one_streams_work_between_two_events() {
    on_emulator(&[], || {
        let device = Device::new();
        let other = device.context.new_stream().unwrap();
        let mut values = device.upload(&[7.0f32]);
        device.wait().unwrap();
        let mark = |stream: &CudaStream| {
            stream.record_event(Some(cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap()
        };
        let mut between = |clears: usize| {
            let start = mark(&device.stream);
            for _ in 0..clears {
                device.stream.memset_zeros(&mut values).unwrap();
                other.memset_zeros(&mut values).unwrap();
            }
            let end = mark(&device.stream);
            device.context.synchronize().unwrap();
            (start.elapsed_ms(&end).unwrap() * 1e6).round()
        };
        assert_eq!([between(0), between(1), between(5)], [1000.0, 2000.0, 6000.0]);
    });
}

/// Expects a fault after `free` frees memory or a module that queued work still needs.
fn free_too_early(free: fn(&Device)) {
    let device = Device::new();
    free(&device);
    assert_eq!(device.wait().unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    std::mem::forget(device);
}

#[test]
fn catches_page_locked_memory_that_is_freed_too_early() {
    let stderr = on_emulator(&[], || {
        free_too_early(|device| {
            let values = device.upload(&[7.0f32]);
            drop(queue_fetch(device, &device.stream, &values));
            std::mem::forget(values);
        });
    });
    assert!(stderr.is_none_or(|stderr| stderr.contains("its page-locked memory was freed before it ran")));
}

#[test]
fn catches_a_module_that_is_unloaded_too_early() {
    let stderr = on_emulator(&[], || {
        free_too_early(|device| {
            use cudarc::driver::PushKernelArg;
            let values = device.upload(&[1.0f32; 32]);
            let function = device.kernel("planted_missing_barrier_f32");
            // SAFETY: the argument matches the kernel, which never runs.
            unsafe { device.stream.launch_builder(&function).arg(&values).launch(blocks(1)) }.unwrap();
            drop(function);
            std::mem::forget(values);
        });
    });
    assert!(stderr.is_none_or(|stderr| stderr.contains("its module was unloaded before it ran")));
}
