//! Initialises the first convolution with filters that whiten the patches of the training images (Coates and Ng,
//! "Learning Feature Representations with K-Means", 2012; as the fixed first layer of a network, Page, "How to Train Your
//! ResNet", 2019, and Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498).

use nalgebra::{DMatrix, SymmetricEigen};
use rayon::prelude::*;

use super::{FirstLayer, Network};
use crate::ops::Normalise;

/// The most images that the filters are computed from.
const MOST_IMAGES: usize = 5000;

/// The most bytes of these images.
const MOST_BYTES: usize = 64 << 20;

/// The most products of two pixels that are summed; of larger images, fewer patches are used.
const MOST_PRODUCTS: usize = 2_000_000_000;

/// Added to each eigenvalue, so that directions without variance are not amplified without bound.
const EPSILON: f64 = 5e-4;

impl Network {
    /// How many images of `image_len` bytes [`Self::whiten`] needs; 0 if the first layer does not whiten.
    pub fn images_to_whiten(&self, image_len: usize) -> usize {
        match self.first_layer {
            FirstLayer::Whitening => (MOST_BYTES / image_len.max(1)).clamp(1, MOST_IMAGES),
            _ => 0,
        }
    }

    /// Replaces the weight of the first convolution in `parameters`, which are in memory layout, by whitening filters if
    /// this was chosen: `v / √(λ + ε)` for the eigenvectors `v` and eigenvalues `λ` of the patches' second moments, in
    /// increasing order of `λ`, then the same with the other sign. If there are fewer filters, those of the smallest
    /// eigenvalues are left out; any others keep their values.
    ///
    /// `images` has whole images, `[count][height][width][channels]`.
    pub fn whiten(&self, parameters: &mut [f32], images: &[u8], normalise: &Normalise) {
        let is_chosen = self.first_layer == FirstLayer::Whitening;
        let Some((weight, kernel)) = self.first_convolution().filter(|_| is_chosen) else { return };
        let filters = whitening_filters(&second_moments(images, normalise, kernel));
        let mut file = vec![0.0; weight.len()];
        weight.layout.file_from_memory(&parameters[weight.range()], &mut file);
        let (len, out_channels) = (filters.len(), weight.layout.file_shape()[0]);
        let half = len.min(out_channels / 2);
        for (index, filter) in filters[len - half..].iter().enumerate() {
            for (at, sign) in [(index, 1.0), (half + index, -1.0)] {
                let target = &mut file[at * filter.len()..][..filter.len()];
                target.iter_mut().zip(filter).for_each(|(target, &value)| *target = (sign * value) as f32);
            }
        }
        weight.layout.memory_from_file(&file, &mut parameters[weight.range()]);
    }
}

/// Sums over patches, exact because they are whole numbers: how many there are, each value, and each product of two.
struct Sums {
    count: u64,
    values: Vec<u64>,
    products: Vec<u64>,
}

/// `E[x_i x_j]` of the values `x` of a normalised patch, in channel, row, column order.
fn second_moments(images: &[u8], normalise: &Normalise, kernel: usize) -> DMatrix<f64> {
    let (shape, len) = (normalise.shape, normalise.shape.channels * kernel * kernel);
    let [rows, columns] = [shape.height, shape.width].map(|side| side + 1 - kernel);
    let products = images.len() / shape.len() * rows * columns * len * len;
    let step = (products as f64 / MOST_PRODUCTS as f64).sqrt().ceil().max(1.0) as usize;
    let sums = images.par_chunks_exact(shape.len()).map(|image| {
        let mut sums = Sums { count: 0, values: vec![0; len], products: vec![0; len * len] };
        let mut patch = vec![0_u64; len];
        for (top, left) in (0..rows).step_by(step).flat_map(|y| (0..columns).step_by(step).map(move |x| (y, x))) {
            for (at, value) in patch.iter_mut().enumerate() {
                let (channel, y, x) = (at / (kernel * kernel), at / kernel % kernel, at % kernel);
                let pixel = (top + y) * shape.width + left + x;
                *value = u64::from(image[pixel * shape.channels + channel]);
            }
            sums.add(1, &patch, |i, j| patch[i] * patch[j]);
        }
        sums
    });
    let empty = || Sums { count: 0, values: vec![0; len], products: vec![0; len * len] };
    let sums = sums.reduce(empty, |mut a, b| {
        a.add(b.count, &b.values, |i, j| b.products[i * len + j]);
        a
    });
    let count = sums.count.max(1) as f64;
    // A normalised value is a u + b for the byte u.
    let line = |at: usize| {
        let (mean, std) = (f64::from(normalise.mean[at / (kernel * kernel)]), normalise.std[at / (kernel * kernel)]);
        [1.0 / (255.0 * f64::from(std)), -mean / f64::from(std)]
    };
    DMatrix::from_fn(len, len, |i, j| {
        let ([a_i, b_i], [a_j, b_j]) = (line(i), line(j));
        let [mean_i, mean_j] = [i, j].map(|at| sums.values[at] as f64 / count);
        a_i * a_j * (sums.products[i * len + j] as f64 / count) + a_i * b_j * mean_i + b_i * a_j * mean_j + b_i * b_j
    })
}

impl Sums {
    fn add(&mut self, count: u64, values: &[u64], product: impl Fn(usize, usize) -> u64) {
        let len = values.len();
        self.count += count;
        self.values.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        for (i, row) in self.products.chunks_exact_mut(len).enumerate() {
            row.iter_mut().enumerate().for_each(|(j, sum)| *sum += product(i, j));
        }
    }
}

/// The scaled eigenvectors, in increasing order of their eigenvalues. The largest component of each is positive.
fn whitening_filters(moments: &DMatrix<f64>) -> Vec<Vec<f64>> {
    let eigen = SymmetricEigen::new(moments.clone());
    let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[a].total_cmp(&eigen.eigenvalues[b]));
    let filter = |index: usize| {
        let (vector, value) = (eigen.eigenvectors.column(index), eigen.eigenvalues[index]);
        let largest = vector.iter().copied().fold(0.0_f64, |a, b| if b.abs() > a.abs() { b } else { a });
        let scale = largest.signum() / (value.max(0.0) + EPSILON).sqrt();
        vector.iter().map(|component| component * scale).collect()
    };
    order.into_iter().map(filter).collect()
}
