//! Step sequences recorded as CUDA graphs: run once as they come, then captured, then replayed.

use std::collections::HashMap;
use std::ptr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use cudarc::driver::sys::{self, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaStream, DriverError, result};
use tracing::debug;

use super::{Cuda, error};
use crate::ops::{Recording, Subset};

/// The graphs of a backend.
#[derive(Default)]
pub(super) struct Graphs {
    recorded: HashMap<Recording, Recorded>,
    /// What the sequence at hand takes from the data sets, of which a replay must tell the host's books.
    pub gathers: Vec<(Subset, usize)>,
}

enum Recorded {
    /// It ran once, so that everything it needs is loaded.
    Warm,
    Graph {
        graph: Graph,
        gathers: Vec<(Subset, usize)>,
    },
}

/// A captured graph that can be launched.
struct Graph {
    graph: sys::CUgraph,
    exec: sys::CUgraphExec,
    /// Kernels and whatever else it runs.
    nodes: usize,
    stream: Arc<CudaStream>,
}

impl Graph {
    /// Ends the capture on `stream`.
    fn captured(stream: &Arc<CudaStream>) -> Result<Self, DriverError> {
        // SAFETY: the stream is alive.
        let graph = unsafe { result::stream::end_capture(stream.cu_stream()) }?;
        let mut captured = Self { graph, exec: ptr::null_mut(), nodes: 0, stream: Arc::clone(stream) };
        // SAFETY: the graph was just captured; without an array for the nodes, they are counted.
        unsafe { sys::cuGraphGetNodes(graph, ptr::null_mut(), &raw mut captured.nodes) }.result()?;
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        // SAFETY: as above.
        captured.exec = unsafe { result::graph::instantiate(graph, flags) }?;
        Ok(captured)
    }

    fn launch(&self) -> Result<(), DriverError> {
        // SAFETY: graph and stream are alive.
        unsafe { result::graph::launch(self.exec, self.stream.cu_stream()) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // What fails here has failed before, and was told.
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

// SAFETY: a graph is launched by one thread at a time, as `&mut` of the backend guarantees.
unsafe impl Send for Graphs {}

/// What is to be done with a sequence.
pub(super) enum Next {
    RunAsItComes,
    Capture,
    /// It is recorded; these are its gathers.
    Replay(Vec<(Subset, usize)>),
}

impl Graphs {
    /// Forgets all graphs: what they address is about to change.
    pub fn clear(&mut self) {
        self.recorded.clear();
    }

    /// What to do with a sequence now.
    pub fn next(&mut self, recording: Recording) -> Next {
        if recording == Recording::Once {
            return Next::RunAsItComes;
        }
        match self.recorded.get(&recording) {
            // What one step needs is loaded, and several need nothing else.
            None if self.nodes(recording.single()).is_some() => Next::Capture,
            None => {
                self.recorded.insert(recording, Recorded::Warm);
                Next::RunAsItComes
            }
            Some(Recorded::Warm) => Next::Capture,
            Some(Recorded::Graph { gathers, .. }) => Next::Replay(gathers.clone()),
        }
    }

    /// Forgets one graph, which the device must be done with.
    pub fn forget(&mut self, recording: Recording) {
        self.recorded.remove(&recording);
    }

    /// Nodes of a recorded sequence.
    pub fn nodes(&self, recording: Recording) -> Option<usize> {
        match self.recorded.get(&recording)? {
            Recorded::Graph { graph, .. } => Some(graph.nodes),
            Recorded::Warm => None,
        }
    }

    /// Launches a recorded sequence.
    pub fn launch(&self, recording: Recording) -> Result<()> {
        match self.recorded.get(&recording) {
            Some(Recorded::Graph { graph, .. }) => {
                graph.launch().map_err(error::driver).context("launching a recorded step")
            }
            _ => bail!("{recording:?} was not recorded"),
        }
    }

    /// Begins to record on `stream`.
    pub fn begin(&mut self, stream: &CudaStream) -> Result<()> {
        self.gathers.clear();
        // Relaxed would let a synchronous call slip in; thread-local refuses it here and leaves other threads alone.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(error::driver).context("recording a step")
    }

    /// Ends the recording and launches it for the first time. Where `body` failed, the capture is ended and dropped.
    pub fn end(&mut self, stream: &Arc<CudaStream>, recording: Recording, body: Result<()>) -> Result<()> {
        let graph = Graph::captured(stream);
        body?;
        let graph = graph.map_err(error::driver).context("recording a step")?;
        graph.launch().map_err(error::driver).context("launching a recorded step")?;
        let gathers = std::mem::take(&mut self.gathers);
        self.recorded.insert(recording, Recorded::Graph { graph, gathers });
        Ok(())
    }
}

impl Cuda {
    /// Runs, records or replays a sequence.
    pub(super) fn run_next(
        &mut self,
        recording: Recording,
        body: &mut dyn FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let next = if self.options.graphs { self.graphs.next(recording) } else { Next::RunAsItComes };
        match next {
            Next::RunAsItComes => body(self),
            Next::Capture => match self.capture(recording, body) {
                Err(error) if recording != recording.single() => {
                    self.give_up_grouping(&error)?;
                    body(self)
                }
                result => result,
            },
            Next::Replay(gathers) => {
                // The books first: a graph would read past the end of the order without a word.
                gathers.into_iter().try_for_each(|(subset, batch)| self.gather.take(subset, batch))?;
                self.graphs.launch(recording)
            }
        }
    }

    fn capture(&mut self, recording: Recording, body: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        self.begin_recording(recording)?;
        let result = body(self).and_then(|()| self.join_branch());
        (self.capturing, self.branching) = (false, false);
        self.drop_branch();
        self.graphs.end(&self.stream, recording, result)?;
        debug!("{recording:?} took the host {:.1} ms to record", start.elapsed().as_secs_f64() * 1e3);
        Ok(())
    }
}
