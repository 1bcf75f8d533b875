//! Tiling of an image for Winograd convolutions. Pixels beyond the edges are read as zeros, and are not written.

use std::ops::Range;

use super::transform::{CHANNELS, InverseTransform, PLANES, Tiles, Transform};
use super::transform_pool::PooledEpilogue;
use crate::cpu::Instructions;
use crate::cpu::runtime::scratch::{self, Buffer};
use crate::ops::Conv2d;
use crate::shape::Shape;

/// Floats of padding per plane, so that planes do not map to the same cache sets.
const SKEW: usize = 16;

/// A convolution that Winograd's algorithm applies to, and the number of its output tiles.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) struct Winograd {
    pub op: Conv2d,
    pub output: Shape,
    /// Number of lines of tiles, and of tiles per line.
    pub lines: usize,
    pub cols: usize,
}

/// Tiles of consecutive samples, or of some lines of one sample: `[sample][line][col]`.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Part {
    pub samples: usize,
    pub first_line: usize,
    pub lines: usize,
}

/// An image to transform in tiles, which are two pixels apart.
struct Source {
    transform: Transform,
    shape: Shape,
    padding: usize,
    /// Pixels by which tiles overlap.
    overlap: usize,
}

impl Part {
    /// For each line of tiles, its sample, its index within the sample, and its index within the part.
    fn each_line(self) -> impl Iterator<Item = (usize, usize, usize)> {
        let lines =
            move |sample| (0..self.lines).map(move |line| (sample, self.first_line + line, sample * self.lines + line));
        (0..self.samples).flat_map(lines)
    }
}

impl Winograd {
    /// `None` if Winograd's algorithm does not apply, or is slower than a direct product.
    pub fn new(op: &Conv2d, output: Shape) -> Option<Self> {
        let applicable = op.is_plain()
            && op.window.kernel == 3
            && op.window.stride == 1
            && op.input.channels.is_multiple_of(CHANNELS)
            && op.out_channels.is_multiple_of(CHANNELS)
            && output.height.min(output.width) >= 2;
        let (lines, cols) = (output.height.div_ceil(2), output.width.div_ceil(2));
        applicable.then_some(Self { op: *op, output, lines, cols })
    }

    /// Floating-point operations of the products over a batch; a multiply-add counts as two. Both gradients have as many.
    pub fn flops(&self, batch: usize) -> usize {
        let (channels, tiles) = (self.op.input.channels * self.op.out_channels, batch * self.lines * self.cols);
        2 * PLANES * tiles * channels
    }

    /// Number of tiles of a part.
    pub fn tiles(&self, part: Part) -> usize {
        part.samples * part.lines * self.cols
    }

    /// Distance between the planes of a part.
    pub fn plane_len(&self, part: Part, channels: usize) -> usize {
        self.tiles(part) * channels + SKEW
    }

    /// Calls `body` with the transformed input, `[plane][tile][channels]`; `x` starts at the part's first sample.
    pub fn with_input(&self, set: Instructions, part: Part, x: &[f32], body: impl FnOnce(&[f32])) {
        let (shape, padding) = (self.op.input, self.op.window.padding);
        let source = Source { transform: Transform::Input, shape, padding, overlap: 2 };
        self.with_transformed(set, &source, Buffer::Tiles, part, x, 0..shape.channels, body);
    }

    /// Like [`Winograd::with_input`], for some channels of the output gradient.
    pub fn with_output_gradient(
        &self,
        set: Instructions,
        buffer: Buffer,
        part: Part,
        d_y: &[f32],
        channels: Range<usize>,
        body: impl FnOnce(&[f32]),
    ) {
        let source = Source { transform: Transform::OutputGradient, shape: self.output, padding: 0, overlap: 0 };
        self.with_transformed(set, &source, buffer, part, d_y, channels, body);
    }

    #[expect(clippy::too_many_arguments, reason = "the common part of the two functions above")]
    fn with_transformed(
        &self,
        set: Instructions,
        source: &Source,
        buffer: Buffer,
        part: Part,
        image: &[f32],
        channels: Range<usize>,
        body: impl FnOnce(&[f32]),
    ) {
        let (shape, width) = (source.shape, channels.len());
        let plane = self.plane_len(part, width);
        scratch::with(buffer, PLANES * plane, |planes| {
            for (sample, line, index) in part.each_line() {
                let image = &image[sample * shape.len()..][..shape.len()];
                source.with_lines(self.cols, line, image, |lines, line_len| {
                    let tiles = Tiles {
                        count: self.cols,
                        channels: width,
                        line: line_len,
                        pixel: shape.channels,
                        tile: 2 * shape.channels,
                        plane,
                        row: width,
                    };
                    let planes = &mut planes[index * self.cols * width..];
                    tiles.transform(set, source.transform, &lines[channels.start..], planes);
                });
            }
            body(planes);
        });
    }

    /// Writes the output of a part's `products` for `width` channels; `y` starts at the first of these channels in the
    /// part's first pixel.
    pub fn write_output(
        &self,
        set: Instructions,
        inverse: InverseTransform,
        part: Part,
        products: &[f32],
        width: usize,
        y: &mut [f32],
    ) {
        let (shape, plane) = (self.output, self.plane_len(part, width));
        let (line_len, pixel) = (shape.width * shape.channels, shape.channels);
        for (sample, line, index) in part.each_line() {
            let products = &products[index * self.cols * width..];
            let y = &mut y[sample * shape.len() + 2 * (line - part.first_line) * line_len..];
            let height = (shape.height - 2 * line).min(2);
            let tiles =
                Tiles { count: self.cols, channels: width, line: line_len, pixel, tile: 2 * pixel, plane, row: width };
            if height == 2 && 2 * self.cols == shape.width {
                tiles.inverse_transform(set, inverse, products, y);
                continue;
            }
            let covered = 2 * self.cols * width;
            scratch::with(Buffer::Padded, 2 * covered, |lines| {
                Tiles { line: covered, pixel: width, tile: 2 * width, ..tiles }
                    .inverse_transform(set, inverse, products, lines);
                for (index, pixels) in lines.chunks_exact(covered).take(height).enumerate() {
                    for (x, values) in pixels.chunks_exact(width).take(shape.width).enumerate() {
                        y[index * line_len + x * pixel..][..width].copy_from_slice(values);
                    }
                }
            });
        }
    }

    /// Writes the maximum of each output tile of a part's `products` for `width` channels, and its position to `argmax`
    /// unless that is empty. Both start at the first of these channels in the part's first tile.
    #[expect(clippy::too_many_arguments, reason = "the counterpart of `write_output`")]
    pub fn write_maxima(
        &self,
        set: Instructions,
        (bias, relu): (&[f32], bool),
        part: Part,
        products: &[f32],
        width: usize,
        y: &mut [f32],
        argmax: &mut [u32],
    ) {
        let (channels, plane) = (self.output.channels, self.plane_len(part, width));
        let tiles = Tiles { count: self.cols, channels: width, tile: channels, plane, row: width, ..Tiles::default() };
        for (_, line, index) in part.each_line() {
            let at = index * self.cols;
            let argmax = argmax.get_mut(at * channels..).unwrap_or_default();
            let epilogue = PooledEpilogue { bias, relu, first: 2 * line * self.output.width, width: self.output.width };
            tiles.inverse_transform_pooled(set, &epilogue, &products[at * width..], &mut y[at * channels..], argmax);
        }
    }

    /// Adds the input gradients of a part's `products` for `width` channels to images of `shape`, which the tiles cover
    /// exactly; `d_x` starts at the first of these channels in the first pixel of the part's first sample.
    pub fn add_to_input(
        &self,
        set: Instructions,
        part: Part,
        products: &[f32],
        width: usize,
        d_x: &mut [f32],
        shape: Shape,
    ) {
        let (line_len, pixel) = (shape.width * shape.channels, shape.channels);
        let plane = self.plane_len(part, width);
        for (sample, line, index) in part.each_line() {
            let tiles =
                Tiles { count: self.cols, channels: width, line: line_len, pixel, tile: 2 * pixel, plane, row: width };
            let d_x = &mut d_x[sample * shape.len() + 2 * line * line_len..];
            tiles.inverse_transform(set, InverseTransform::InputGradient, &products[index * self.cols * width..], d_x);
        }
    }

    /// The area that the tiles read: the input, its padding, and possibly pixels beyond.
    pub fn covered_input(&self) -> Shape {
        Shape::new(2 * self.lines + 2, 2 * self.cols + 2, self.op.input.channels)
    }

    /// Whether that area is exactly the input.
    pub fn covers_input(&self) -> bool {
        self.op.window.padding == 0 && self.covered_input() == self.op.input
    }

    /// Copies the input's area out of the covered area.
    pub fn crop(&self, covered: &[f32], d_x: &mut [f32]) {
        let (input, padding) = (self.op.input, self.op.window.padding);
        let lines = covered.chunks_exact(self.covered_input().width * input.channels).skip(padding);
        for (d_x, line) in d_x.chunks_exact_mut(input.width * input.channels).zip(lines) {
            d_x.copy_from_slice(&line[padding * input.channels..][..d_x.len()]);
        }
    }
}

impl Source {
    /// Calls `body` with the pixels of one line of tiles, and their line stride.
    fn with_lines(&self, cols: usize, tile_line: usize, image: &[f32], body: impl FnOnce(&[f32], usize)) {
        let &Self { shape, padding, overlap, .. } = self;
        let (first, height, width) = (2 * tile_line, 2 + overlap, 2 * cols + overlap);
        let line_len = shape.width * shape.channels;
        if padding == 0 && first + height <= shape.height && width <= shape.width {
            return body(&image[first * line_len..], line_len);
        }
        let padded_len = width * shape.channels;
        scratch::with(Buffer::Padded, height * padded_len, |padded| {
            padded.fill(0.0);
            for (y, padded) in padded.chunks_exact_mut(padded_len).enumerate() {
                if let Some(y) = (first + y).checked_sub(padding).filter(|&y| y < shape.height) {
                    padded[padding * shape.channels..][..line_len].copy_from_slice(&image[y * line_len..][..line_len]);
                }
            }
            body(padded, padded_len);
        });
    }
}
