//! The measured speeds of a processor, which limit every operator that runs on it.

use serde::Serialize;

use super::precision::Precision;

/// A speed: of one thread, and of all threads of the backend together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rate {
    pub one_thread: f64,
    pub all_threads: f64,
}

/// Floating-point operations per second with an instruction set; a multiply-add counts as two.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Arithmetic {
    pub instructions: &'static str,
    pub precision: Precision,
    /// With multiply-adds on registers, which nothing exceeds.
    pub peak: Rate,
    /// In this program's product of two large square matrices.
    pub product: Rate,
}

/// Bytes per second from and to a cache level or memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryLevel {
    /// `L1`, `L2`, `L3` or `memory`.
    pub name: String,
    /// Bytes of the caches of this level that the threads use, together; `None` for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_bytes: Option<usize>,
    /// Bytes that one thread alone accesses again and again.
    pub one_thread_bytes: usize,
    /// Bytes that all threads together access, each its own part.
    pub all_threads_bytes: usize,
    pub read: Rate,
    pub write: Rate,
    /// Bytes read and bytes written are both counted.
    pub copy: Rate,
}

/// The limits of a processor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProcessorLimits {
    pub threads: usize,
    /// The instruction set in use.
    pub instructions: &'static str,
    /// Peak of all threads with the instructions and the precision in use.
    pub peak_flops: f64,
    /// The same in a product of two large square matrices.
    pub product_flops: f64,
    pub arithmetic: Vec<Arithmetic>,
    /// Whether the system reports the sizes of the caches; otherwise usual sizes are assumed.
    pub cache_sizes_known: bool,
    /// From the nearest to the farthest; the last is memory.
    pub levels: Vec<MemoryLevel>,
    /// Seconds from the start to the end of an empty piece of work on every thread.
    pub parallel_region: f64,
}

impl MemoryLevel {
    /// The least seconds in which all threads read and write so many bytes: a copy of as much as is both read and
    /// written, and the rest by reading or writing alone.
    pub fn least_seconds(&self, read: f64, written: f64) -> f64 {
        let both = read.min(written);
        let (read, written) = (read - both, written - both);
        2.0 * both / self.copy.all_threads + read / self.read.all_threads + written / self.write.all_threads
    }
}

impl ProcessorLimits {
    /// Side of the matrices in the products.
    pub const PRODUCT_SIDE: usize = 1024;

    /// The nearest level that has room for so many bytes.
    pub fn level_of(&self, bytes: f64) -> &MemoryLevel {
        let has_room = |level: &&MemoryLevel| level.cache_bytes.is_none_or(|cache| bytes <= cache as f64);
        self.levels.iter().find(has_room).unwrap_or(&self.levels[self.levels.len() - 1])
    }
}
