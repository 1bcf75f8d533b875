//! Winograd convolutions whose weights are larger than their transformed images, as in the last layers of deep networks:
//! all tiles are transformed first, and then each task transforms the weights of one panel of output channels, multiplies
//! them and forgets them. Transformed weights of all panels would not fit in the caches.

use rayon::prelude::*;

use super::forward::Epilogue;
use super::gradients::LARGE_WEIGHT_LEN;
use super::tiling::{Part, Winograd};
use super::transform::{InverseTransform, PLANES};
use crate::cpu::gemm::kernel::Start;
use crate::cpu::runtime::scratch::{self, Buffer, PANEL, Scratch, grown};
use crate::cpu::{Instructions, Real, finish};
use crate::shape::Shape;

/// Tiles that are multiplied at once.
const PART_TILES: usize = 32;

/// Pixels per task that joins the panels of an output.
const JOINED_PIXELS: usize = 64;

/// The transformed tiles of a batch.
struct Transformed<'a> {
    /// The first sample of each part, and the part.
    parts: Vec<(usize, Part)>,
    /// `[part][plane][tile][channels]`, of which the last part may be shorter.
    tiles: &'a [f32],
    part_len: usize,
}

impl Transformed<'_> {
    fn parts(&self) -> impl Iterator<Item = (usize, Part, &[f32])> {
        self.parts.iter().zip(self.tiles.chunks(self.part_len)).map(|(&(sample, part), tiles)| (sample, part, tiles))
    }
}

impl Winograd {
    /// Whether a batch has so few tiles and so many weights that the work is better divided by panels.
    pub fn is_by_panels(&self, batch: usize) -> bool {
        self.weight_len() > LARGE_WEIGHT_LEN && batch * self.lines * self.cols <= self.to.channels
    }

    /// Transforms all tiles of a batch.
    fn transform_tiles<'a, R: Real>(&self, set: Instructions, x: &[R], tiles: &'a mut Vec<f32>) -> Transformed<'a> {
        let lines = x.len() / self.from.len() * self.lines;
        let parts: Vec<(usize, Part)> = self.parts(0..lines, PART_TILES).collect();
        let part_len = parts.iter().map(|&(_, part)| PLANES * self.plane_len(part, self.from.channels)).max();
        let part_len = part_len.unwrap_or(0);
        let tiles = grown(tiles, parts.len() * part_len);
        tiles.par_chunks_mut(part_len.max(1)).zip(&parts).for_each(|(tiles, &(sample, part))| {
            self.transform_input(set, part, &x[sample * self.from.len()..], tiles);
        });
        Transformed { parts, tiles, part_len }
    }

    /// Like [`Winograd::forward`], with weights that are not transformed, and without pooling.
    pub fn forward_by_panels<R: Real>(
        &self,
        set: Instructions,
        x: &[R],
        weight: &[R],
        epilogue: Epilogue<R>,
        y: &mut [R],
        scratch: &mut Scratch,
    ) {
        let channels = self.to.channels;
        let pixels = y.len() / channels;
        let transformed = self.transform_tiles(set, x, &mut scratch.tiles);
        let outputs = grown(&mut scratch.partials, y.len());
        outputs.par_chunks_mut(pixels * PANEL).enumerate().for_each(|(panel, output)| {
            let width = output.len() / pixels;
            let bias = if epilogue.bias.is_empty() { epilogue.bias } else { &epilogue.bias[panel * PANEL..] };
            let inverse = InverseTransform::Output { bias, relu: epilogue.fuses_relu() };
            // The same convolution to the channels of the panel.
            let narrow = Self { to: Shape { channels: width, ..self.to }, ..*self };
            scratch::with(Buffer::Tiles, narrow.weight_len(), |weights| {
                self.transform_panel(set, weight, panel, weights);
                for (sample, part, tiles) in transformed.parts() {
                    let first = narrow.first_output(sample, part);
                    self.with_products(set, part, tiles, weights, self.from.channels, |products, width| {
                        narrow.write_output(set, inverse, part, products, width, &mut output[first..]);
                    });
                }
            });
        });
        let outputs = &*outputs;
        y.par_chunks_mut(JOINED_PIXELS * channels).enumerate().for_each(|(index, y)| {
            for (panel, output) in outputs.chunks(pixels * PANEL).enumerate() {
                let width = output.len() / pixels;
                let output = output[index * JOINED_PIXELS * width..].chunks_exact(width);
                for (y, values) in y.chunks_exact_mut(channels).zip(output) {
                    R::copy_from_floats(values, &mut y[panel * PANEL..][..width]);
                }
            }
            let residual = epilogue.residual.map(|all| &all[index * JOINED_PIXELS * channels..]);
            finish(set, epilogue.activation, residual, y);
        });
    }

    /// Like [`Winograd::backward_weight`].
    pub fn backward_weight_by_panels<R: Real>(
        &self,
        set: Instructions,
        x: &[R],
        d_y: &[R],
        d_weight: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (channels, out_channels) = (self.from.channels, self.to.channels);
        let transformed = self.transform_tiles(set, x, &mut scratch.tiles);
        d_weight.par_chunks_mut(9 * channels * PANEL).enumerate().for_each(|(panel, d_weight)| {
            let outputs = panel * PANEL..out_channels.min((panel + 1) * PANEL);
            scratch::with(Buffer::Tiles, PLANES * channels * outputs.len(), |sums| {
                let mut start = Start::Zero;
                for (sample, part, tiles) in transformed.parts() {
                    let d_y = &d_y[sample * self.to.len()..];
                    self.sum_products(set, part, tiles, d_y, outputs.clone(), sums, start);
                    start = Start::Accumulate;
                }
                self.write_weight_gradient(set, sums, d_weight);
            });
        });
    }
}
