//! The first convolution's filters as a bank of oriented Gabor functions, which may stay as they are.

use std::f64::consts::PI;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{Layout, Network, Operator, Parameter};

/// Initial filters of the first convolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FirstLayer {
    /// Random, as in every other layer
    #[default]
    Drawn,
    /// A bank of oriented Gabor functions, which training then changes
    Gabor,
    /// The same, which training leaves unchanged
    GaborFrozen,
}

/// Directions of a bank, in half a turn.
const ORIENTATIONS: usize = 8;

impl Network {
    /// The same network with its first filters as asked for.
    ///
    /// # Errors
    /// Where it does not begin with a convolution of at least 3×3.
    pub fn with_first_layer(mut self, first_layer: FirstLayer) -> Result<Self> {
        if first_layer != FirstLayer::Drawn {
            let (_, kernel) = self.first_convolution().with_context(|| format!("{} has no convolution", self.name))?;
            ensure!(kernel >= 3, "the first convolution of {} is of {kernel}×{kernel}, too small", self.name);
        }
        self.first_layer = first_layer;
        Ok(self)
    }

    /// Whether training leaves that parameter as it is.
    pub fn is_frozen(&self, parameter: usize) -> bool {
        self.parameters[parameter].range().end <= self.frozen_len()
    }

    /// So many numbers at the beginning of the flat parameters are never changed.
    pub fn frozen_len(&self) -> usize {
        match (self.first_layer, self.first_convolution()) {
            (FirstLayer::GaborFrozen, Some((weight, _))) => weight.range().end,
            _ => 0,
        }
    }

    /// Puts the bank where it is wanted.
    pub(super) fn fill_first_layer(&self, flat: &mut [f32]) {
        let Some((weight, kernel)) = self.first_convolution().filter(|_| self.first_layer != FirstLayer::Drawn) else {
            return;
        };
        let out_channels = weight.layout.file_shape()[0];
        let in_channels = weight.len() / (out_channels * kernel * kernel);
        let mut file = Vec::with_capacity(weight.len());
        for filter in bank(out_channels, in_channels, kernel) {
            (0..in_channels).for_each(|_| file.extend_from_slice(&filter));
        }
        weight.layout.memory_from_file(&file, &mut flat[weight.range()]);
    }

    /// The weight of the first convolution and its kernel, where the network's parameters begin with it.
    fn first_convolution(&self) -> Option<(&Parameter, usize)> {
        let first = self.nodes.iter().find(|node| node.weight.is_some())?;
        let weight = &self.parameters[first.weight?];
        match (&first.operator, &weight.layout) {
            (Operator::Conv2d(op), Layout::Conv { .. }) if weight.offset == 0 => Some((weight, op.window.kernel)),
            _ => None,
        }
    }
}

/// `out_channels` filters of `[kernel][kernel]`. Filter `o` is, with x to the right and y down from the centre,
///
/// `g(x, y) = exp(−(x′² + γ² y′²) / (2σ²)) · cos(2π x′ / λ + ψ)`, `x′ = x cos θ + y sin θ`, `y′ = −x sin θ + y cos θ`
///
/// (Daugman, "Uncertainty relation for resolution in space, spatial frequency, and orientation optimized by
/// two-dimensional visual cortical filters", 1985; in this form Petkov and Kruizinga, 1997) with γ = 0.5 and
/// σ = 0.56 λ, a band of one octave. It goes through the orientations `θ = π · (o mod 8) / 8` first, then the phases `ψ`
/// 0 and −π/2, then the wavelengths `λ = kernel · (2 / kernel)^(i / n)`, `i` from 0 to n − 1, which is never below two pixels.
/// A filter's mean is then subtracted, and it is scaled to the variance of PyTorch's initial values, 1 / (3 · fan_in).
fn bank(out_channels: usize, in_channels: usize, kernel: usize) -> Vec<Vec<f32>> {
    let wavelengths = out_channels.div_ceil(2 * ORIENTATIONS);
    let fan_in = (in_channels * kernel * kernel) as f64;
    (0..out_channels)
        .map(|out| {
            let theta = PI * (out % ORIENTATIONS) as f64 / ORIENTATIONS as f64;
            let phase = -PI / 2.0 * (out / ORIENTATIONS % 2) as f64;
            let share = (out / (2 * ORIENTATIONS)) as f64 / wavelengths as f64;
            let wavelength = kernel as f64 * (2.0 / kernel as f64).powf(share);
            let mut filter = gabor(kernel, theta, phase, wavelength);
            let mean = filter.iter().sum::<f64>() / filter.len() as f64;
            filter.iter_mut().for_each(|value| *value -= mean);
            let square = filter.iter().map(|value| value * value).sum::<f64>() / filter.len() as f64;
            let scale = (1.0 / (3.0 * fan_in * square)).sqrt();
            filter.into_iter().map(|value| (scale * value) as f32).collect()
        })
        .collect()
}

fn gabor(kernel: usize, theta: f64, phase: f64, wavelength: f64) -> Vec<f64> {
    const ASPECT: f64 = 0.5;
    let (centre, sigma) = ((kernel - 1) as f64 / 2.0, 0.56 * wavelength);
    let at = |index: usize| {
        let (x, y) = ((index % kernel) as f64 - centre, (index / kernel) as f64 - centre);
        let (along, across) = (x * theta.cos() + y * theta.sin(), y * theta.cos() - x * theta.sin());
        let envelope = (-(along * along + ASPECT * ASPECT * across * across) / (2.0 * sigma * sigma)).exp();
        envelope * (2.0 * PI * along / wavelength + phase).cos()
    };
    (0..kernel * kernel).map(at).collect()
}
