//! The threads of the CPU backend: each on a processor of its own, where there is one for each.

use std::sync::Arc;

use anyhow::{Context, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// A pool of `threads` threads. Where that is as many as this process may use processors, each stays on its own:
/// otherwise the system may start two on one processor, and takes tens of milliseconds to part them.
pub(in crate::cpu) fn pool(threads: usize) -> Result<Arc<ThreadPool>> {
    let processors = processors();
    let pinned = processors.len() == threads;
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("cpu-{index}"))
        .start_handler(move |index| {
            if pinned {
                stay_on(processors[index]);
            }
        })
        .build()
        .map(Arc::new)
        .with_context(|| format!("cannot start {threads} threads; ask for fewer with --threads"))
}

/// The numbers of the processors that this process may use; none where the system does not tell.
#[cfg(target_os = "linux")]
fn processors() -> Vec<usize> {
    // SAFETY: all zeros is an empty set, and the call gets the set's size.
    let (set, failed) = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let failed = libc::sched_getaffinity(0, size_of_val(&set), &mut set) != 0;
        (set, failed)
    };
    let all = 0..if failed { 0 } else { libc::CPU_SETSIZE as usize };
    // SAFETY: the numbers are below the size of a set.
    all.filter(|&processor| unsafe { libc::CPU_ISSET(processor, &set) }).collect()
}

/// Keeps the calling thread on one processor. Where the system refuses, it runs wherever it is put.
#[cfg(target_os = "linux")]
fn stay_on(processor: usize) {
    // SAFETY: the number came out of such a set, and the call gets the set's size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

#[cfg(not(target_os = "linux"))]
fn processors() -> Vec<usize> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
fn stay_on(_processor: usize) {}
