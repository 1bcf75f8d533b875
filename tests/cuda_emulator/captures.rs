//! Calls from other threads invalidate a stream capture exactly if they do so on a GPU.

use std::sync::Arc;
use std::thread;

use cudarc::cublas::CudaBlas;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode as Mode};
use cudarc::driver::{CudaStream, DriverError, result};

use super::device::Device;
use crate::support::emulator::on_emulator;

const GLOBAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_GLOBAL;
const THREAD_LOCAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const RELAXED: Mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;

/// Makes `call` on another thread during a capture on `stream`. Returns the results of the capture and of the call.
fn during<T: Send>(
    stream: &Arc<CudaStream>,
    mode: Mode,
    call: impl FnOnce() -> Result<T, DriverError> + Send,
) -> (Result<(), CUresult>, Result<(), CUresult>) {
    stream.begin_capture(mode).unwrap();
    let context = stream.context();
    let called = thread::scope(|scope| {
        let other = scope.spawn(|| {
            context.bind_to_thread().unwrap();
            call().map(drop).map_err(|error| error.0)
        });
        other.join().unwrap()
    });
    (stream.end_capture(CUgraphInstantiate_flags(0)).map(drop).map_err(|error| error.0), called)
}

const INVALIDATED: Result<(), CUresult> = Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
const UNSUPPORTED: Result<(), CUresult> = Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);

#[test]
fn synchronising_a_context_invalidates_its_captures() {
    on_emulator(&[], || {
        let device = Device::new();
        for mode in [GLOBAL, THREAD_LOCAL, RELAXED] {
            assert_eq!(
                during(&device.stream, mode, || device.context.synchronize()),
                (INVALIDATED, UNSUPPORTED),
                "{mode:?}"
            );
        }
    });
}

#[test]
fn other_threads_may_allocate_and_wait_during_a_thread_local_capture() {
    on_emulator(&[], || {
        let device = Device::new();
        let other = device.context.new_stream().unwrap();
        for (mode, expected) in [(GLOBAL, (INVALIDATED, UNSUPPORTED)), (THREAD_LOCAL, (Ok(()), Ok(())))] {
            // SAFETY: the memory is not used.
            let allocate = || unsafe { result::malloc_sync(16) };
            assert_eq!(during(&device.stream, mode, allocate), expected);
            assert_eq!(during(&device.stream, mode, || other.synchronize()), expected);
            // SAFETY: as above.
            let page_locked = || unsafe { device.context.alloc_pinned::<u8>(16) };
            assert_eq!(during(&device.stream, mode, page_locked), expected);
        }
        // Stream-ordered allocations do not affect captures.
        assert_eq!(during(&device.stream, GLOBAL, || other.alloc_zeros::<u8>(16)), (Ok(()), Ok(())));
    });
}

#[test]
fn the_legacy_stream_invalidates_captures_on_blocking_streams() {
    on_emulator(&[], || {
        use result::stream::{StreamKind, create};
        let device = Device::new();
        // SAFETY: the stream is never destroyed.
        let blocking = unsafe { device.context.wrap_borrowed_stream(create(StreamKind::Default).unwrap()) };
        let values = device.upload(&[1.0f32]);
        device.wait().unwrap();
        let legacy = device.context.default_stream();
        let copy = || legacy.clone_dtoh(&values);
        assert_eq!(during(&device.stream, THREAD_LOCAL, copy), (Ok(()), Ok(())));
        let implicit = Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        assert_eq!(during(&blocking, THREAD_LOCAL, copy), (INVALIDATED, implicit));
    });
}

/// According to cuBLAS's documentation, destroying a handle synchronises the device.
#[test]
fn destroying_a_cublas_handle_invalidates_a_capture() {
    on_emulator(&[], || {
        let device = Device::new();
        let handle = || CudaBlas::new(device.stream.clone()).unwrap();
        let blas = handle();
        let destroy = || {
            drop(blas);
            Ok(())
        };
        assert_eq!(during(&device.stream, THREAD_LOCAL, destroy), (INVALIDATED, Ok(())));
        assert_eq!(
            during(&device.stream, THREAD_LOCAL, || {
                std::mem::forget(handle());
                Ok(())
            }),
            (Ok(()), Ok(()))
        );
    });
}
