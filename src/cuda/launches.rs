//! What the CUDA backend launches for every operator, without a device: a backend that computes nothing and keeps a list.
//!
//! It takes the decisions that the launching code takes; a test compares it with the graph of a captured step.

use anyhow::{Result, bail};

use super::memory::columns_bytes;
use super::{direct, implicit};
use crate::ops::{
    Activation, ActivationOps, Algorithm, AvgPool2d, Backend, BiasOps, ChannelCopy, Conv2d, Conv2dBackwardInput,
    Conv2dBackwardWeight, Conv2dForward, ConvOps, DeviceInfo, GatherOps, GradientEpilogue, JoinOps, Linear,
    LinearBackwardInput, LinearBackwardWeight, LinearForward, LinearOps, LossOps, MaxPool2d, MaxPool2dBackward,
    MemorySizes, Metrics, Normalise, OptimizerOps, PoolOps, Recording, Sgd, Span, StepLoss, Subset,
};

/// A product by cuBLAS, one launch of several kernels' names.
const PRODUCT: &str = "cuBLAS product";

/// The list.
pub struct Launches {
    precision: &'static str,
    workspace: usize,
    algorithm: Algorithm,
    columns_bytes: usize,
    launched: Vec<&'static str>,
}

impl Launches {
    /// For `fp32`, `tf32` or `fp16`, with `workspace` bytes for the columns of convolutions.
    pub fn new(precision: &'static str, workspace: usize) -> Self {
        Self { precision, workspace, algorithm: Algorithm::Direct, columns_bytes: 0, launched: Vec::new() }
    }

    /// For an algorithm that is asked for: im2col, or that and direct kernels where there are any, or implicit products.
    pub fn with_algorithm(self, algorithm: Algorithm) -> Self {
        Self { algorithm, ..self }
    }

    fn is_implicit(&self) -> bool {
        self.algorithm == Algorithm::Implicit
    }

    fn is_direct(&self, op: &Conv2d) -> bool {
        self.algorithm == Algorithm::Direct && direct::applies(op)
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
        if self.is_implicit() {
            self.launch("conv2d_forward")?;
            let rest = spans.pool.filter(|pool| !implicit::fuses(&pool.op));
            return rest.map_or(Ok(()), |_| self.launch("max_pool_forward"));
        }
        match self.is_direct(op) {
            true => self.launch("direct_forward")?,
            false => self.over_columns(op, batch)?,
        }
        match spans.pool {
            Some(_) => self.launch("max_pool_forward"),
            None if self.is_direct(op) => Ok(()),
            None => self.bias_activation_forward(spans.activation, spans.bias),
        }
    }

    fn conv2d_backward_weight(&mut self, op: &Conv2d, batch: usize, _spans: Conv2dBackwardWeight) -> Result<()> {
        match self.is_direct(op) {
            _ if self.is_implicit() => self.launch("conv2d_backward_weight"),
            true => self.launch("direct_backward_weight"),
            false => self.over_columns(op, batch),
        }
    }

    fn conv2d_backward_input(&mut self, op: &Conv2d, batch: usize, spans: Conv2dBackwardInput) -> Result<()> {
        if self.is_implicit() {
            return self.implicit_input(batch * op.input.pixels(), op.input.channels, spans.d_input, spans.epilogue);
        }
        match op.is_pointwise() {
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
}

impl LossOps for Launches {
    fn softmax_cross_entropy(&mut self, _: usize, _: usize, _: Span, _: Option<Span>) -> Result<()> {
        self.launch("softmax_cross_entropy")
    }

    fn set_labels(&mut self, _: &[u32]) -> Result<()> {
        Ok(())
    }

    fn set_metrics(&mut self, _: Metrics) -> Result<()> {
        Ok(())
    }

    fn read_metrics(&mut self) -> Result<Metrics> {
        bail!("nothing was computed")
    }

    fn peek_metrics(&mut self) -> Option<Metrics> {
        None
    }

    fn log_steps(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn take_step_losses(&mut self) -> Result<Vec<StepLoss>> {
        bail!("nothing was computed")
    }
}

impl GatherOps for Launches {
    fn load_subset(&mut self, _: Subset, _: &Normalise, _: Vec<u8>, _: Vec<u32>) -> Result<()> {
        Ok(())
    }

    fn set_order(&mut self, _: Subset, _: &[u32], _: usize) -> Result<()> {
        Ok(())
    }

    fn gather_normalise(&mut self, _: Subset, _: usize, _: Span) -> Result<()> {
        self.launch("gather_normalise")
    }
}

impl OptimizerOps for Launches {
    fn set_learning_rate(&mut self, _: f32) -> Result<()> {
        Ok(())
    }

    fn sgd_step(&mut self, _: &Sgd) -> Result<()> {
        if self.precision == "fp16" {
            self.launch("check_overflow")?;
        }
        self.launch("sgd")
    }
}

impl Backend for Launches {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { name: "a list of CUDA's launches".into(), precision: self.precision.into() }
    }

    fn allocate(&mut self, sizes: &MemorySizes) -> Result<()> {
        self.columns_bytes = columns_bytes(sizes, self.real_size(), self.workspace);
        Ok(())
    }

    fn write(&mut self, _: Span, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn read(&mut self, _: Span) -> Result<Vec<f32>> {
        bail!("nothing was computed")
    }

    fn run<F>(&mut self, _: Recording, mut body: F) -> Result<()>
    where
        F: FnMut(&mut Self) -> Result<()> + Send,
    {
        body(self)
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }
}
