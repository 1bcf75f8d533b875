//! Softmax cross-entropy.

use anyhow::Result;

use super::Lowering;
use super::params::params;
use crate::cuda::program::Buffer;
use crate::ops::{Activation, BiasActivationBackward, LossGradient, RunOn, SoftmaxCrossEntropy};

/// Whether the single block of the loss kernel also sums the bias gradient; for many logits it would be too slow.
fn sums_bias_gradient(logits: usize) -> bool {
    logits <= 1 << 14
}

impl RunOn<Lowering<'_>> for SoftmaxCrossEntropy {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { classes, logits, gradient } = *self;
        let fused_d_bias = gradient.and_then(|gradient| gradient.d_bias).filter(|_| sums_bias_gradient(logits.len));
        let params = params!(
            lowering.target, 80 bytes,
            [
                logits, labels = Buffer::Labels, loss_scale = lowering.loss_scaling(0),
                d_logits = gradient.map(|gradient| gradient.d_logits), d_bias = fused_d_bias,
                metrics = Buffer::Metrics, step_log = gradient.map(|_| Buffer::StepLog),
            ],
            rows: u32 = logits.len / classes, classes: u32,
            smoothing: f32 = gradient.map_or(0.0, |gradient| gradient.smoothing),
            weight: f32 = gradient.map_or(1.0, |gradient| gradient.weight()),
            auxiliary: u32 = gradient.is_some_and(|gradient| gradient.auxiliary.is_some()),
        );
        // A single block gives the sums over the samples a fixed order.
        lowering.launch("softmax_cross_entropy", [1, 1], params)?;
        match gradient {
            Some(LossGradient { d_logits: d_output, d_bias: d_bias @ Some(_), .. }) if fused_d_bias.is_none() => {
                let (activation, channels, output) = (Activation::Identity, classes, logits);
                BiasActivationBackward { activation, channels, output, d_output, d_bias }.run_on(lowering)
            }
            _ => Ok(()),
        }
    }
}
