//! Bilinear resizing of pictures with antialiasing, as Pillow's `Image.resize` with `BILINEAR`, which torchvision's `Resize`
//! and `RandomResizedCrop` use: bit for bit up to Pillow 12; later versions resize rows first where that is less work, which
//! changes values by at most 1.
//!
//! An output pixel is a weighted mean of the input pixels around it; the weights fall linearly with the distance, and reach
//! zero at the distance of one pixel of the coarser side. Columns are resized first and rounded to bytes, then rows.
//! `kernels/resample.cuh` computes the same.

/// Bits of a weight's fraction.
const BITS: u32 = 22;

/// A rectangle of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

/// The most input pixels of an output pixel, if `from` pixels become `to`.
pub fn taps(from: usize, to: usize) -> usize {
    2 * from.max(to).div_ceil(to) + 1
}

/// The weights along one axis.
#[derive(Default)]
struct Axis {
    /// For every output pixel, its first input pixel, and its number of input pixels.
    spans: Vec<(usize, usize)>,
    /// `[output pixels][taps]`
    weights: Vec<u32>,
    taps: usize,
}

impl Axis {
    /// In units of 1 / (2 · `to`) input pixels, the distance of two centres is a whole number.
    fn set(&mut self, from: usize, to: usize) {
        self.taps = taps(from, to);
        self.spans.clear();
        self.weights.clear();
        self.weights.resize(to * self.taps, 0);
        let support = 2 * from.max(to) as u64;
        for (output, weights) in self.weights.chunks_exact_mut(self.taps).enumerate() {
            let centre = (2 * output as u64 + 1) * from as u64;
            let tent = |input: usize| support.saturating_sub(((2 * input as u64 + 1) * to as u64).abs_diff(centre));
            // The first input pixel of a weight above zero: its centre is less than `support` before the output's.
            let first = (centre + to as u64).saturating_sub(support) / (2 * to as u64);
            let first = first as usize;
            let count = (first..from).take_while(|&input| tent(input) > 0).count();
            let sum: u64 = (first..first + count).map(tent).sum();
            for (weight, input) in weights.iter_mut().zip(first..first + count) {
                *weight = (((tent(input) << (BITS + 1)) + sum) / (2 * sum)) as u32;
            }
            self.spans.push((first, count));
        }
    }

    fn of(&self, output: usize) -> (usize, &[u32]) {
        let (first, count) = self.spans[output];
        (first, &self.weights[output * self.taps..][..count])
    }
}

/// Memory that is kept from one picture to the next.
#[derive(Default)]
pub struct Resizer {
    columns: Axis,
    rows: Axis,
    /// The picture with resized columns.
    narrow: Vec<u8>,
}

impl Resizer {
    /// Resizes an area of `picture`, `[height][width][C]` with rows of `width` pixels, to `output`, which has rows of
    /// `to_width` pixels. With `mirrored`, the output is mirrored horizontally.
    pub fn resize<const C: usize>(
        &mut self,
        (picture, width): (&[u8], usize),
        area: Area,
        (output, to_width): (&mut [u8], usize),
        mirrored: bool,
    ) {
        let to_height = output.len() / (to_width * C);
        let Self { columns, rows, narrow } = self;
        columns.set(area.width, to_width);
        rows.set(area.height, to_height);
        narrow.clear();
        narrow.resize(area.height * to_width * C, 0);
        for (row, to) in narrow.chunks_exact_mut(to_width * C).enumerate() {
            let from = &picture[((area.top + row) * width + area.left) * C..][..area.width * C];
            for (column, to) in to.chunks_exact_mut(C).enumerate() {
                let (first, weights) = columns.of(if mirrored { to_width - 1 - column } else { column });
                to.copy_from_slice(&weighted::<C>(weights, &from[first * C..], C));
            }
        }
        for (row, to) in output.chunks_exact_mut(to_width * C).enumerate() {
            let (first, weights) = rows.of(row);
            let from = &narrow[first * to_width * C..];
            for (column, to) in to.chunks_exact_mut(C).enumerate() {
                to.copy_from_slice(&weighted::<C>(weights, &from[column * C..], to_width * C));
            }
        }
    }
}

/// The weighted mean of pixels that are `stride` bytes apart.
#[inline]
fn weighted<const C: usize>(weights: &[u32], from: &[u8], stride: usize) -> [u8; C] {
    let mut sums = [1 << (BITS - 1); C];
    for (weight, pixel) in weights.iter().zip(from.chunks(stride)) {
        for (sum, &value) in sums.iter_mut().zip(pixel) {
            *sum += weight * u32::from(value);
        }
    }
    sums.map(|sum| (sum >> BITS) as u8)
}
