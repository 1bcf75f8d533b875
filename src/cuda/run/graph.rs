//! Launches captured as a CUDA graph.

use std::ptr;
use std::sync::Arc;

use anyhow::{Context, Result};
use cudarc::driver::sys::{self, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaStream, DriverError, result};

use crate::cuda::driver::{Turn, error};

/// A captured graph that can be launched.
pub(in crate::cuda) struct Graph {
    graph: sys::CUgraph,
    exec: sys::CUgraphExec,
    stream: Arc<CudaStream>,
}

impl Graph {
    /// Captures what `body` launches on `stream`; nothing runs.
    pub fn capture(stream: &Arc<CudaStream>, body: impl FnOnce() -> Result<()>) -> Result<Self> {
        let _turn = Turn::take();
        // Relaxed would let a synchronous call slip in; thread-local refuses it here and leaves other threads alone.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(error::driver).context("capturing a step")?;
        let captured = body();
        // Where the body failed, the capture is ended and dropped.
        let graph = Self::captured(stream);
        captured?;
        graph.map_err(error::driver).context("capturing a step")
    }

    /// Ends the capture on `stream`.
    fn captured(stream: &Arc<CudaStream>) -> Result<Self, DriverError> {
        // SAFETY: the stream is alive.
        let graph = unsafe { result::stream::end_capture(stream.cu_stream()) }?;
        let mut captured = Self { graph, exec: ptr::null_mut(), stream: Arc::clone(stream) };
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        // SAFETY: the graph was just captured.
        captured.exec = unsafe { result::graph::instantiate(graph, flags) }?;
        Ok(captured)
    }

    pub fn launch(&self) -> Result<()> {
        // SAFETY: graph and stream are alive.
        unsafe { result::graph::launch(self.exec, self.stream.cu_stream()) }
            .map_err(error::driver)
            .context("launching a captured step")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // What fails here has failed before, and was reported.
        let _ = self.stream.context().bind_to_thread();
        // SAFETY: both were made by `captured`, and nothing else knows them.
        unsafe {
            if !self.exec.is_null() {
                let _ = result::graph::exec_destroy(self.exec);
            }
            if !self.graph.is_null() {
                let _ = result::graph::destroy(self.graph);
            }
        }
    }
}

// SAFETY: a graph is launched by one thread at a time, as `&mut` of its program guarantees.
unsafe impl Send for Graph {}
