//! The thread pool of the CPU backend, with threads pinned to processors if there is one processor per thread.

use std::sync::Arc;

use anyhow::{Context, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// A pool of `threads` threads. If this process may use exactly that many processors, each thread is pinned to one:
/// otherwise the system may start two threads on the same processor, and takes tens of milliseconds to separate them.
pub(in crate::cpu) fn pool(threads: usize) -> Result<Arc<ThreadPool>> {
    let processors = processors();
    let pinned = processors.len() == threads;
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("cpu-{index}"))
        .start_handler(move |index| {
            if pinned {
                pin_to(processors[index]);
            }
        })
        .build()
        .map(Arc::new)
        .with_context(|| format!("cannot start {threads} threads; try a smaller --threads"))
}

/// The processors that this process may use; empty if the system does not report them.
#[cfg(target_os = "linux")]
pub(in crate::cpu) fn processors() -> Vec<usize> {
    // SAFETY: an all-zero `cpu_set_t` is a valid empty set, and the call receives the set's size.
    let (set, failed) = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let failed = libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) != 0;
        (set, failed)
    };
    let all = 0..if failed { 0 } else { libc::CPU_SETSIZE as usize };
    // SAFETY: the numbers are below `CPU_SETSIZE`.
    all.filter(|&processor| unsafe { libc::CPU_ISSET(processor, &set) }).collect()
}

/// Pins the calling thread to one processor; without effect if the system refuses.
#[cfg(target_os = "linux")]
fn pin_to(processor: usize) {
    // SAFETY: the number is a member of such a set, and the call receives the set's size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

#[cfg(not(target_os = "linux"))]
pub(in crate::cpu) fn processors() -> Vec<usize> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
fn pin_to(_processor: usize) {}
