//! What the CUDA backend launches for every operator, without a device: a backend that computes nothing and keeps a list.
//!
//! It takes the decisions that the launching code takes; a test compares it with the graph of a captured step.

use anyhow::{Result, bail};

use super::memory::columns_bytes;
use crate::ops::{
    Activation, ActivationOps, Algorithm, AvgPool2d, Backend, BiasOps, ChannelCopy, DeviceInfo, GatherOps, JoinOps,
    LossOps, MaxPool2d, MaxPool2dBackward, MemorySizes, Metrics, Normalise, OptimizerOps, PoolOps, Recording, Sgd,
    Span, StepLoss, Subset,
};

/// The list.
pub struct Launches {
    precision: &'static str,
    workspace: usize,
    pub(super) algorithm: Algorithm,
    pub(super) columns_bytes: usize,
    pub(super) launched: Vec<&'static str>,
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

    /// What was launched since the last call.
    pub fn take(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.launched)
    }

    pub(super) fn real_size(&self) -> usize {
        if self.precision == "fp16" { 2 } else { 4 }
    }

    pub(super) fn launch(&mut self, kernel: &'static str) -> Result<()> {
        self.launched.push(kernel);
        Ok(())
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
    fn set_learning_rates(&mut self, _: &[f32]) -> Result<()> {
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
