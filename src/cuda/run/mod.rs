//! Runs programs on a device: launches, captures, replays and times them.

mod graph;
mod timing;

pub(super) use timing::time;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::CudaStream;

use super::driver::{Blas, Cudnn, Modules};
use super::memory::Memory;
use super::program::{Address, Buffer, Launch, LoweredStep};
use crate::ops::{Augment, Op, Span, Step, Subset};
use crate::shape::Shape;
use graph::Graph;

/// The kernels and libraries that launches use, all on one stream.
pub(super) struct Runner {
    pub stream: Arc<CudaStream>,
    pub modules: Modules,
    pub blas: Blas,
    pub cudnn: Cudnn,
}

impl Runner {
    /// Launches `launch`. `previous` is the launch before it in the same sequence, if there is one: if both are kernels,
    /// this one may be scheduled before that one has completed.
    pub fn launch(&self, memory: &Memory, previous: Option<&Launch>, launch: &Launch) -> Result<()> {
        let resolve = |address: Address| memory.resolve(address);
        match launch {
            Launch::Kernel(kernel) => {
                let mut params = kernel.resolved(resolve)?;
                let follows_kernel = matches!(previous, Some(Launch::Kernel(_)));
                self.modules.launch(&self.stream, kernel, &mut params, follows_kernel)
            }
            Launch::Gemm(gemm) => self.blas.gemm(&gemm.resolved(&resolve)?),
            Launch::LtGemm(gemm, epilogue) => {
                self.blas.lt_gemm(&gemm.resolved(&resolve)?, &epilogue.resolved(&resolve)?)
            }
            Launch::Cudnn(convolution) => self.cudnn.run(&convolution.resolved(&resolve)?),
        }
    }

    /// Launches a sequence.
    pub fn launch_all<'a>(&self, memory: &Memory, launches: impl IntoIterator<Item = &'a Launch>) -> Result<()> {
        let mut previous = None;
        launches.into_iter().try_for_each(|launch| self.launch(memory, previous.replace(launch), launch))
    }
}

/// A batch that a program takes from a data set.
pub struct Taken {
    pub subset: Subset,
    pub batch: usize,
    /// The shape of the set's images.
    pub shape: Shape,
    /// Whether the next gather reads the same batch.
    pub repeats: bool,
}

/// A lowered sequence and the state of its capture.
pub struct Program {
    pub(super) steps: Vec<LoweredStep>,
    /// What it reads from the data sets.
    pub(super) taken: Vec<Taken>,
    state: State,
}

enum State {
    /// Never run.
    New,
    /// Run once, so everything it needs is loaded.
    Warm,
    /// Captured with the addresses of this [`Memory::generation`].
    Captured(Graph, u64),
}

impl Program {
    pub(super) fn new(steps: Vec<LoweredStep>) -> Self {
        let taken = steps.iter().filter_map(|lowered| match &lowered.step.op {
            Op::Gather(gather) => {
                let (shape, view) = (gather.shape, gather.view);
                Some(Taken {
                    subset: gather.subset,
                    batch: gather.output.len / shape.len(),
                    shape,
                    repeats: view.repeats,
                })
            }
            Op::Augment(Augment { stage, shape, output, .. }) => {
                let (subset, batch) = (Subset::Train, output.len / shape.len());
                Some(Taken { subset, batch, shape: stage.stored, repeats: false })
            }
            _ => None,
        });
        Self { taken: taken.collect(), steps, state: State::New }
    }

    /// Runs the program: the first run launches it directly, the second captures it as a graph, and later runs replay
    /// the graph. Without `graphs`, every run launches it directly.
    pub(super) fn run(&mut self, runner: &Runner, memory: &Memory, graphs: bool) -> Result<()> {
        let generation = memory.generation();
        match &self.state {
            State::Captured(graph, captured) if *captured == generation => return graph.launch(),
            State::New => {
                self.launch(runner, memory)?;
                self.state = State::Warm;
                return Ok(());
            }
            _ if !graphs => return self.launch(runner, memory),
            State::Warm | State::Captured(..) => {}
        }
        self.state = State::Warm; // drop an old graph before capturing the new one
        let captured = Graph::capture(&runner.stream, || self.launch(runner, memory));
        let graph = match captured {
            Err(error) if runner.modules.dependent_launches => {
                Err(error.context("if the driver cannot capture dependent launches, --no-dependent-launch helps"))
            }
            captured => captured,
        }?;
        graph.launch()?;
        self.state = State::Captured(graph, generation);
        Ok(())
    }

    fn launch(&self, runner: &Runner, memory: &Memory) -> Result<()> {
        let mut previous = None;
        for LoweredStep { step, launches, .. } in &self.steps {
            check_operands(memory, step)?;
            for launch in launches {
                runner.launch(memory, previous.replace(launch), launch).with_context(|| step.label.clone())?;
            }
        }
        Ok(())
    }
}

/// Checks that a step's operands, and the labels of its batch, are within what is allocated.
pub(super) fn check_operands(memory: &Memory, step: &Step) -> Result<()> {
    let operands = step.op.operands();
    let mut spans = operands.reads().into_iter().chain(operands.writes());
    spans.try_for_each(|span: Span| memory.check(span).map(|_| ())).with_context(|| step.label.clone())?;
    let batch = match &step.op {
        Op::Gather(gather) => gather.output.len / gather.shape.len(),
        Op::Augment(augment) => augment.output.len / augment.shape.len(),
        Op::SoftmaxCrossEntropy(loss) => loss.logits.len / loss.classes,
        _ => return Ok(()),
    };
    let capacity = memory.get(Buffer::Labels)?.len() / 4;
    ensure!(batch <= capacity, "{}: a batch of {batch}, but only {capacity} labels were allocated", step.label);
    Ok(())
}
