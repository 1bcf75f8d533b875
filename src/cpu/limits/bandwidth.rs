//! Bytes per second that threads read, write and copy in each cache level and in memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, anyhow};
use rayon::ThreadPool;

use super::caches::Cache;
use super::loops::{Access, BLOCK, access, access_by_system};
use super::{Instructions, LONG_WINDOWS, WINDOWS, best, rate};
use crate::cpu::runtime::memory::zeroed;
use crate::ops::{MemoryLevel, Rate};

/// Bytes of the buffer in memory: so many times the last caches, but within these bounds.
const BEYOND_CACHES: usize = 4;
const LEAST_MEMORY: usize = 64 << 20;
const MOST_MEMORY: usize = 1 << 30;

/// Bytes that are accessed between two looks at the clock, unless the buffer is larger.
const BYTES_PER_LOOK: usize = 2 << 20;

/// Bytes per thread that take longer to access than a short measurement.
const LONG: usize = 32 << 20;

/// Bytes of a cache line and of the widest vector, to which the buffer is aligned.
const LINE: usize = 64;

/// Bytes per element.
const FLOAT: usize = size_of::<f32>();

/// The bytes that are accessed in a level: by one thread alone, and by each of all threads.
struct Sizes {
    one_thread: usize,
    each: usize,
}

/// Measures every level, the nearest first, memory last.
pub(super) fn measure(pool: &ThreadPool, set: Instructions, caches: &[Cache]) -> Result<Vec<MemoryLevel>> {
    let threads = pool.current_num_threads();
    let memory = memory_sizes(caches, threads);
    let mut buffer = allocate(memory.one_thread.max(blocks(memory.each) * FLOAT * threads))?;
    let skipped = buffer.as_ptr().align_offset(LINE).min(BLOCK);
    let buffer = &mut buffer[skipped..];
    // Each thread writes its part first, so that the system places it near that thread.
    let parts = parts(buffer, threads);
    pool.broadcast(|context| lock(&parts[context.index()]).fill(1.0));
    drop(parts);
    let mut levels = Vec::new();
    for (index, cache) in caches.iter().enumerate() {
        let nearer = index.checked_sub(1).map(|nearer| &caches[nearer]);
        let [one_thread, each] = [1, threads].map(|threads| size_in(cache, nearer, threads));
        let sizes = Sizes { one_thread: one_thread.min(memory.one_thread), each: each.min(memory.each) };
        let cache_bytes = Some(cache.share(threads) * threads);
        levels.push(measure_level(pool, set, buffer, format!("L{}", cache.level), cache_bytes, &sizes));
    }
    levels.push(measure_level(pool, set, buffer, "memory".into(), None, &memory));
    Ok(levels)
}

/// The bytes of a thread's buffer in a cache: half of its share, but more than the nearer cache holds.
fn size_in(cache: &Cache, nearer: Option<&Cache>, threads: usize) -> usize {
    let least = nearer.map_or(0, |nearer| nearer.share(threads) / 2 * 3);
    (cache.share(threads) / 2).max(least)
}

fn memory_sizes(caches: &[Cache], threads: usize) -> Sizes {
    let wanted = |threads: usize| {
        let last = caches.last().map_or(0, |cache| cache.share(threads) * threads);
        (BEYOND_CACHES * last).clamp(LEAST_MEMORY, MOST_MEMORY)
    };
    Sizes { one_thread: wanted(1), each: wanted(threads) / threads }
}

/// A buffer of so many bytes and a block more.
fn allocate(bytes: usize) -> Result<Vec<f32>> {
    let megabytes = bytes / 1_000_000;
    zeroed(blocks(bytes) + BLOCK)
        .map_err(|_| anyhow!("not enough memory to measure its bandwidth, which needs {megabytes} MB"))
}

fn measure_level(
    pool: &ThreadPool,
    set: Instructions,
    buffer: &mut [f32],
    name: String,
    cache_bytes: Option<usize>,
    sizes: &Sizes,
) -> MemoryLevel {
    let (threads, one_thread, each) = (pool.current_num_threads(), blocks(sizes.one_thread), blocks(sizes.each));
    let mut rate = |access| {
        let mut of = |len: usize, threads: usize| speed(pool, set, access, buffer, len, threads);
        let alone = of(one_thread, 1);
        Rate { one_thread: alone, all_threads: if threads == 1 { alone } else { of(each, threads) } }
    };
    MemoryLevel {
        read: rate(Access::Read),
        write: rate(Access::Write),
        copy: rate(Access::Copy),
        one_thread_bytes: one_thread * FLOAT,
        all_threads_bytes: each * FLOAT * threads,
        name,
        cache_bytes,
    }
}

/// The number of floats in so many bytes, in whole blocks.
fn blocks(bytes: usize) -> usize {
    (bytes / FLOAT / (2 * BLOCK)).max(1) * 2 * BLOCK
}

/// The parts of a buffer for so many threads, each of whole blocks.
fn parts(buffer: &mut [f32], threads: usize) -> Vec<Mutex<&mut [f32]>> {
    let part = buffer.len() / threads / (2 * BLOCK) * (2 * BLOCK);
    buffer.chunks_mut(part).take(threads).map(Mutex::new).collect()
}

/// Bytes per second of `threads` threads, each of which accesses `len` floats: by this program's vectors, or by the
/// system's functions if these are faster.
fn speed(pool: &ThreadPool, set: Instructions, what: Access, buffer: &mut [f32], len: usize, threads: usize) -> f64 {
    let (parts, calls) = (parts(buffer, threads), (BYTES_PER_LOOK / FLOAT / len).max(1));
    let count = if len * FLOAT > LONG { LONG_WINDOWS } else { WINDOWS };
    let run = |body: &(dyn Fn(&mut [f32]) + Sync)| {
        best(pool, threads > 1, count, |thread| {
            let mut part = lock(&parts[thread]);
            rate((calls * len * FLOAT) as f64, || (0..calls).for_each(|_| body(&mut part[..len])))
        })
    };
    let by_vectors = run(&|part| access(set, what, part));
    match what {
        Access::Read => by_vectors,
        _ => by_vectors.max(run(&|part| access_by_system(what, part))),
    }
}

/// A poisoned lock means that another thread has panicked, which ends the measurement in any case.
fn lock<'a, 'b>(part: &'a Mutex<&'b mut [f32]>) -> MutexGuard<'a, &'b mut [f32]> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}
