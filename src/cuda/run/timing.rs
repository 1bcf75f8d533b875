//! Launches timed on the device, as they will be run: captured, one right after the other.

use anyhow::{Context, Result};
use cudarc::driver::CudaEvent;
use cudarc::driver::sys::{CUevent, CUevent_flags, CUresult, culib};

use super::Runner;
use super::graph::Graph;
use crate::cuda::driver::error;
use crate::cuda::memory::Memory;
use crate::cuda::program::Launch;
use crate::ops::{StepSeconds, TIMED_RUNS};

/// Runs in one graph, at most: short kernels are timed together.
const RUNS: usize = 10;

/// Microseconds of such a graph, about: long kernels need no company.
const LONG: f64 = 200.0;

/// Graph launches that are timed; the median counts.
const SAMPLES: usize = 3;

/// The time of some launches together.
pub(in crate::cuda) fn time(runner: &Runner, memory: &Memory, launches: &[Launch]) -> Result<StepSeconds> {
    const { assert!(2 + (1 + SAMPLES) * RUNS <= TIMED_RUNS) };
    if launches.is_empty() {
        return Ok(StepSeconds { seconds: 0.0, runs: 0 });
    }
    let run = || runner.launch_all(memory, launches);
    // Whatever is loaded on the first call must be there before a capture.
    run()?;
    let start = mark(runner)?;
    run()?;
    let alone = elapsed_microseconds(&start, &mark(runner)?)?;
    let runs = ((LONG / alone.max(1.0)) as usize).clamp(1, RUNS);
    let graph = Graph::capture(&runner.stream, || (0..runs).try_for_each(|_| run()))?;
    // All are handed over before the first is waited for, so that the device, not the host, is timed.
    graph.launch()?;
    let mut marks = vec![mark(runner)?];
    for _ in 0..SAMPLES {
        graph.launch()?;
        marks.push(mark(runner)?);
    }
    let times = marks.windows(2).map(|pair| Ok(elapsed_microseconds(&pair[0], &pair[1])? / runs as f64));
    let mut times = times.collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(StepSeconds { seconds: times[SAMPLES / 2] * 1e-6, runs: 2 + (1 + SAMPLES) * runs })
}

/// An event that has the time when the device comes to it.
fn mark(runner: &Runner) -> Result<CudaEvent> {
    runner.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(error::driver)
}

/// The time between two events, which are waited for.
fn elapsed_microseconds(start: &CudaEvent, end: &CudaEvent) -> Result<f64> {
    // cudarc calls `cuEventElapsedTime_v2`, which drivers before CUDA 12.8 have not, and panics there.
    type Call = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;
    start.synchronize().and_then(|()| end.synchronize()).map_err(error::driver)?;
    let mut milliseconds = 0.0_f32;
    // SAFETY: the signature is that of cuda.h; both events were recorded, with their times.
    let status = unsafe {
        let call = culib().get::<Call>(b"cuEventElapsedTime\0").context("the driver has no cuEventElapsedTime")?;
        call(&raw mut milliseconds, start.cu_event(), end.cu_event())
    };
    status.result().map_err(error::driver).context("timing launches")?;
    Ok(f64::from(milliseconds) * 1e3)
}
