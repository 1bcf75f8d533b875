//! Bias gradients on the CPU: column sums over fixed chunks of rows, fused with the activation's backward pass.

use anyhow::Result;
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK};
use crate::ops::{Activation, BiasActivationBackward, RunOn};

impl RunOn<Cpu> for BiasActivationBackward {
    fn run_on(&self, cpu: &mut Cpu) -> Result<()> {
        let &Self { activation, channels, output, d_output, d_bias } = self;
        let [y, d_y, d_bias] = cpu.memory.floats([output, d_output, d_bias.unwrap_or(output.first(0))])?;
        let piece_len = ELEMENTWISE_CHUNK.div_ceil(channels) * channels;
        let len = d_y.len().div_ceil(piece_len) * channels;
        cpu.bias_partials.resize(len.max(cpu.bias_partials.len()), 0.0);
        let partials = &mut cpu.bias_partials[..len];
        let (work, set) = (d_y.par_chunks_mut(piece_len).zip(y.par_chunks(piece_len)), cpu.instructions);
        work.zip(partials.par_chunks_mut(channels)).for_each(|((d_y, y), sums)| {
            // One loop per activation: a match inside the loop would prevent vectorisation.
            set.run(|| match activation {
                Activation::Identity => column_sums(d_y, sums, |_, d_y| d_y, y),
                Activation::Relu => column_sums(d_y, sums, |y, d_y| Activation::Relu.backward(y, d_y), y),
                Activation::LeakyRelu { .. } => column_sums(d_y, sums, |y, d_y| activation.backward(y, d_y), y),
                Activation::Tanh => column_sums(d_y, sums, |y, d_y| Activation::Tanh.backward(y, d_y), y),
            });
        });
        if !d_bias.is_empty() {
            sum_in_order(partials, d_bias);
        }
        Ok(())
    }
}

/// `d_y = backward(y, d_y)` and `sums[c] = Σ_rows d_y[row][c]`.
#[inline(always)]
fn column_sums(d_y: &mut [f32], sums: &mut [f32], backward: impl Fn(f32, f32) -> f32, y: &[f32]) {
    sums.fill(0.0);
    d_y.iter_mut().zip(y).for_each(|(d_y, y)| *d_y = backward(*y, *d_y));
    for row in d_y.chunks_exact(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(sum, d_y)| *sum += d_y);
    }
}

/// `sum[i] = partials[0][i] + partials[1][i] + …`, in that order.
fn sum_in_order(partials: &[f32], sum: &mut [f32]) {
    let len = sum.len();
    sum.copy_from_slice(&partials[..len]);
    for partial in partials[len..].chunks_exact(len) {
        sum.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
    }
}
