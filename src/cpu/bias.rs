//! Bias gradients on the CPU: column sums over fixed chunks of rows, fused with the activation's backward pass.

use anyhow::Result;
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK, Loop, Real, RunAs, with_constant};
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
            set.run(ColumnSums { activation, y, d_y, sums });
        });
        if !d_bias.is_empty() {
            sum_in_order(partials, d_bias);
        }
        Ok(())
    }
}

/// `d_y = d_y · activation′` from `y`, and `sums[c] = Σ_rows d_y[row][c]`.
struct ColumnSums<'a, R> {
    activation: Activation,
    y: &'a [R],
    d_y: &'a mut [R],
    sums: &'a mut [f32],
}

impl<R: Real> Loop for ColumnSums<'_, R> {
    #[inline(always)]
    fn run(self) {
        let Self { y, d_y, sums, .. } = self;
        with_constant!(self.activation, activation => {
            for (d_y, y) in d_y.iter_mut().zip(y) {
                *d_y = R::new(activation.backward(y.get(), d_y.get()));
            }
        });
        sums.fill(0.0);
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
