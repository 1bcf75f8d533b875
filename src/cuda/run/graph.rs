//! Launches captured as a CUDA graph.

use std::sync::Arc;

use anyhow::{Context, Result};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream};

use crate::cuda::driver::{Turn, error};

/// A captured graph that can be launched.
pub(in crate::cuda) struct Graph {
    graph: CudaGraph,
    stream: Arc<CudaStream>,
}

// SAFETY: a graph is launched by one thread at a time, as `&mut` of its program guarantees.
unsafe impl Send for Graph {}

impl Graph {
    /// Captures the launches of `body` on `stream` without running them.
    pub fn capture(stream: &Arc<CudaStream>, body: impl FnOnce() -> Result<()>) -> Result<Self> {
        let _turn = Turn::take();
        // Thread-local mode makes a synchronous call in this thread an error, which relaxed mode would not, and does
        // not affect other threads.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(error::driver).context("capturing a step")?;
        let captured = body();
        // End the capture even if `body` failed; its error is returned below.
        let graph = stream.end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
        captured?;
        let graph = graph.map_err(error::driver).context("capturing a step")?.context("nothing was captured")?;
        Ok(Self { graph, stream: Arc::clone(stream) })
    }

    pub fn launch(&self) -> Result<()> {
        self.graph.launch().map_err(error::driver).context("launching a captured step")
    }
}

impl Drop for Graph {
    /// The graph must be destroyed in its context. An error here has occurred before and was reported then.
    fn drop(&mut self) {
        let _ = self.stream.context().bind_to_thread();
    }
}
