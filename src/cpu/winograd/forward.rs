//! The forward pass of a Winograd convolution, optionally with fused max pooling.

use rayon::prelude::*;

use super::maps::TILE;
use super::tiling::{Part, Winograd};
use super::transform::{InverseTransform, PLANES};
use crate::cpu::runtime::scratch::PANEL;
use crate::cpu::{Instructions, Real, finish};
use crate::ops::{Activation, MaxPool2d};
use crate::shape::Window;

/// The epilogue of a forward pass.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Epilogue<'a, R> {
    /// One value per channel, or empty.
    pub bias: &'a [f32],
    /// A residual of the output's shape, added before the activation; not with `pooled`.
    pub residual: Option<&'a [R]>,
    pub activation: Activation,
    /// Whether to write only the maxima of 2×2 windows.
    pub pooled: bool,
}

impl<R> Epilogue<'_, R> {
    pub const NONE: Self = Self { bias: &[], residual: None, activation: Activation::Identity, pooled: false };

    /// Whether ReLU can follow the bias directly.
    pub fn fuses_relu(&self) -> bool {
        self.activation == Activation::Relu && self.residual.is_none()
    }
}

impl Winograd {
    /// Whether the tiles consist of whole windows of the pooling, and the activation can be fused too.
    pub fn can_fuse_pool(&self, pool: &MaxPool2d, activation: Activation) -> bool {
        pool.window == Window { kernel: 2, stride: 2, padding: 0 }
            && self.to.height.is_multiple_of(TILE)
            && self.to.width.is_multiple_of(TILE)
            && matches!(activation, Activation::Identity | Activation::Relu)
    }

    /// `y = activation(convolution(x) + bias + residual)`, optionally pooled. `weights` come from
    /// [`Winograd::transform_weights`]. With pooling, `argmax` receives the position of each maximum, if it is given.
    pub fn forward<R: Real>(
        &self,
        set: Instructions,
        x: &[R],
        weights: &[f32],
        epilogue: Epilogue<R>,
        y: &mut [R],
        argmax: Option<&mut [u32]>,
    ) {
        let (per_sample, per_line) = match epilogue.pooled {
            true => (self.to.len() / 4, TILE / 2 * (self.to.width / 2) * self.to.channels),
            false => (self.to.len(), TILE * self.to.width * self.to.channels),
        };
        let (samples, lines) = self.piece(y.len() / per_sample);
        let piece_len = samples * per_sample;
        let part_len = if samples > 1 { piece_len } else { lines * per_line };
        let part = |y: &[R], first_line| {
            let samples = y.len().div_ceil(per_sample);
            Part { samples, first_line, lines: (y.len() / samples).div_ceil(per_line) }
        };
        let pieces = y.par_chunks_mut(piece_len).enumerate();
        let Some(argmax) = argmax else {
            return pieces.for_each(|(piece, y)| {
                y.par_chunks_mut(part_len).enumerate().for_each(|(index, y)| {
                    let x = &x[piece * samples * self.from.len()..];
                    let residual = epilogue.residual.map(|all| &all[piece * piece_len + index * part_len..]);
                    let epilogue = Epilogue { residual, ..epilogue };
                    self.forward_part(set, part(y, index * lines), x, weights, epilogue, y, &mut []);
                });
            });
        };
        pieces.zip(argmax.par_chunks_mut(piece_len)).for_each(|((piece, y), argmax)| {
            let parts = y.par_chunks_mut(part_len).zip(argmax.par_chunks_mut(part_len)).enumerate();
            parts.for_each(|(index, (y, argmax))| {
                let x = &x[piece * samples * self.from.len()..];
                self.forward_part(set, part(y, index * lines), x, weights, epilogue, y, argmax);
            });
        });
    }

    /// Computes one part of the tiles. `x` starts at the part's first sample, `y`, `argmax` and the residual at its first
    /// tile.
    #[expect(clippy::too_many_arguments, reason = "extracted from `forward`, which calls it in two places")]
    fn forward_part<R: Real>(
        &self,
        set: Instructions,
        part: Part,
        x: &[R],
        weights: &[f32],
        epilogue: Epilogue<R>,
        y: &mut [R],
        argmax: &mut [u32],
    ) {
        let (channels, relu) = (self.from.channels, epilogue.fuses_relu());
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
        finish(set, epilogue.activation, epilogue.residual, y);
    }
}
