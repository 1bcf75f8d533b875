//! Bias gradients on the CPU: column sums over fixed pieces of rows, fused with the activation's backward pass.

use anyhow::Result;
use rayon::prelude::*;

use super::conv::sum_in_order;
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
        let work = d_y.par_chunks_mut(piece_len).zip(y.par_chunks(piece_len)).zip(partials.par_chunks_mut(channels));
        work.for_each(|((d_y, y), partial)| {
            if activation != Activation::Identity {
                d_y.iter_mut().zip(y).for_each(|(d_y, &y)| *d_y = activation.backward(y, *d_y));
            }
            column_sums(d_y, partial);
        });
        if !d_bias.is_empty() {
            sum_in_order(partials, &mut d_bias[..channels]);
        }
        Ok(())
    }
}

/// `sums[c] = Σ_rows values[row][c]`
fn column_sums(values: &[f32], sums: &mut [f32]) {
    sums.fill(0.0);
    for row in values.chunks_exact(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
}
