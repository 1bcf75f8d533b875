//! The CPU backend: the readable specification of every operator, parallel over fixed pieces of work.
//!
//! Work is cut by the shape of the problem, never by the number of threads, and every sum has a fixed order, so
//! results are bit-identical for any number of threads.

mod activation;
mod bias;
mod conv;
mod gather;
mod gemm;
mod join;
mod linear;
mod loss;
mod memory;
mod optimizer;
mod pool;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::ops::{Backend, DeviceInfo, MemorySizes, Recording, Region, Span};
use memory::Memory;

/// Elements of one piece of element-wise work: large enough to hide the cost of handing it out.
const ELEMENTWISE_CHUNK: usize = 32 * 1024;

/// The CPU as a device.
pub struct Cpu {
    pool: Arc<rayon::ThreadPool>,
    memory: Memory,
    gather: gather::State,
    loss: loss::State,
    conv: conv::Scratch,
    /// Partial bias gradients, kept between steps so that none allocates.
    bias_partials: Vec<f32>,
    learning_rate: f32,
}

impl Cpu {
    /// A backend of `threads` threads; `None` takes as many as the machine offers.
    ///
    /// # Errors
    /// For zero threads, or where the system refuses to start them.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.unwrap_or(available);
        ensure!(threads > 0, "at least one thread is needed");
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("cpu-{index}"))
            .build()
            .with_context(|| format!("cannot start {threads} threads; ask for fewer with --threads"))?;
        Ok(Self {
            pool: Arc::new(pool),
            memory: Memory::default(),
            gather: gather::State::default(),
            loss: loss::State::default(),
            conv: conv::Scratch::default(),
            bias_partials: Vec::new(),
            learning_rate: 0.0,
        })
    }

    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }
}

impl Backend for Cpu {
    fn info(&self) -> DeviceInfo {
        let threads = self.threads();
        let plural = if threads == 1 { "" } else { "s" };
        DeviceInfo { name: format!("CPU ({threads} thread{plural}, {})", instruction_set()), precision: "fp32".into() }
    }

    fn allocate(&mut self, sizes: &MemorySizes) -> Result<()> {
        self.memory = Memory::new(sizes)?;
        Ok(())
    }

    fn write(&mut self, span: Span, values: &[f32]) -> Result<()> {
        let [target] = self.memory.floats([span])?;
        ensure!(values.len() <= target.len(), "{} values do not fit {span:?}", values.len());
        target[..values.len()].copy_from_slice(values);
        Ok(())
    }

    fn read(&mut self, span: Span) -> Result<Vec<f32>> {
        if span.region == Region::Indices {
            return Ok(self.memory.indices(span)?.iter().map(|&index| index as f32).collect());
        }
        let [source] = self.memory.floats([span])?;
        Ok(source.to_vec())
    }

    fn run<F>(&mut self, _recording: Recording, mut body: F) -> Result<()>
    where
        F: FnMut(&mut Self) -> Result<()> + Send,
    {
        // The whole sequence runs inside the pool, so that no operator pays for entering it.
        let pool = Arc::clone(&self.pool);
        pool.install(|| body(self))
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The widest vector instructions that the matrix products use here.
fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return "AVX2";
        }
    }
    std::env::consts::ARCH
}
