//! What the CUDA backend launches for every operator, without a device: a backend that computes nothing and keeps a list.
//!
//! It takes the decisions that the launching code takes; a test compares it with the graph of a captured step.

mod products;
mod state;

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;

use super::memory::columns_bytes;
use crate::ops::{
    Activation, ActivationOps, AdaptiveAvgPool2d, Algorithm, AvgPool2d, BatchNorm2d, BatchNorm2dBackward,
    BatchNorm2dForward, BiasOps, ChannelCopy, Choice, JoinOps, MaxPool2d, MaxPool2dBackward, MemorySizes, NormOps,
    PoolOps, Span, Subsample,
};

/// The list.
pub struct Launches {
    precision: &'static str,
    workspace: usize,
    algorithm: Option<Algorithm>,
    /// By operator, before all else.
    chosen: BTreeMap<String, Algorithm>,
    columns_bytes: usize,
    /// Where in the gradients the bias gradients lie that input gradients left to weight gradients.
    left: HashSet<usize>,
    launched: Vec<&'static str>,
}

impl Launches {
    /// For `fp32`, `tf32` or `fp16`, with `workspace` bytes for the columns of convolutions, and the algorithm that is
    /// asked for; none is the one of fewest launches, where a device would take the fastest.
    pub fn new(precision: &'static str, workspace: usize, algorithm: Option<Algorithm>) -> Self {
        Self {
            precision,
            workspace,
            algorithm,
            chosen: BTreeMap::new(),
            columns_bytes: 0,
            left: HashSet::new(),
            launched: Vec::new(),
        }
    }

    /// With what a device has chosen.
    pub fn with_choices(self, choices: &[Choice]) -> Self {
        let chosen = choices.iter().map(|choice| (choice.site.clone(), choice.algorithm)).collect();
        Self { chosen, ..self }
    }

    /// Takes note of what a plan allocates.
    fn set_sizes(&mut self, sizes: &MemorySizes) {
        self.columns_bytes = columns_bytes(sizes, self.real_size(), self.workspace);
    }

    /// What was launched since the last call.
    pub fn take(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.launched)
    }

    fn real_size(&self) -> usize {
        if self.precision == "fp16" { 2 } else { 4 }
    }

    fn launch(&mut self, kernel: &'static str) -> Result<()> {
        self.launched.push(kernel);
        Ok(())
    }

    fn bias_activation_forward(&mut self, activation: Activation, bias: Option<Span>) -> Result<()> {
        match (bias, activation) {
            (Some(_), _) => self.launch("bias_activation_forward"),
            (None, Activation::Identity) => Ok(()),
            (None, _) => self.launch("activation_forward"),
        }
    }
}

impl NormOps for Launches {
    fn batch_norm2d_forward(&mut self, _: &BatchNorm2d, _: usize, spans: BatchNorm2dForward) -> Result<()> {
        if spans.saved.is_some() {
            self.launch("norm_statistics")?;
        }
        self.launch("norm_forward")
    }

    fn batch_norm2d_backward(&mut self, _: &BatchNorm2d, _: usize, spans: BatchNorm2dBackward) -> Result<()> {
        self.launch("norm_backward_sums")?;
        spans.d_input.map_or(Ok(()), |_| self.launch("norm_backward_input"))
    }
}

impl PoolOps for Launches {
    fn max_pool2d_forward(&mut self, _: &MaxPool2d, _: usize, _: Span, _: Span, _: Option<Span>) -> Result<()> {
        self.launch("max_pool_forward")
    }

    fn max_pool2d_backward(&mut self, _: &MaxPool2d, _: usize, _: MaxPool2dBackward) -> Result<()> {
        self.launch("max_pool_backward")
    }

    fn avg_pool2d_forward(&mut self, _: &AvgPool2d, _: usize, _: Span, _: Span) -> Result<()> {
        self.launch("avg_pool_forward")
    }

    fn avg_pool2d_backward(&mut self, _: &AvgPool2d, _: usize, _: Span, _: Span) -> Result<()> {
        self.launch("avg_pool_backward")
    }

    fn adaptive_avg_pool2d_forward(&mut self, _: &AdaptiveAvgPool2d, _: usize, _: Span, _: Span) -> Result<()> {
        self.launch("adaptive_avg_pool_forward")
    }

    fn adaptive_avg_pool2d_backward(&mut self, _: &AdaptiveAvgPool2d, _: usize, _: Span, _: Span) -> Result<()> {
        self.launch("adaptive_avg_pool_backward")
    }
}

impl ActivationOps for Launches {
    fn activation_forward(&mut self, _: Activation, _: usize, _: Span, _: Span) -> Result<()> {
        self.launch("activation_forward")
    }

    fn activation_backward(&mut self, _: Activation, _: usize, _: Span, _: Span, _: Span) -> Result<()> {
        self.launch("activation_backward")
    }
}

impl BiasOps for Launches {
    fn bias_activation_backward(
        &mut self,
        activation: Activation,
        _: usize,
        _: usize,
        _: Span,
        _: Span,
        d_bias: Option<Span>,
    ) -> Result<()> {
        match (d_bias, activation) {
            (Some(_), _) => self.launch("bias_activation_backward"),
            (None, Activation::Identity) => Ok(()),
            (None, _) => self.launch("activation_backward"),
        }
    }
}

impl JoinOps for Launches {
    fn add_forward(&mut self, _: usize, _: Span, _: Span, _: Span) -> Result<()> {
        self.launch("add_forward")
    }

    fn accumulate(&mut self, _: usize, _: Span, _: Span) -> Result<()> {
        self.launch("accumulate")
    }

    fn copy(&mut self, _: usize, _: Span, _: Span) -> Result<()> {
        self.launch("copy")
    }

    fn copy_channels(&mut self, _: &ChannelCopy, _: usize, _: Span, _: Span) -> Result<()> {
        self.launch("copy_channels")
    }

    fn subsample_forward(&mut self, _: &Subsample, _: usize, _: Span, _: Span) -> Result<()> {
        self.launch("subsample_forward")
    }

    fn subsample_backward(&mut self, _: &Subsample, _: usize, _: Span, _: Span) -> Result<()> {
        self.launch("subsample_backward")
    }
}
