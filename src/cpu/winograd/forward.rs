//! The forward pass of a Winograd convolution, optionally with fused max pooling.

use rayon::prelude::*;

use super::tiling::{Part, Winograd};
use super::transform::{InverseTransform, PLANES};
use crate::cpu::runtime::scratch::PANEL;
use crate::cpu::{Instructions, activate, add_and_activate};
use crate::ops::{Activation, MaxPool2d};
use crate::shape::Window;

/// The epilogue of a forward pass.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Epilogue<'a> {
    /// One value per channel, or empty.
    pub bias: &'a [f32],
    /// A residual of the output's shape, added before the activation; not with `pooled`.
    pub residual: Option<&'a [f32]>,
    pub activation: Activation,
    /// Whether to write only the maximum of each 2×2 tile.
    pub pooled: bool,
}

impl Winograd {
    /// Whether the pooling's windows coincide with the tiles, and the activation can be fused too.
    pub fn can_fuse_pool(&self, pool: &MaxPool2d, activation: Activation) -> bool {
        pool.window == Window { kernel: 2, stride: 2, padding: 0 }
            && self.output.height.is_multiple_of(2)
            && self.output.width.is_multiple_of(2)
            && matches!(activation, Activation::Identity | Activation::Relu)
    }

    /// `y = activation(convolution(x) + bias + residual)`, optionally pooled. `weights` come from [`Winograd::transform_weights`].
    /// With pooling, `argmax` receives the position of each maximum, if it is given.
    pub fn forward(
        &self,
        set: Instructions,
        x: &[f32],
        weights: &[f32],
        epilogue: Epilogue,
        y: &mut [f32],
        argmax: Option<&mut [u32]>,
    ) {
        let (per_sample, per_line) = match epilogue.pooled {
            true => (self.lines * self.cols * self.output.channels, self.cols * self.output.channels),
            false => (self.output.len(), 2 * self.output.width * self.output.channels),
        };
        let (samples, lines) = self.piece(y.len() / per_sample);
        let piece_len = samples * per_sample;
        let part_len = if samples > 1 { piece_len } else { lines * per_line };
        let part = |y: &[f32], first_line| {
            let samples = y.len().div_ceil(per_sample);
            Part { samples, first_line, lines: (y.len() / samples).div_ceil(per_line) }
        };
        let pieces = y.par_chunks_mut(piece_len).enumerate();
        let Some(argmax) = argmax else {
            return pieces.for_each(|(piece, y)| {
                y.par_chunks_mut(part_len).enumerate().for_each(|(index, y)| {
                    let x = &x[piece * samples * self.op.input.len()..];
                    let residual = epilogue.residual.map(|all| &all[piece * piece_len + index * part_len..]);
                    let epilogue = Epilogue { residual, ..epilogue };
                    self.forward_part(set, part(y, index * lines), x, weights, epilogue, y, &mut []);
                });
            });
        };
        pieces.zip(argmax.par_chunks_mut(piece_len)).for_each(|((piece, y), argmax)| {
            let parts = y.par_chunks_mut(part_len).zip(argmax.par_chunks_mut(part_len)).enumerate();
            parts.for_each(|(index, (y, argmax))| {
                let x = &x[piece * samples * self.op.input.len()..];
                self.forward_part(set, part(y, index * lines), x, weights, epilogue, y, argmax);
            });
        });
    }

    /// Computes one part of the tiles. `x` starts at the part's first sample, `y`, `argmax` and the residual at its first
    /// tile.
    #[expect(clippy::too_many_arguments, reason = "extracted from `forward`, which calls it in two places")]
    fn forward_part(
        &self,
        set: Instructions,
        part: Part,
        x: &[f32],
        weights: &[f32],
        epilogue: Epilogue,
        y: &mut [f32],
        argmax: &mut [u32],
    ) {
        let channels = self.op.input.channels;
        let relu = epilogue.activation == Activation::Relu && epilogue.residual.is_none();
        self.with_input(set, part, x, |tiles| {
            for (index, weights) in weights.chunks(PLANES * channels * PANEL).enumerate() {
                let first = index * PANEL;
                let bias = if epilogue.bias.is_empty() { epilogue.bias } else { &epilogue.bias[first..] };
                self.with_products(set, part, tiles, weights, channels, |products, width| {
                    if !epilogue.pooled {
                        let inverse = InverseTransform::Output { bias, relu };
                        return self.write_output(set, inverse, part, products, width, &mut y[first..]);
                    }
                    let argmax = argmax.get_mut(first..).unwrap_or_default();
                    self.write_maxima(set, (bias, relu), part, products, width, &mut y[first..], argmax);
                });
            }
        });
        match epilogue.residual {
            Some(residual) => add_and_activate(set, epilogue.activation, residual, y),
            None => activate(set, epilogue.activation, y),
        }
    }
}
