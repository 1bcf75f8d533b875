//! Weight gradients beside what follows them: a second stream that joins the recording of a step, forked by one event and
//! joined by another, so that the graph has two branches there.
//!
//! What runs side by side must share nothing that either writes: the second stream has scratch and a cuBLAS of its own.
//! The plan keeps alive what a weight gradient reads until the next one, which waits for it.

use std::mem::swap;
use std::sync::Arc;

use anyhow::{Context, Result};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream};
use tracing::debug;

use super::gemm::Blas;
use super::memory::{Buffer, Memory};
use super::{Cuda, error, implicit};
use crate::ops::{Branches, Recording};

/// How much less time branches must take to be worth it: a trial's own scatter.
const WORTH_IT: f64 = 0.98;

/// Microseconds of a recording of the way back, about: several steps at batch 64 on a large device.
const OF_A_STEP: f64 = 800.0;

/// The second stream, and what its work writes besides results.
pub(super) struct Side {
    stream: Arc<CudaStream>,
    blas: Blas,
    scratch: implicit::Scratch,
    partials: Buffer,
    arrived: Buffer,
    forked: CudaEvent,
    done: CudaEvent,
    /// Whether work runs here that nothing has waited for.
    running: bool,
}

impl Side {
    fn new(context: &Arc<CudaContext>, memory: &Memory, precision: &'static str) -> Result<Self> {
        let stream = context.new_stream().map_err(error::driver).context("making a second stream")?;
        let event = || context.new_event(None).map_err(error::driver);
        let side = Self {
            blas: Blas::new(&stream, precision)?,
            scratch: implicit::Scratch::new(&stream)?,
            partials: Buffer::new(&stream, memory.partials.len()).map_err(error::driver)?,
            arrived: Buffer::zeroed(&stream, memory.arrived.len()).map_err(error::driver)?,
            forked: event()?,
            done: event()?,
            running: false,
            stream,
        };
        // All is there before the other stream launches what uses it.
        side.stream.synchronize().map_err(error::driver)?;
        Ok(side)
    }
}

impl Cuda {
    /// Makes the second stream for the memory at hand, where branches may be wanted. Where they are not asked for, too
    /// little memory for them is no error.
    pub(super) fn prepare_branches(&mut self, trains: bool) -> Result<()> {
        self.side = None;
        self.branches.clear();
        if self.options.branches == Branches::Off || !self.options.graphs || !trains {
            return Ok(());
        }
        let made = Side::new(&self.context, self.memory()?, self.options.precision).map(|side| self.side = Some(side));
        self.keep_side(made).map(|_| ())
    }

    /// Whether the recording of a sequence has branches; several steps have what one has.
    pub(super) fn wants_branches(&self, recording: Recording) -> bool {
        match self.options.branches {
            Branches::On => true,
            Branches::Off => false,
            Branches::Auto => self.branches.get(&recording.single()).copied().unwrap_or(false),
        }
    }

    /// Begins to record a sequence, with branches where it is to have them.
    pub(super) fn begin_recording(&mut self, recording: Recording) -> Result<()> {
        let branching = self.wants_branches(recording) && self.prepare_side()?;
        self.graphs.begin(&self.stream)?;
        (self.capturing, self.branching) = (true, branching);
        Ok(())
    }

    /// Starts on the second stream what a recording with branches may need there; whether there may be branches then.
    fn prepare_side(&mut self) -> Result<bool> {
        let Some(side) = &self.side else { return Ok(false) };
        let prepared = side.blas.prepare_as(&self.blas);
        self.keep_side(prepared)
    }

    /// Whether a second stream is there that was to be made. Where it is not asked for, that it could not is no error.
    fn keep_side(&mut self, made: Result<()>) -> Result<bool> {
        let Err(error) = made else { return Ok(true) };
        self.side = None;
        if self.options.branches == Branches::Auto {
            debug!("steps have no branches: {error:#}");
            return Ok(false);
        }
        Err(error.context("--branches on needs scratch and a cuBLAS for two (--branches off does not)"))
    }

    /// Records `body`, a weight gradient, beside what follows it, where the recording has branches.
    pub(super) fn beside(&mut self, body: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let Some(side) = self.side.as_mut().filter(|_| self.capturing && self.branching) else { return body(self) };
        side.forked.record(&self.stream).and_then(|()| side.stream.wait(&side.forked)).map_err(error::driver)?;
        self.swap_lanes()?;
        let result = body(self);
        self.swap_lanes()?;
        let side = self.side.as_mut().context("a branch lost its stream")?;
        side.done.record(&side.stream).map_err(error::driver)?;
        side.running = true;
        result
    }

    /// See [`Backend::join`](crate::ops::Backend::join).
    pub(super) fn join_branch(&mut self) -> Result<()> {
        let Some(side) = self.side.as_mut().filter(|side| side.running) else { return Ok(()) };
        side.running = false;
        self.stream.wait(&side.done).map_err(error::driver)
    }

    /// Forgets a branch whose recording failed.
    pub(super) fn drop_branch(&mut self) {
        if let Some(side) = &mut self.side {
            side.running = false;
        }
    }

    /// Has the operators launch on the other stream, with its scratch.
    fn swap_lanes(&mut self) -> Result<()> {
        let memory = self.memory.as_mut().context("nothing was allocated")?;
        let side = self.side.as_mut().context("there is no second stream")?;
        swap(&mut self.stream, &mut side.stream);
        swap(&mut self.blas, &mut side.blas);
        swap(&mut self.scratch, &mut side.scratch);
        swap(&mut memory.partials, &mut side.partials);
        swap(&mut memory.arrived, &mut side.arrived);
        Ok(())
    }

    /// See [`Backend::compare_branches`](crate::ops::Backend::compare_branches).
    pub(super) fn try_branches(
        &mut self,
        recording: Recording,
        body: &mut dyn FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        if self.options.branches != Branches::Auto || self.side.is_none() {
            return self.prepare_side().map(|_| ());
        }
        let without = self.time(OF_A_STEP, body)?;
        if !self.prepare_side()? {
            return Ok(());
        }
        self.branching = true;
        let with = self.time(OF_A_STEP, body);
        self.branching = false;
        self.drop_branch();
        let with = with?;
        debug!("{recording:?}: going back takes {without:.1} µs, with branches {with:.1} µs");
        self.branches.insert(recording, with < WORTH_IT * without);
        Ok(())
    }
}
