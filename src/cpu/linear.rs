//! The linear layer on the CPU: three matrix products.

use anyhow::Result;
use rayon::prelude::*;

use super::Cpu;
use super::conv::add_bias_and_activate;
use super::gemm::{Matrix, gemm_blocked};
use crate::ops::{Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, LinearOps};

/// Blocks of a product that threads take: a function of the shape alone.
const BLOCK_ROWS: usize = 256;
const BLOCK_COLS: usize = 128;

impl LinearOps for Cpu {
    fn linear_forward(&mut self, op: &Linear, batch: usize, spans: LinearForward) -> Result<()> {
        let bias_span = spans.bias.unwrap_or(spans.weight.first(0));
        let [x, weight, bias, y] = self.memory.floats([
            spans.input.first(batch * op.in_features),
            spans.weight,
            bias_span,
            spans.output.first(batch * op.out_features),
        ])?;
        let x = Matrix::new(x, batch, op.in_features);
        let weight = Matrix::new(weight, op.out_features, op.in_features);
        // x [n, in] · Wᵀ [in, out] → y [n, out]
        gemm_blocked(x, weight.transposed(), y, BLOCK_ROWS, BLOCK_COLS);
        let (bias, rows_per_piece) = (&*bias, super::ELEMENTWISE_CHUNK.div_ceil(op.out_features));
        y.par_chunks_mut(rows_per_piece * op.out_features)
            .for_each(|y| add_bias_and_activate(y, bias, op.out_features, spans.activation));
        Ok(())
    }

    fn linear_backward_weight(&mut self, op: &Linear, batch: usize, spans: LinearBackwardWeight) -> Result<()> {
        let [x, d_y, d_weight] = self.memory.floats([
            spans.input.first(batch * op.in_features),
            spans.d_output.first(batch * op.out_features),
            spans.d_weight,
        ])?;
        let x = Matrix::new(x, batch, op.in_features);
        let d_y = Matrix::new(d_y, batch, op.out_features);
        // d_yᵀ [out, n] · x [n, in] → d_weight [out, in]
        gemm_blocked(d_y.transposed(), x, d_weight, BLOCK_ROWS, 4 * BLOCK_COLS);
        Ok(())
    }

    fn linear_backward_input(&mut self, op: &Linear, batch: usize, spans: LinearBackwardInput) -> Result<()> {
        let [d_y, weight, d_x] = self.memory.floats([
            spans.d_output.first(batch * op.out_features),
            spans.weight,
            spans.d_input.first(batch * op.in_features),
        ])?;
        let d_y = Matrix::new(d_y, batch, op.out_features);
        let weight = Matrix::new(weight, op.out_features, op.in_features);
        // d_y [n, out] · W [out, in] → d_x [n, in]
        gemm_blocked(d_y, weight, d_x, BLOCK_ROWS, BLOCK_COLS);
        Ok(())
    }
}
