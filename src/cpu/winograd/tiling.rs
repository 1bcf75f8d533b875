//! Tiling of an image for Winograd convolutions. Pixels beyond the edges are read as zeros, and are not written.

use std::ops::Range;

use super::maps::{Clip, SIDE, TILE};
use super::transform::{CHANNELS, InverseTransform, PLANES, Tiles, Transform};
use super::transform_pool::PooledEpilogue;
use crate::cpu::runtime::scratch::{self, Buffer};
use crate::cpu::{Instructions, Real};
use crate::ops::Conv2d;
use crate::shape::Shape;

/// Floats of padding, so that planes or tiles do not map to the same cache sets.
const SKEW: usize = 16;

/// Floats between the tiles of a plane: those of one tile, and padding if the tiles would map to the same cache sets.
pub(in crate::cpu) fn row_len(channels: usize) -> usize {
    channels + if channels.is_multiple_of(128) { SKEW } else { 0 }
}

/// A convolution that Winograd's algorithm applies to, from images of shape `from` to images of shape `to`, and the number
/// of tiles of the latter. The input gradient of a convolution is one too: that of the output gradient.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) struct Winograd {
    pub from: Shape,
    pub to: Shape,
    pub padding: usize,
    /// Whether the rows and columns of the kernels are reversed, and their input and output channels exchanged.
    pub flipped: bool,
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

/// Images to transform in tiles, which are [`TILE`] pixels apart.
struct Source {
    transform: Transform,
    shape: Shape,
    padding: usize,
    /// Pixels per side of a tile.
    side: usize,
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
    /// `None` if Winograd's algorithm does not apply to a convolution, or is slower than a direct product.
    pub fn new(op: &Conv2d, output: Shape) -> Option<Self> {
        // With more padding, tiles could lie wholly within it.
        let fits = op.is_plain() && op.window.kernel == 3 && op.window.stride == 1 && op.window.padding <= 2;
        if fits { Self::between(op.input, output, op.window.padding, false) } else { None }
    }

    /// The same for the input gradient: the convolution of the output gradient with the flipped kernels.
    pub fn of_input_gradient(op: &Conv2d, output: Shape) -> Option<Self> {
        let forward = Self::new(op, output)?;
        Self::between(output, op.input, 2 - forward.padding, true)
    }

    fn between(from: Shape, to: Shape, padding: usize, flipped: bool) -> Option<Self> {
        let fill_vectors = from.channels.is_multiple_of(CHANNELS) && to.channels.is_multiple_of(CHANNELS);
        // Tiles of smaller images would mostly be beyond the edges.
        let is_large = to.height.min(to.width) > TILE / 2;
        let (lines, cols) = (to.height.div_ceil(TILE), to.width.div_ceil(TILE));
        (fill_vectors && is_large).then_some(Self { from, to, padding, flipped, lines, cols })
    }

    /// Divides lines of tiles, counted through the batch, into parts of about `tiles` tiles: several whole samples, or some
    /// lines of one. Each part comes with its first sample.
    pub fn parts(&self, lines: Range<usize>, tiles: usize) -> impl Iterator<Item = (usize, Part)> {
        let most = (tiles / self.cols).max(1);
        let mut at = lines.start;
        std::iter::from_fn(move || {
            let (sample, first_line) = (at / self.lines, at % self.lines);
            let left = lines.end.checked_sub(at).filter(|&left| left > 0)?.min(most);
            let part = match left / self.lines {
                samples if samples > 0 && first_line == 0 => Part { samples, first_line, lines: self.lines },
                _ => Part { samples: 1, first_line, lines: left.min(self.lines - first_line) },
            };
            at += part.samples * part.lines;
            Some((sample, part))
        })
    }

    /// Index of the first value of a part in the images of shape `to`.
    pub fn first_output(&self, sample: usize, part: Part) -> usize {
        sample * self.to.len() + TILE * part.first_line * self.to.width * self.to.channels
    }

    /// Floating-point operations of the products over a batch; a multiply-add counts as two.
    pub fn flops(&self, batch: usize) -> usize {
        2 * self.weight_len() * batch * self.lines * self.cols
    }

    /// Number of tiles of a part.
    pub fn tiles(&self, part: Part) -> usize {
        part.samples * part.lines * self.cols
    }

    /// Distance between the planes of a part.
    pub fn plane_len(&self, part: Part, channels: usize) -> usize {
        self.tiles(part) * row_len(channels) + SKEW
    }

    /// Calls `body` with the transformed input, `[plane][tile][channels]`; `x` starts at the part's first sample.
    pub fn with_input<R: Real>(&self, set: Instructions, part: Part, x: &[R], body: impl FnOnce(&[f32])) {
        scratch::with(Buffer::Tiles, PLANES * self.plane_len(part, self.from.channels), |planes| {
            self.transform_input(set, part, x, planes);
            body(planes);
        });
    }

    /// Writes the transformed input to `planes`.
    pub fn transform_input<R: Real>(&self, set: Instructions, part: Part, x: &[R], planes: &mut [f32]) {
        let source = Source { transform: Transform::Input, shape: self.from, padding: self.padding, side: SIDE };
        self.transform(set, &source, part, x, 0..self.from.channels, planes);
    }

    /// Calls `body` with some channels of the transformed output gradient; `d_y` starts at the part's first sample.
    pub fn with_output_gradient<R: Real>(
        &self,
        set: Instructions,
        part: Part,
        d_y: &[R],
        channels: Range<usize>,
        body: impl FnOnce(&[f32]),
    ) {
        let source = Source { transform: Transform::OutputGradient, shape: self.to, padding: 0, side: TILE };
        scratch::with(Buffer::Products, PLANES * self.plane_len(part, channels.len()), |planes| {
            self.transform(set, &source, part, d_y, channels, planes);
            body(planes);
        });
    }

    fn transform<R: Real>(
        &self,
        set: Instructions,
        source: &Source,
        part: Part,
        images: &[R],
        channels: Range<usize>,
        planes: &mut [f32],
    ) {
        let (shape, width) = (source.shape, channels.len());
        for (sample, line, index) in part.each_line() {
            let image = &images[sample * shape.len()..][..shape.len()];
            each_run(
                self.cols,
                |col| source.clip(line, col),
                |cols, clip| {
                    let tiles = Tiles {
                        count: cols.len(),
                        channels: width,
                        line: shape.width * shape.channels,
                        pixel: shape.channels,
                        tile: TILE * shape.channels,
                        plane: self.plane_len(part, width),
                        row: row_len(width),
                        clip,
                    };
                    let first = source.first(line, cols.start) + channels.start as isize;
                    let planes = &mut planes[(index * self.cols + cols.start) * row_len(width)..];
                    tiles.transform(set, source.transform, image, first, planes);
                },
            );
        }
    }

    /// Writes the output of a part's `products` for `width` channels; `y` starts at the first of these channels in the
    /// part's first pixel.
    pub fn write_output<R: Real>(
        &self,
        set: Instructions,
        inverse: InverseTransform,
        part: Part,
        products: &[f32],
        width: usize,
        y: &mut [R],
    ) {
        let (shape, plane) = (self.to, self.plane_len(part, width));
        let (line_len, pixel) = (shape.width * shape.channels, shape.channels);
        for (sample, line, index) in part.each_line() {
            let products = &products[index * self.cols * width..];
            let y = &mut y[sample * shape.len() + TILE * (line - part.first_line) * line_len..];
            let rows = (0, shape.height - TILE * line);
            let clip = |col| Clip { rows, cols: (0, shape.width - TILE * col) }.within(TILE);
            each_run(self.cols, clip, |cols, clip| {
                let tiles = Tiles {
                    count: cols.len(),
                    channels: width,
                    line: line_len,
                    pixel,
                    tile: TILE * pixel,
                    plane,
                    row: width,
                    clip,
                };
                tiles.inverse_transform(
                    set,
                    inverse,
                    &products[cols.start * width..],
                    &mut y[TILE * cols.start * pixel..],
                );
            });
        }
    }

    /// Writes the maxima of the 2×2 windows of a part's `products` for `width` channels, and their positions to `argmax`
    /// unless that is empty. Both start at the first of these channels in the part's first window.
    #[expect(clippy::too_many_arguments, reason = "the counterpart of `write_output`")]
    pub fn write_maxima<R: Real>(
        &self,
        set: Instructions,
        (bias, relu): (&[f32], bool),
        part: Part,
        products: &[f32],
        width: usize,
        y: &mut [R],
        argmax: &mut [u32],
    ) {
        let (pixel, plane) = (self.to.channels, self.plane_len(part, width));
        let line_len = self.to.width / 2 * pixel;
        let tiles = Tiles {
            count: self.cols,
            channels: width,
            line: line_len,
            pixel,
            tile: TILE / 2 * pixel,
            plane,
            row: width,
            clip: Clip::NONE,
        };
        for (_, line, index) in part.each_line() {
            let at = index * TILE / 2 * line_len;
            let argmax = argmax.get_mut(at..).unwrap_or_default();
            let epilogue = PooledEpilogue { bias, relu, first: TILE * line * self.to.width, width: self.to.width };
            tiles.inverse_transform_pooled(
                set,
                &epilogue,
                &products[index * self.cols * width..],
                &mut y[at..],
                argmax,
            );
        }
    }
}

/// Calls `body` with consecutive tiles of a line that are clipped in the same way.
fn each_run(count: usize, clip: impl Fn(usize) -> Clip, mut body: impl FnMut(Range<usize>, Clip)) {
    let mut col = 0;
    while col < count {
        let (first, common) = (col, clip(col));
        while col < count && clip(col) == common {
            col += 1;
        }
        body(first..col, common);
    }
}

impl Source {
    /// The part of a tile that lies within the image.
    fn clip(&self, line: usize, col: usize) -> Clip {
        let &Self { shape, padding, side, .. } = self;
        let along = |tile: usize, size: usize| {
            (padding.saturating_sub(TILE * tile), (size + padding).saturating_sub(TILE * tile))
        };
        Clip { rows: along(line, shape.height), cols: along(col, shape.width) }.within(side)
    }

    /// The index of a tile's first pixel in its image, which is negative or that of another line in the padding.
    fn first(&self, line: usize, col: usize) -> isize {
        let Shape { width, channels, .. } = self.shape;
        let position = |tile: usize| (TILE * tile) as isize - self.padding as isize;
        (position(line) * width as isize + position(col)) * channels as isize
    }
}
