//! Softmax cross-entropy.

use anyhow::Result;

use super::{Lowering, u32_of};
use crate::cuda::program::{Address, Buffer, params};
use crate::ops::{Activation, BiasActivationBackward, LossGradient, RunOn, SoftmaxCrossEntropy};

/// Whether the loss's one block also sums the bias gradient: it would take too long over many logits.
fn sums_the_bias(logits: usize) -> bool {
    logits <= 1 << 14
}

params!(
    LossParams, 80 bytes,
    [logits, labels, loss_scale, d_logits, d_bias, metrics, step_log],
    rows: u32, classes: u32, smoothing: f32, weight: f32, auxiliary: u32
);

impl RunOn<Lowering<'_>> for SoftmaxCrossEntropy {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { classes, logits, gradient } = *self;
        let summed_here = gradient.and_then(|gradient| gradient.d_bias).filter(|_| sums_the_bias(logits.len));
        let params = LossParams {
            logits: lowering.address(logits),
            labels: Address::at(Buffer::Labels),
            loss_scale: lowering.loss_scaling(0),
            d_logits: lowering.optional(gradient.map(|gradient| gradient.d_logits)),
            d_bias: lowering.optional(summed_here),
            metrics: Address::at(Buffer::Metrics),
            step_log: gradient.map_or(Address::NULL, |_| Address::at(Buffer::StepLog)),
            rows: u32_of(logits.len / classes)?,
            classes: u32_of(classes)?,
            smoothing: gradient.map_or(0.0, |gradient| gradient.smoothing),
            weight: gradient.map_or(1.0, |gradient| gradient.weight()),
            auxiliary: gradient.is_some_and(|gradient| gradient.auxiliary.is_some()).into(),
        };
        // One block: the sums over the samples have one order.
        lowering.launch("softmax_cross_entropy", [1, 1], &params)?;
        match gradient {
            Some(LossGradient { d_logits: d_output, d_bias: d_bias @ Some(_), .. }) if summed_here.is_none() => {
                let (activation, channels, output) = (Activation::Identity, classes, logits);
                BiasActivationBackward { activation, channels, output, d_output, d_bias }.run_on(lowering)
            }
            _ => Ok(()),
        }
    }
}
