//! What the CUDA backend launches for every operator, without a device: a backend that computes nothing and keeps a list.
//!
//! It takes the decisions that the launching code takes; a test compares it with the graph of a captured step.

mod state;

use anyhow::Result;

use super::memory::columns_bytes;
use super::{direct, implicit};
use crate::ops::{
    Activation, ActivationOps, AdaptiveAvgPool2d, Algorithm, AvgPool2d, BatchNorm2d, BatchNorm2dBackward,
    BatchNorm2dForward, BiasOps, ChannelCopy, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward,
    ConvOps, GradientEpilogue, JoinOps, Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, LinearOps,
    MaxPool2d, MaxPool2dBackward, MemorySizes, NormOps, PoolOps, Span, Subsample,
};

/// A product by cuBLAS, one launch of several kernels' names.
const PRODUCT: &str = "cuBLAS product";

/// The list.
pub struct Launches {
    precision: &'static str,
    workspace: usize,
    algorithm: Option<Algorithm>,
    columns_bytes: usize,
    launched: Vec<&'static str>,
}

impl Launches {
    /// For `fp32`, `tf32` or `fp16`, with `workspace` bytes for the columns of convolutions, and the algorithm that is
    /// asked for; none is the one of fewest launches, where a device would take the fastest.
    pub fn new(precision: &'static str, workspace: usize, algorithm: Option<Algorithm>) -> Self {
        Self { precision, workspace, algorithm, columns_bytes: 0, launched: Vec::new() }
    }

    /// The algorithm of a forward pass or weight gradient.
    fn algorithm(&self, op: &Conv2d) -> Algorithm {
        match self.algorithm {
            Some(Algorithm::Direct) | None if direct::applies(op) => Algorithm::Direct,
            Some(Algorithm::Im2col | Algorithm::Direct) => Algorithm::Im2col,
            Some(Algorithm::Implicit) | None => Algorithm::Implicit,
        }
    }

    /// Of linear layers and input gradients, which have no direct kernels.
    fn is_implicit(&self) -> bool {
        matches!(self.algorithm, Some(Algorithm::Implicit) | None)
    }

    /// An implicit input gradient takes its epilogue along where there is room for its sums.
    fn implicit_input(
        &mut self,
        rows: usize,
        channels: usize,
        d_input: Span,
        epilogue: Option<GradientEpilogue>,
    ) -> Result<()> {
        self.launch("conv2d_backward_input")?;
        let rest = epilogue.filter(|_| !implicit::sums_columns(rows, channels));
        self.gradient_epilogue(rows, channels, d_input, rest)
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

    /// Pieces of `rows` rows of columns, of which `at_once` go together.
    fn pieces(&mut self, rows: usize, at_once: usize, kernels: [&'static str; 2]) {
        for _ in 0..rows.div_ceil(at_once.max(1)) {
            self.launched.extend(kernels);
        }
    }

    /// Rows of columns that fit the workspace.
    fn rows_at_once(&self, op: &Conv2d) -> usize {
        self.columns_bytes / (op.patch_len() * self.real_size())
    }

    fn over_columns(&mut self, op: &Conv2d, batch: usize) -> Result<()> {
        if op.is_pointwise() {
            return self.launch(PRODUCT);
        }
        let (rows, at_once) = (batch * op.output()?.pixels(), self.rows_at_once(op));
        self.pieces(rows, at_once, ["im2col", PRODUCT]);
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

impl ConvOps for Launches {
    fn conv2d_forward(&mut self, op: &Conv2d, batch: usize, spans: Conv2dForward) -> Result<()> {
        if !op.is_plain() {
            self.launch("grouped_forward")?;
            return if spans.pool.is_some() { self.launch("max_pool_forward") } else { Ok(()) };
        }
        let algorithm = self.algorithm(op);
        match algorithm {
            Algorithm::Implicit => self.launch("conv2d_forward")?,
            Algorithm::Direct => self.launch("direct_forward")?,
            Algorithm::Im2col => self.over_columns(op, batch)?,
        }
        match spans.pool {
            Some(pool) if algorithm == Algorithm::Implicit && implicit::fuses(&pool.op) => Ok(()),
            Some(_) => self.launch("max_pool_forward"),
            None if algorithm != Algorithm::Im2col => Ok(()),
            None => self.bias_activation_forward(spans.activation, spans.bias),
        }
    }

    fn conv2d_backward_weight(&mut self, op: &Conv2d, batch: usize, _spans: Conv2dBackwardWeight) -> Result<()> {
        match self.algorithm(op) {
            _ if !op.is_plain() => self.launch("grouped_backward_weight"),
            Algorithm::Implicit => self.launch("conv2d_backward_weight"),
            Algorithm::Direct => self.launch("direct_backward_weight"),
            Algorithm::Im2col => self.over_columns(op, batch),
        }
    }

    fn conv2d_backward_input(&mut self, op: &Conv2d, batch: usize, spans: Conv2dBackwardInput) -> Result<()> {
        if self.is_implicit() && op.is_plain() {
            return self.implicit_input(batch * op.input.pixels(), op.input.channels, spans.d_input, spans.epilogue);
        }
        match op.is_pointwise() {
            _ if !op.is_plain() => self.launch("grouped_backward_input")?,
            true => self.launch(PRODUCT)?,
            false => {
                let samples_at_once = self.rows_at_once(op) / op.output()?.pixels();
                self.pieces(batch, samples_at_once, [PRODUCT, "col2im"]);
            }
        }
        self.gradient_epilogue(batch * op.input.pixels(), op.input.channels, spans.d_input, spans.epilogue)
    }
}

impl LinearOps for Launches {
    fn linear_forward(&mut self, _op: &Linear, _batch: usize, spans: LinearForward) -> Result<()> {
        if self.is_implicit() {
            return self.launch("conv2d_forward");
        }
        self.launch(PRODUCT)?;
        self.bias_activation_forward(spans.activation, spans.bias)
    }

    fn linear_backward_weight(&mut self, _op: &Linear, _batch: usize, _spans: LinearBackwardWeight) -> Result<()> {
        self.launch(if self.is_implicit() { "conv2d_backward_weight" } else { PRODUCT })
    }

    fn linear_backward_input(&mut self, op: &Linear, batch: usize, spans: LinearBackwardInput) -> Result<()> {
        if self.is_implicit() {
            return self.implicit_input(batch, op.in_features, spans.d_input, spans.epilogue);
        }
        self.launch(PRODUCT)?;
        self.gradient_epilogue(batch, op.in_features, spans.d_input, spans.epilogue)
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
