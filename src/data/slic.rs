//! Replaces every superpixel of an image by its mean colour. The superpixels are those of SLIC (Achanta et al., "SLIC
//! Superpixels Compared to State-of-the-Art Superpixel Methods", IEEE TPAMI 34, 2012), with the choices of scikit-image's
//! `slic`: compactness 10, ten iterations, no smoothing, and connected superpixels.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use rayon::prelude::*;
use tracing::info;

use super::records::{self, Records};
use super::streamed::{Streamed, hash_of};
use super::{Dataset, Split};
use crate::shape::Shape;

/// The distance in CIELAB that counts as much as one step of the grid.
const COMPACTNESS: f64 = 10.0;
const ITERATIONS: usize = 10;
/// A connected part smaller than this part of the mean size joins a neighbour.
const LEAST_SIZE: f64 = 0.5;
/// A connected part is divided when it has this many times the mean size.
const MOST_SIZE: f64 = 3.0;
/// The images of a streamed split that are in memory at a time.
const CHUNK: usize = 256;

impl Dataset {
    /// Divides every image of all splits into about `count` superpixels, each of which gets its mean colour. If the images
    /// of a split are larger than those of the set, because they are cropped later, its superpixels have the same size.
    ///
    /// # Errors
    /// If an image can no longer be read, or the temporary file for streamed images cannot be written.
    pub(super) fn average_segments(&mut self, count: usize) -> Result<()> {
        let common = self.shape;
        for split in [&mut self.train, &mut self.val, &mut self.test] {
            let shape = split.shape.unwrap_or(common);
            let scaled = (count as f64 * shape.pixels() as f64 / common.pixels() as f64).round() as usize;
            split.average_segments(shape, scaled.max(1))?;
        }
        let images: usize = [&self.train, &self.val, &self.test].map(Split::count).iter().sum();
        info!("{}: {images} images are divided into {count} superpixels each (SLIC)", self.name);
        Ok(())
    }
}

impl Split {
    fn average_segments(&mut self, shape: Shape, count: usize) -> Result<()> {
        let average = |images: &mut [u8]| {
            images.par_chunks_exact_mut(shape.len()).for_each(|image| average_segments(image, shape, count));
        };
        let Some(Streamed { source, .. }) = self.streamed.take() else {
            average(&mut self.images);
            return Ok(());
        };
        let numbers: Vec<u32> = (0..self.labels.len() as u32).collect();
        let (mut file, mut hashes) = (records::temporary()?, Vec::with_capacity(numbers.len()));
        for chunk in numbers.chunks(CHUNK) {
            let mut images = vec![0; chunk.len() * shape.len()];
            source.read(chunk, &mut images)?;
            average(&mut images);
            hashes.par_extend(images.par_chunks_exact(shape.len()).map(hash_of));
            records::write_at(&mut file, u64::from(chunk[0]) * shape.len() as u64, &images)?;
        }
        let entries = numbers.iter().map(|&number| (u64::from(number), shape.channels)).collect();
        let source = Arc::new(Records { file: Arc::new(Mutex::new(file)), shape, stride: shape.len(), entries });
        self.streamed = Some(Streamed { source, hashes: Arc::new(hashes) });
        Ok(())
    }
}

/// Divides an image `[height][width][channels]` with one or three channels into about `count` segments, and replaces
/// each by its mean colour, rounded.
pub fn average_segments(image: &mut [u8], shape: Shape, count: usize) {
    let labels = segment(image, shape, count);
    let segments = labels.iter().max().map_or(0, |&last| last as usize + 1);
    let (mut sums, mut sizes) = (vec![0_u64; segments * shape.channels], vec![0_u64; segments]);
    for (pixel, &label) in image.chunks_exact(shape.channels).zip(&labels) {
        sizes[label as usize] += 1;
        let sums = &mut sums[label as usize * shape.channels..][..shape.channels];
        sums.iter_mut().zip(pixel).for_each(|(sum, &value)| *sum += u64::from(value));
    }
    for (pixel, &label) in image.chunks_exact_mut(shape.channels).zip(&labels) {
        let (label, size) = (label as usize, sizes[label as usize]);
        let sums = &sums[label * shape.channels..][..shape.channels];
        pixel.iter_mut().zip(sums).for_each(|(value, sum)| *value = ((2 * sum + size) / (2 * size)) as u8);
    }
}

/// The segment of every pixel of an image, numbered from 0. A gray image has the segments of the same image in colour.
pub fn segment(image: &[u8], shape: Shape, count: usize) -> Vec<u32> {
    let grid = Grid::new(shape.height, shape.width, count);
    let colours = scaled_lab(image, shape.channels);
    let clusters = clusters(&colours, shape, &grid);
    let mean_size = shape.pixels() as f64 / grid.len() as f64;
    connected(&clusters, shape, (LEAST_SIZE * mean_size) as usize, (MOST_SIZE * mean_size) as usize)
}

/// The initial centres of segments, on a regular grid.
struct Grid {
    rows: Vec<usize>,
    columns: Vec<usize>,
    /// The distance between rows and between columns.
    steps: [usize; 2],
}

impl Grid {
    /// A grid of about `count` points. An image with fewer rows or columns than a square cell has a single one of them.
    fn new(height: usize, width: usize, count: usize) -> Self {
        let cell = (height as f64 * width as f64 / count as f64).max(1.0);
        let side = cell.sqrt();
        // A side that is shorter than a cell is not divided.
        let sides = match (height as f64) < side || (width as f64) < side {
            false => [side, side],
            true if height <= width => [height as f64, (width as f64 / count as f64).max(1.0)],
            true => [(height as f64 / count as f64).max(1.0), width as f64],
        };
        let steps = sides.map(|side| (side.round_ties_even() as usize).max(1));
        let along = |extent: usize, axis: usize| -> Vec<usize> {
            let start = ((sides[axis] / 2.0).floor() as usize).min(extent - 1);
            (if cell > 1.0 { start } else { 0 }..extent).step_by(steps[axis]).collect()
        };
        Self { rows: along(height, 0), columns: along(width, 1), steps }
    }

    fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

/// The colours of an image in CIELAB, divided by the compactness. Levels are first stretched to the full range, so that the
/// segments do not depend on the contrast of an image.
fn scaled_lab(image: &[u8], channels: usize) -> Vec<[f64; 3]> {
    let (low, high) = image.iter().fold((u8::MAX, 0), |(low, high), &level| (level.min(low), level.max(high)));
    let range = f64::from(high.saturating_sub(low).max(1));
    let linear: Vec<f64> = (0..=255_u8)
        .map(|level| {
            let value = f64::from(level.saturating_sub(low)) / range;
            if value > 0.04045 { ((value + 0.055) / 1.055).powf(2.4) } else { value / 12.92 }
        })
        .collect();
    let scaled = |colour: [u8; 3]| lab(colour.map(|level| linear[usize::from(level)])).map(|it| it / COMPACTNESS);
    match channels {
        3 => image.chunks_exact(3).map(|pixel| scaled([pixel[0], pixel[1], pixel[2]])).collect(),
        _ => {
            let of_level: Vec<[f64; 3]> = (0..=255).map(|level| scaled([level; 3])).collect();
            image.iter().map(|&level| of_level[usize::from(level)]).collect()
        }
    }
}

/// CIELAB of linear sRGB, for the illuminant D65 and the observer of 2°.
fn lab(rgb: [f64; 3]) -> [f64; 3] {
    const XYZ_FROM_RGB: [[f64; 3]; 3] =
        [[0.412_453, 0.357_580, 0.180_423], [0.212_671, 0.715_160, 0.072_169], [0.019_334, 0.119_193, 0.950_227]];
    const WHITE: [f64; 3] = [0.95047, 1.0, 1.08883];
    let [x, y, z] = [0, 1, 2].map(|row| {
        let value: f64 = XYZ_FROM_RGB[row].iter().zip(rgb).map(|(factor, value)| factor * value).sum();
        let part = value / WHITE[row];
        if part > 0.008_856 { part.cbrt() } else { 7.787 * part + 16.0 / 116.0 }
    });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// The mean position and colour of a cluster.
#[derive(Clone, Copy, Default)]
struct Centre {
    position: [f64; 2],
    colour: [f64; 3],
}

/// The nearest cluster of every pixel, by k-means within two steps of a centre.
fn clusters(colours: &[[f64; 3]], shape: Shape, grid: &Grid) -> Vec<u32> {
    let weight = 1.0 / (grid.steps[0].max(grid.steps[1]) as f64).powi(2);
    // The steps of a grid of as many centres as there are, as in scikit-image.
    let steps = Grid::new(shape.height, shape.width, grid.len()).steps;
    let points = grid.rows.iter().flat_map(|&y| grid.columns.iter().map(move |&x| [y as f64, x as f64]));
    // Without colours, the first iteration assigns the pixels to the cells of the grid.
    let mut centres: Vec<Centre> = points.map(|position| Centre { position, ..Centre::default() }).collect();
    let (mut nearest, mut distances) = (vec![0; colours.len()], vec![0.0; colours.len()]);
    for _ in 0..ITERATIONS {
        distances.fill(f64::INFINITY);
        let before = nearest.clone();
        for (label, centre) in centres.iter().enumerate() {
            let [rows, columns] = [(0, shape.height), (1, shape.width)].map(|(axis, extent)| {
                let (at, reach) = (centre.position[axis], 2.0 * steps[axis] as f64);
                (at - reach).max(0.0) as usize..(at + reach + 1.0).min(extent as f64) as usize
            });
            for y in rows {
                let vertical = (centre.position[0] - y as f64).powi(2);
                for x in columns.clone() {
                    let at = y * shape.width + x;
                    let spatial = (vertical + (centre.position[1] - x as f64).powi(2)) * weight;
                    let differences = colours[at].iter().zip(&centre.colour).map(|(a, b)| (a - b) * (a - b));
                    let distance = spatial + differences.sum::<f64>();
                    if distance < distances[at] {
                        (distances[at], nearest[at]) = (distance, label as u32);
                    }
                }
            }
        }
        if nearest == before {
            break;
        }
        centres = means(&nearest, colours, shape.width, centres.len());
    }
    nearest
}

/// The means of all clusters that have pixels.
fn means(nearest: &[u32], colours: &[[f64; 3]], width: usize, count: usize) -> Vec<Centre> {
    let mut sums = vec![(Centre::default(), 0_u32); count];
    for (at, (&label, colour)) in nearest.iter().zip(colours).enumerate() {
        let (sum, size) = &mut sums[label as usize];
        *size += 1;
        sum.position[0] += (at / width) as f64;
        sum.position[1] += (at % width) as f64;
        sum.colour.iter_mut().zip(colour).for_each(|(sum, value)| *sum += value);
    }
    let mean = |(sum, size): (Centre, u32)| {
        let size = f64::from(size);
        Centre { position: sum.position.map(|it| it / size), colour: sum.colour.map(|it| it / size) }
    };
    sums.into_iter().filter(|&(_, size)| size > 0).map(mean).collect()
}

/// Numbers the connected parts of clusters. A part of fewer than `least` pixels joins one that it touches, and a part of
/// `most` pixels ends there.
fn connected(clusters: &[u32], shape: Shape, least: usize, most: usize) -> Vec<u32> {
    const NONE: u32 = u32::MAX;
    let (height, width) = (shape.height, shape.width);
    let neighbours = |at: usize| {
        let (y, x) = (at / width, at % width);
        let right = (x + 1 < width).then(|| at + 1);
        let left = (x > 0).then(|| at - 1);
        let below = (y + 1 < height).then(|| at + width);
        let above = (y > 0).then(|| at - width);
        [right, left, below, above].into_iter().flatten()
    };
    let (mut labels, mut next) = (vec![NONE; clusters.len()], 0);
    let mut part = Vec::new();
    for start in 0..clusters.len() {
        if labels[start] != NONE {
            continue;
        }
        let mut adjacent = 0;
        part.clear();
        part.push(start);
        labels[start] = next;
        let mut visited = 0;
        while visited < part.len() && part.len() < most {
            for at in neighbours(part[visited]) {
                if labels[at] == NONE && clusters[at] == clusters[start] {
                    labels[at] = next;
                    part.push(at);
                    if part.len() >= most {
                        break;
                    }
                } else if labels[at] != NONE && labels[at] != next {
                    adjacent = labels[at];
                }
            }
            visited += 1;
        }
        if part.len() < least {
            part.iter().for_each(|&at| labels[at] = adjacent);
        } else {
            next += 1;
        }
    }
    labels
}
