//! A network on a backend whose activations, and the gradients of them, can be read.

use anyhow::{Context, Result, ensure};

use crate::network::{Network, NodeId, Weights};
use crate::ops::{Backend, Span};
use crate::plan::{self, Kept, Mode, Plan, ReluGradient, Sequence};
use crate::shape::Shape;

/// A network whose forward and backward pass run one after the other, with batches of normalised inputs.
///
/// ```
/// use cnn_cuda::cpu::Cpu;
/// use cnn_cuda::explain::{Attribution, saliency};
/// use cnn_cuda::models;
/// use cnn_cuda::plan::ReluGradient;
///
/// # fn main() -> anyhow::Result<()> {
/// let model = models::find("lenet5")?;
/// let network = (model.build)(model.input, model.classes)?;
/// let mut cpu = Cpu::new(None)?;
/// let mut attribution = Attribution::new(&mut cpu, &network, &network.initial_weights(0), ReluGradient::True, 1)?;
/// let importance = saliency(&mut attribution, &vec![0.5; model.input.len()], 3)?;
/// assert_eq!(importance.len(), model.input.len());
/// # Ok(())
/// # }
/// ```
pub struct Attribution<'a, B: Backend> {
    backend: &'a mut B,
    plan: Plan,
    shapes: Vec<Shape>,
    forward: B::Program,
    backward: B::Program,
    /// The inputs of the last forward pass.
    count: usize,
}

impl<'a, B: Backend> Attribution<'a, B> {
    /// Plans `network` for batches of up to `batch` inputs, and writes its weights to the backend. What the backend held
    /// before is lost.
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn new(
        backend: &'a mut B,
        network: &Network,
        weights: &Weights,
        relu: ReluGradient,
        batch: usize,
    ) -> Result<Self> {
        let plan = Plan::new(network, Mode::Attribution(relu), batch)?;
        backend.allocate(&plan.memory_sizes(false))?;
        let forward = backend.compile(plan.steps(&Sequence::Forward, batch))?;
        let backward = backend.compile(plan.steps(&Sequence::Backward, batch))?;
        plan::write_weights(backend, weights)?;
        let shapes = network.nodes.iter().map(|node| node.shape).collect();
        Ok(Self { backend, plan, shapes, forward, backward, count: 0 })
    }

    /// Replaces the weights by others of the same network.
    ///
    /// # Errors
    /// If the device does not take them.
    pub fn load(&mut self, weights: &Weights) -> Result<()> {
        plan::write_weights(self.backend, weights)
    }

    /// The most inputs of a forward pass.
    pub fn max_batch(&self) -> usize {
        self.plan.max_batch
    }

    /// The shape of an input.
    pub fn input(&self) -> Shape {
        self.shapes[0]
    }

    /// The shape of a node's output.
    pub fn shape(&self, node: NodeId) -> Shape {
        self.shapes[node]
    }

    /// The shape of the last node's output.
    pub fn output_shape(&self) -> Shape {
        self.shapes[self.shapes.len() - 1]
    }

    /// Runs the network on normalised inputs, `[n][height][width][channels]`, and returns the output of its last node.
    ///
    /// # Errors
    /// If there are no inputs or more than [`Self::max_batch`], or an output is NaN or infinite.
    pub fn forward(&mut self, inputs: &[f32]) -> Result<Vec<f32>> {
        let len = self.input().len();
        let (count, max) = (inputs.len() / len, self.max_batch());
        ensure!(
            inputs.len().is_multiple_of(len) && (1..=max).contains(&count),
            "{} values are not 1 to {max} inputs of {}",
            inputs.len(),
            self.input()
        );
        self.backend.write(self.plan.span(self.plan.input, count), inputs)?;
        self.backend.run(&mut self.forward)?;
        self.count = count;
        let outputs = self.activations(self.shapes.len() - 1)?;
        ensure!(
            outputs.iter().all(|value| value.is_finite()),
            "the network's output for a picture is not finite: these weights have diverged"
        );
        Ok(outputs)
    }

    /// Runs the backward pass from `gradient`, that of the last node's output, for the inputs of the last forward pass.
    ///
    /// # Errors
    /// If `gradient` has another length than that output.
    pub fn backward(&mut self, gradient: &[f32]) -> Result<()> {
        let last = self.shapes.len() - 1;
        let span = self.span(last, |kept| kept.gradient)?;
        ensure!(gradient.len() == span.len, "{} values are not the gradient of {}", gradient.len(), span.len);
        self.backend.write(span, gradient)?;
        self.backend.run(&mut self.backward)
    }

    /// The outputs of a node in the last forward pass, `[n][height][width][channels]`.
    ///
    /// # Errors
    /// If the node is part of an auxiliary head.
    pub fn activations(&mut self, node: NodeId) -> Result<Vec<f32>> {
        let span = self.span(node, |kept| kept.output)?;
        self.backend.read(span)
    }

    /// The gradients of the outputs of a node in the last backward pass, `[n][height][width][channels]`.
    ///
    /// # Errors
    /// If the node is part of an auxiliary head.
    pub fn gradients(&mut self, node: NodeId) -> Result<Vec<f32>> {
        let span = self.span(node, |kept| kept.gradient)?;
        self.backend.read(span)
    }

    fn span(&self, node: NodeId, of: fn(Kept) -> plan::ValueId) -> Result<Span> {
        let kept = self.plan.kept[node].context("this node is only computed in training")?;
        Ok(self.plan.span(of(kept), self.count))
    }

    /// The gradients of one output of the last node, the same one for each of up to [`Self::max_batch`] inputs, with
    /// respect to the inputs. The passes before it end with that output.
    pub(super) fn input_gradients(&mut self, inputs: &[f32], output: usize) -> Result<Vec<f32>> {
        let outputs = self.forward(inputs)?;
        let len = self.output_shape().len();
        ensure!(output < len, "there is no output {output} among {len}");
        let mut seed = vec![0.0; outputs.len()];
        seed.iter_mut().skip(output).step_by(len).for_each(|value| *value = 1.0);
        self.backward(&seed)?;
        self.gradients(0)
    }
}
