//! `cnn-cuda bench --trace FILE`: a profiled step as a Chrome trace, for `chrome://tracing` and Perfetto.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::files::write_atomically;
use crate::plan::StepTime;

/// The file, in the JSON object form of the trace event format.
#[derive(Serialize)]
struct Trace<'a> {
    #[serde(rename = "traceEvents")]
    events: Vec<Event<'a>>,
    #[serde(rename = "displayTimeUnit")]
    unit: &'static str,
}

/// A complete event, with start and duration in microseconds.
#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    cat: &'static str,
    ph: &'static str,
    ts: f64,
    dur: f64,
    pid: u32,
    tid: u32,
    args: Work,
}

#[derive(Serialize)]
struct Work {
    flops: f64,
    bytes: f64,
}

/// Writes the parts of one step.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, step: &[StepTime]) -> Result<()> {
    let trace = Trace { events: step.iter().map(event).collect(), unit: "ms" };
    write_atomically(path, |writer| Ok(serde_json::to_writer(writer, &trace)?))
}

fn event(part: &StepTime) -> Event<'_> {
    Event {
        name: &part.label,
        cat: "step",
        ph: "X",
        ts: part.start * 1e6,
        dur: part.seconds * 1e6,
        pid: 1,
        tid: 1,
        args: Work { flops: part.cost.flops, bytes: part.cost.bytes },
    }
}
