//! The forward pass of a Winograd convolution, with the max pooling that may end it.

use rayon::prelude::*;

use super::tiling::{Part, Winograd};
use super::transform::{Join, PLANES};
use crate::cpu::runtime::scratch::PANEL;
use crate::cpu::{Instructions, activate};
use crate::ops::{Activation, MaxPool2d};
use crate::shape::Window;

/// How a forward pass ends.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct End<'a> {
    /// Empty, or a value for each channel.
    pub bias: &'a [f32],
    pub activation: Activation,
    /// Whether only the maximum of each tile is wanted.
    pub pooled: bool,
}

impl Winograd {
    /// Whether the tiles are the pooling's windows, and the activation one that ends a tile.
    pub fn pools(&self, pool: &MaxPool2d, activation: Activation) -> bool {
        pool.window == Window { kernel: 2, stride: 2, padding: 0 }
            && self.output.height.is_multiple_of(2)
            && self.output.width.is_multiple_of(2)
            && matches!(activation, Activation::Identity | Activation::Relu)
    }

    /// `y = activation(convolution(x) + bias)`; `weights` as [`Winograd::split_weights`] made them. Where it is pooled,
    /// `argmax` receives the numbers of the maxima, unless there is none.
    pub fn forward(
        &self,
        set: Instructions,
        x: &[f32],
        weights: &[f32],
        end: End,
        y: &mut [f32],
        argmax: Option<&mut [u32]>,
    ) {
        let (per_sample, per_line) = match end.pooled {
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
                    self.forward_part(set, part(y, index * lines), x, weights, end, y, &mut []);
                });
            });
        };
        pieces.zip(argmax.par_chunks_mut(piece_len)).for_each(|((piece, y), argmax)| {
            let parts = y.par_chunks_mut(part_len).zip(argmax.par_chunks_mut(part_len)).enumerate();
            parts.for_each(|(index, (y, argmax))| {
                let x = &x[piece * samples * self.op.input.len()..];
                self.forward_part(set, part(y, index * lines), x, weights, end, y, argmax);
            });
        });
    }

    /// One part of the tiles; `x` begins with its first sample, `y` and `argmax` with its first tile.
    #[allow(clippy::too_many_arguments)] // of one function, for two of its lines
    fn forward_part(
        &self,
        set: Instructions,
        part: Part,
        x: &[f32],
        weights: &[f32],
        end: End,
        y: &mut [f32],
        argmax: &mut [u32],
    ) {
        let (channels, relu) = (self.op.input.channels, end.activation == Activation::Relu);
        self.with_input(set, part, x, |tiles| {
            for (index, weights) in weights.chunks(PLANES * channels * PANEL).enumerate() {
                let first = index * PANEL;
                let bias = if end.bias.is_empty() { end.bias } else { &end.bias[first..] };
                self.with_products(set, part, tiles, weights, channels, |products, width| {
                    if !end.pooled {
                        let join = Join::Output { bias, relu };
                        return self.join_output(set, join, part, products, width, &mut y[first..]);
                    }
                    let argmax = argmax.get_mut(first..).unwrap_or_default();
                    self.join_maxima(set, (bias, relu), part, products, width, &mut y[first..], argmax);
                });
            }
        });
        activate(set, end.activation, y);
    }
}
