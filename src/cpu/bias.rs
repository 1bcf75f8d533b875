//! Bias gradients on the CPU: column sums over fixed pieces of rows, fused with the activation's backward pass.

use anyhow::Result;
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK};
use crate::ops::{Activation, BiasOps, Span};

impl BiasOps for Cpu {
    fn bias_activation_backward(
        &mut self,
        activation: Activation,
        rows: usize,
        channels: usize,
        output: Span,
        d_output: Span,
        d_bias: Option<Span>,
    ) -> Result<()> {
        let len = rows * channels;
        let d_bias_span = d_bias.unwrap_or(output.first(0));
        let [y, d_y, d_bias] = self.memory.floats([output.first(len), d_output.first(len), d_bias_span])?;
        let rows_per_piece = ELEMENTWISE_CHUNK.div_ceil(channels);
        let (piece_len, pieces) = (rows_per_piece * channels, rows.div_ceil(rows_per_piece));
        self.bias_partials.resize((pieces * channels).max(self.bias_partials.len()), 0.0);
        let partials = &mut self.bias_partials[..pieces * channels];
        let (work, set) = (d_y.par_chunks_mut(piece_len).zip(y.par_chunks(piece_len)), self.instructions);
        work.zip(partials.par_chunks_mut(channels)).for_each(|((d_y, y), sums)| {
            // One loop for each activation: inside of it, the choice would keep the compiler from using vectors.
            set.run(|| match activation {
                Activation::Identity => column_sums(d_y, sums, |_, d_y| d_y, y),
                Activation::Relu => column_sums(d_y, sums, |y, d_y| Activation::Relu.backward(y, d_y), y),
                Activation::LeakyRelu { .. } => column_sums(d_y, sums, |y, d_y| activation.backward(y, d_y), y),
                Activation::Tanh => column_sums(d_y, sums, |y, d_y| Activation::Tanh.backward(y, d_y), y),
            });
        });
        if !d_bias.is_empty() {
            sum_in_order(partials, &mut d_bias[..channels]);
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
