//! Bias gradients on the CPU: column sums over fixed chunks of rows, fused with the activation's backward pass.

use anyhow::Result;
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK, Loop, Real, RunAs};
use crate::ops::{Activation, BiasActivationBackward, Region, Span};

impl RunAs for BiasActivationBackward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let &Self { activation, channels, output, d_output, d_bias } = self;
        let nothing = Span::new(Region::Gradients, 0, 0);
        let views = cpu.memory.views::<R, 2, 1>([output, d_output], [d_bias.unwrap_or(nothing)], None)?;
        let ([y, d_y], [d_bias]) = (views.values, views.floats);
        let piece_len = ELEMENTWISE_CHUNK.div_ceil(channels) * channels;
        let len = d_y.len().div_ceil(piece_len) * channels;
        cpu.bias_partials.resize(len.max(cpu.bias_partials.len()), 0.0);
        let partials = &mut cpu.bias_partials[..len];
        let (work, set) = (d_y.par_chunks_mut(piece_len).zip(y.par_chunks(piece_len)), cpu.instructions);
        work.zip(partials.par_chunks_mut(channels)).for_each(|((d_y, y), sums)| {
            // One loop per activation: a match inside the loop would prevent vectorisation.
            match activation {
                Activation::Identity => set.call(ColumnSums { y, d_y, sums, backward: |_, d_y| d_y }),
                Activation::Relu => {
                    set.call(ColumnSums { y, d_y, sums, backward: |y, d_y| Activation::Relu.backward(y, d_y) });
                }
                Activation::LeakyRelu { .. } => {
                    set.call(ColumnSums { y, d_y, sums, backward: |y, d_y| activation.backward(y, d_y) });
                }
                Activation::Tanh => {
                    set.call(ColumnSums { y, d_y, sums, backward: |y, d_y| Activation::Tanh.backward(y, d_y) });
                }
            }
        });
        if !d_bias.is_empty() {
            sum_in_order(partials, d_bias);
        }
        Ok(())
    }
}

/// `d_y = backward(y, d_y)` and `sums[c] = Σ_rows d_y[row][c]`.
struct ColumnSums<'a, R, F> {
    y: &'a [R],
    d_y: &'a mut [R],
    sums: &'a mut [f32],
    backward: F,
}

impl<R: Real, F: Fn(f32, f32) -> f32> Loop for ColumnSums<'_, R, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { y, d_y, sums, backward } = self;
        sums.fill(0.0);
        d_y.iter_mut().zip(y).for_each(|(d_y, y)| *d_y = R::new(backward(y.get(), d_y.get())));
        for row in d_y.chunks_exact(sums.len()) {
            sums.iter_mut().zip(row).for_each(|(sum, d_y)| *sum += d_y.get());
        }
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
