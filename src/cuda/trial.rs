//! Timing of equivalent algorithms on the device, as they will be run: recorded, one right after the other.

use anyhow::{Context, Result};
use cudarc::driver::CudaEvent;
use cudarc::driver::sys::{CUevent, CUevent_flags, CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode, culib};
use tracing::warn;

use super::{Cuda, error};
use crate::ops::{Algorithm, TIMED_RUNS};

/// Runs in one recording, at most: short kernels are timed together.
const RUNS: usize = 10;

/// Microseconds of a recording of one part of a step, about: long kernels need no company.
pub(super) const OF_A_PART: f64 = 200.0;

/// Recordings timed; the median counts.
const SAMPLES: usize = 3;

impl Cuda {
    /// Microseconds of every candidate that works. One that fails is told and left out: libraries propose what they then
    /// refuse, and there are others.
    ///
    /// # Errors
    /// Where all fail, the first's.
    pub(super) fn try_all(
        &mut self,
        site: &str,
        candidates: &[Algorithm],
        run: &impl Fn(&mut Self, Algorithm) -> Result<()>,
    ) -> Result<Vec<(Algorithm, f64)>> {
        let (mut times, mut failed) = (Vec::new(), None);
        for &algorithm in candidates {
            match self.time(OF_A_PART, &mut |cuda| run(cuda, algorithm)) {
                Ok(time) => times.push((algorithm, time)),
                Err(error) => {
                    warn!("{site} fails by {} and is computed otherwise: {error:#}", algorithm.name());
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            Some(error) if times.is_empty() => Err(error),
            _ => Ok(times),
        }
    }

    /// Microseconds of one run, of as many in a recording as take about `long` together.
    pub(super) fn time(&mut self, long: f64, run: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<f64> {
        const { assert!(2 + (1 + SAMPLES) * RUNS <= TIMED_RUNS) };
        // Whatever is loaded on the first call must be there before a recording.
        run(self)?;
        let start = self.mark()?;
        run(self)?;
        let alone = elapsed_microseconds(&start, &self.mark()?)?;
        let runs = ((long / alone.max(1.0)) as usize).clamp(1, RUNS);
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(error::driver).context("recording a trial")?;
        self.capturing = true;
        let result = (0..runs).try_for_each(|_| run(self));
        self.capturing = false;
        let graph = self.stream.end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
        result?;
        let graph = graph.map_err(error::driver).context("recording a trial")?.context("a trial without work")?;
        let launch = || graph.launch().map_err(error::driver).context("launching a trial");
        // All are handed over before the first is waited for, so that the device, not the host, is timed.
        launch()?;
        let mut marks = vec![self.mark()?];
        for _ in 0..SAMPLES {
            launch()?;
            marks.push(self.mark()?);
        }
        let times = marks.windows(2).map(|pair| Ok(elapsed_microseconds(&pair[0], &pair[1])? / runs as f64));
        let mut times = times.collect::<Result<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        Ok(times[SAMPLES / 2])
    }

    /// An event that tells the time when the device comes to it.
    pub(super) fn mark(&self) -> Result<CudaEvent> {
        self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(error::driver)
    }
}

/// The time between two events, which are waited for.
pub(super) fn elapsed_microseconds(start: &CudaEvent, end: &CudaEvent) -> Result<f64> {
    // cudarc calls `cuEventElapsedTime_v2`, which drivers before CUDA 12.8 have not, and panics there.
    type Call = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;
    start.synchronize().and_then(|()| end.synchronize()).map_err(error::driver)?;
    let mut milliseconds = 0.0_f32;
    // SAFETY: the signature is that of cuda.h; both events were recorded, with their times.
    let status = unsafe {
        let call = culib().get::<Call>(b"cuEventElapsedTime\0").context("the driver has no cuEventElapsedTime")?;
        call(&raw mut milliseconds, start.cu_event(), end.cu_event())
    };
    status.result().map_err(error::driver).context("timing a trial")?;
    Ok(f64::from(milliseconds) * 1e3)
}
