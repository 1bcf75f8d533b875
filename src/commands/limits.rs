//! What the program does at the limits of the system: memory, file sizes and threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};
use std::thread::available_parallelism;

use anyhow::{Result, anyhow};
use rayon::ThreadPoolBuilder;
use tracing::warn;

#[cfg(unix)]
use crate::report::cover;

/// Whether the system has refused an allocation.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// The system's allocator, which also records that an allocation was refused. Large allocations are tried, and their
/// failure is an ordinary error; the failure of any other one aborts the program, see [`prepare`].
#[derive(Debug)]
pub struct Allocator;

// SAFETY: all calls are passed on to the system's allocator, whose contract is the same.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        noted(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        noted(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract.
        noted(unsafe { System.realloc(pointer, layout, size) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn noted(pointer: *mut u8) -> *mut u8 {
    if pointer.is_null() {
        REFUSED.store(true, Ordering::Relaxed);
    }
    pointer
}

/// Makes the limits of memory and of file sizes errors with a sentence and exit code 1 instead of signals that end the
/// process: a write beyond the largest file size (`ulimit -f`) fails like any other write, and an abort because of a
/// refused allocation exits.
#[cfg(unix)]
pub fn prepare() {
    // SAFETY: ignoring a signal has no requirements. The handler only uses functions that signals may interrupt.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::signal(libc::SIGABRT, exit_if_out_of_memory as *const () as libc::sighandler_t);
    }
}

#[cfg(not(unix))]
pub fn prepare() {}

/// Handles `SIGABRT`: uncovers the terminal, and returns if memory was not refused, so that the program aborts.
#[cfg(unix)]
extern "C" fn exit_if_out_of_memory(_signal: libc::c_int) {
    const SENTENCE: &[u8] =
        b"error: the system has too little memory; try a smaller --batch-size or --eval-batch-size, smaller images, or \
        another model\n";
    if cover::is_on() {
        // SAFETY: the function may be called in a signal handler, and the text has this length.
        unsafe { libc::write(2, cover::LEAVE.as_ptr().cast(), cover::LEAVE.len()) };
    }
    if REFUSED.load(Ordering::Relaxed) {
        // SAFETY: both functions may be called in a signal handler, and the text has this length.
        unsafe {
            libc::write(2, SENTENCE.as_ptr().cast(), SENTENCE.len());
            libc::_exit(1);
        }
    }
}

/// Threads per processor beyond which more would only wait for each other.
const MOST_PER_PROCESSOR: usize = 4;

/// The number of threads of a pool for which `wanted` are asked, with a warning if the machine has too few processors for
/// that many. Results do not depend on it.
pub fn bounded_threads(wanted: Option<usize>) -> Option<usize> {
    static WARNED: Once = Once::new();
    let processors = available_parallelism().map_or(1, usize::from);
    let most = MOST_PER_PROCESSOR * processors;
    if wanted.is_some_and(|wanted| wanted > most) {
        WARNED.call_once(|| warn!("--threads is limited to {most}, since there are {processors} processors"));
    }
    wanted.map(|wanted| wanted.min(most))
}

/// Starts the threads that read and decode data, once per process: `threads` of them, otherwise as many as there are
/// processors, or fewer if `RAYON_NUM_THREADS` says so.
///
/// # Errors
/// If the system does not allow so many.
pub fn start_pool(threads: Option<usize>) -> Result<()> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let processors = available_parallelism().map_or(1, usize::from);
    let wanted = env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok());
    let wanted = wanted.filter(|wanted| (1..=processors).contains(wanted));
    let threads = threads.or(wanted).unwrap_or(processors);
    let start = || ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(|error| error.to_string());
    STARTED.get_or_init(start).clone().map_err(|error| {
        anyhow!(
            "cannot start {threads} threads to read data: {error}; try a smaller --threads, or raise the limits of \
             processes and memory (`ulimit -u`, `ulimit -v`)"
        )
    })
}
