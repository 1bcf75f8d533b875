//! Times launches on the device as they will run: captured in a graph, back to back.

use anyhow::{Context, Result};
use cudarc::driver::CudaEvent;
use cudarc::driver::sys::{CUevent, CUevent_flags, CUresult, culib};

use super::Runner;
use super::graph::Graph;
use crate::cuda::driver::error;
use crate::cuda::memory::Memory;
use crate::cuda::program::Launch;
use crate::ops::{StepSeconds, TIMED_RUNS};

/// Maximum runs in one graph; several runs of short launches are timed together.
const MAX_RUNS: usize = 10;

/// Approximate duration of such a graph; launches that take longer are run once.
const TARGET_MICROSECONDS: f64 = 200.0;

/// Timed launches of the graph; the result is their median.
const SAMPLES: usize = 3;

/// The total time of `launches`.
pub(in crate::cuda) fn time(runner: &Runner, memory: &Memory, launches: &[Launch]) -> Result<StepSeconds> {
    const { assert!(2 + (1 + SAMPLES) * MAX_RUNS <= TIMED_RUNS) };
    if launches.is_empty() {
        return Ok(StepSeconds { seconds: 0.0, runs: 0 });
    }
    let run = |times| runner.launch_all(memory, (0..times).flat_map(|_| launches));
    // The first call loads what it needs lazily, which is not allowed during capture.
    run(1)?;
    let start = record_event(runner)?;
    run(1)?;
    let single = elapsed_microseconds(&start, &record_event(runner)?)?;
    let runs = ((TARGET_MICROSECONDS / single.max(1.0)) as usize).clamp(1, MAX_RUNS);
    let graph = Graph::capture(&runner.stream, || run(runs))?;
    // Queue all launches before waiting for the first, so that the device is timed and not the host.
    graph.launch()?;
    let mut events = vec![record_event(runner)?];
    for _ in 0..SAMPLES {
        graph.launch()?;
        events.push(record_event(runner)?);
    }
    let times = events.windows(2).map(|pair| Ok(elapsed_microseconds(&pair[0], &pair[1])? / runs as f64));
    let mut times = times.collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(StepSeconds { seconds: times[SAMPLES / 2] * 1e-6, runs: 2 + (1 + SAMPLES) * runs })
}

/// Records an event with a timestamp on the stream.
fn record_event(runner: &Runner) -> Result<CudaEvent> {
    runner.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(error::driver)
}

/// The time between two events; waits for both.
fn elapsed_microseconds(start: &CudaEvent, end: &CudaEvent) -> Result<f64> {
    // cudarc calls `cuEventElapsedTime_v2` and panics if it is missing, as in drivers before CUDA 12.8.
    type Call = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;
    start.synchronize().and_then(|()| end.synchronize()).map_err(error::driver)?;
    let mut milliseconds = 0.0_f32;
    // SAFETY: the signature is that of cuda.h; both events were recorded, with timing enabled.
    let status = unsafe {
        let call = culib().get::<Call>(b"cuEventElapsedTime\0").context("the driver has no cuEventElapsedTime")?;
        call(&raw mut milliseconds, start.cu_event(), end.cu_event())
    };
    status.result().map_err(error::driver).context("timing launches")?;
    Ok(f64::from(milliseconds) * 1e3)
}
