//! Timing of equivalent algorithms on the device, as they will be run: recorded, one right after the other.

use anyhow::{Context, Result};
use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::{Cuda, error};
use crate::ops::Algorithm;

/// Runs in one recording: short kernels are timed together.
const RUNS: u32 = 4;

/// Recordings timed; the median counts.
const SAMPLES: usize = 5;

impl Cuda {
    /// Microseconds of every candidate.
    pub(super) fn try_all(
        &mut self,
        candidates: &[Algorithm],
        run: &impl Fn(&mut Self, Algorithm) -> Result<()>,
    ) -> Result<Vec<(Algorithm, f64)>> {
        let time = |&algorithm: &Algorithm| Ok((algorithm, self.time(&mut |cuda| run(cuda, algorithm))?));
        candidates.iter().map(time).collect()
    }

    fn time(&mut self, run: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<f64> {
        // Whatever is loaded on the first call must be there before a recording.
        run(self)?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(error::driver).context("recording a trial")?;
        self.capturing = true;
        let result = (0..RUNS).try_for_each(|_| run(self));
        self.capturing = false;
        let graph = self.stream.end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
        result?;
        let graph = graph.map_err(error::driver).context("recording a trial")?.context("a trial without work")?;
        let launch = || graph.launch().map_err(error::driver).context("launching a trial");
        launch()?;
        let mut times = Vec::with_capacity(SAMPLES);
        for _ in 0..SAMPLES {
            let mark = || self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(error::driver);
            let start = mark()?;
            launch()?;
            let end = mark()?;
            times.push(f64::from(start.elapsed_ms(&end).map_err(error::driver)?) * 1e3 / f64::from(RUNS));
        }
        times.sort_by(f64::total_cmp);
        Ok(times[SAMPLES / 2])
    }
}
