//! The list's other half: dropout, normalisation, loss, data, optimiser, and the memory that it does not have.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::super::loss::sums_the_bias;
use super::Launches;
use crate::images::ImageSource;
use crate::ops::{
    Augmentation, Backend, DeviceInfo, Dropout, DropoutOps, GatherOps, LossGradient, LossOps, Lrn, LrnOps, MemorySizes,
    Metrics, Normalise, OptimizerOps, Recording, Sgd, Span, StepLoss, Subset,
};

impl LrnOps for Launches {
    fn lrn_forward(&mut self, _: &Lrn, _: usize, _: Span, _: Span) -> Result<()> {
        self.launch("lrn_forward")
    }

    fn lrn_backward(&mut self, _: &Lrn, _: usize, _: Span, _: Span, _: Span) -> Result<()> {
        self.launch("lrn_backward")
    }
}

impl DropoutOps for Launches {
    fn set_dropout_step(&mut self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    fn dropout(&mut self, _: &Dropout, _: usize, _: Span, _: Span) -> Result<()> {
        self.launch("dropout")
    }

    fn next_dropout_step(&mut self) -> Result<()> {
        self.launch("next_dropout_step")
    }
}

impl LossOps for Launches {
    fn softmax_cross_entropy(
        &mut self,
        classes: usize,
        batch: usize,
        _: Span,
        gradient: Option<LossGradient>,
    ) -> Result<()> {
        self.launch("softmax_cross_entropy")?;
        match gradient.and_then(|gradient| gradient.d_bias) {
            Some(_) if !sums_the_bias(batch, classes) => self.launch("bias_activation_backward"),
            _ => Ok(()),
        }
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

    fn stream_subset(
        &mut self,
        _: Subset,
        _: &Normalise,
        _: Arc<dyn ImageSource>,
        _: Vec<u32>,
        _: usize,
    ) -> Result<()> {
        Ok(())
    }

    fn prepare_batch(&mut self, _: Subset, _: usize) -> Result<()> {
        Ok(())
    }

    fn set_augmentation(&mut self, _: &Augmentation, _: u64, _: u32) -> Result<()> {
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

    fn sgd_step(&mut self, op: &Sgd) -> Result<()> {
        if self.precision == "fp16" {
            self.launch("check_overflow")?;
        }
        if op.clip_norm.is_some() {
            self.launch("gradient_norm")?;
        }
        self.launch("sgd")
    }

    fn swap_average(&mut self) -> Result<()> {
        self.launch("swap_average")
    }
}

impl Backend for Launches {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { name: "a list of CUDA's launches".into(), precision: self.precision.into() }
    }

    fn allocate(&mut self, sizes: &MemorySizes) -> Result<()> {
        self.set_sizes(sizes);
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
