//! What another thread does to a capture: it is broken by what breaks it on a GPU, and by nothing else.

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

/// How a capture on `stream` ends, and what `call` returns that another thread makes meanwhile.
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

const BROKEN: Result<(), CUresult> = Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
const REFUSED: Result<(), CUresult> = Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);

#[test]
fn a_context_is_not_synchronised_while_any_thread_captures_in_it() {
    on_emulator(&[], || {
        let device = Device::new();
        for mode in [GLOBAL, THREAD_LOCAL, RELAXED] {
            assert_eq!(during(&device.stream, mode, || device.context.synchronize()), (BROKEN, REFUSED), "{mode:?}");
        }
    });
}

#[test]
fn other_threads_allocate_and_wait_beside_a_thread_local_capture() {
    on_emulator(&[], || {
        let device = Device::new();
        let other = device.context.new_stream().unwrap();
        for (mode, expected) in [(GLOBAL, (BROKEN, REFUSED)), (THREAD_LOCAL, (Ok(()), Ok(())))] {
            // SAFETY: nothing is done with the memory.
            let allocate = || unsafe { result::malloc_sync(16) };
            assert_eq!(during(&device.stream, mode, allocate), expected);
            assert_eq!(during(&device.stream, mode, || other.synchronize()), expected);
            // SAFETY: as above.
            let page_locked = || unsafe { device.context.alloc_pinned::<u8>(16) };
            assert_eq!(during(&device.stream, mode, page_locked), expected);
        }
        // Allocations in stream order disturb nobody.
        assert_eq!(during(&device.stream, GLOBAL, || other.alloc_zeros::<u8>(16)), (Ok(()), Ok(())));
    });
}

#[test]
fn the_legacy_stream_disturbs_captures_on_blocking_streams() {
    on_emulator(&[], || {
        use result::stream::{StreamKind, create};
        let device = Device::new();
        // SAFETY: it lives as long as the process.
        let blocking = unsafe { device.context.wrap_borrowed_stream(create(StreamKind::Default).unwrap()) };
        let values = device.upload(&[1.0f32]);
        device.wait().unwrap();
        let legacy = device.context.default_stream();
        let copy = || legacy.clone_dtoh(&values);
        assert_eq!(during(&device.stream, THREAD_LOCAL, copy), (Ok(()), Ok(())));
        let implicit = Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        assert_eq!(during(&blocking, THREAD_LOCAL, copy), (BROKEN, implicit));
    });
}

/// cuBLAS's documentation says that giving up a handle synchronises the device.
#[test]
fn the_end_of_a_cublas_handle_breaks_a_capture() {
    on_emulator(&[], || {
        let device = Device::new();
        let handle = || CudaBlas::new(device.stream.clone()).unwrap();
        let blas = handle();
        let end = || {
            drop(blas);
            Ok(())
        };
        assert_eq!(during(&device.stream, THREAD_LOCAL, end), (BROKEN, Ok(())));
        assert_eq!(
            during(&device.stream, THREAD_LOCAL, || {
                std::mem::forget(handle());
                Ok(())
            }),
            (Ok(()), Ok(()))
        );
    });
}
