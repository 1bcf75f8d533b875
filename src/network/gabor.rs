//! Initialises the first convolution with a bank of oriented Gabor filters, which may be frozen.

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
    /// A bank of oriented Gabor filters, trained like any other layer
    Gabor,
    /// A bank of oriented Gabor filters, kept fixed during training
    GaborFrozen,
    /// Filters that whiten the patches of the training images, kept fixed during training, but not their bias
    Whitening,
}

/// Orientations of the filters, evenly spaced over 180°.
const ORIENTATIONS: usize = 8;

impl FirstLayer {
    fn is_gabor(self) -> bool {
        matches!(self, Self::Gabor | Self::GaborFrozen)
    }
}

impl Network {
    /// The same network with the given initial filters in its first convolution.
    ///
    /// # Errors
    /// If the first layer with parameters is not a convolution, or for Gabor filters with a kernel below 3×3.
    pub fn with_first_layer(mut self, first_layer: FirstLayer) -> Result<Self> {
        if first_layer != FirstLayer::Drawn {
            let (_, kernel) =
                self.first_convolution().with_context(|| format!("{} does not start with a convolution", self.name))?;
            ensure!(
                kernel >= 3 || !first_layer.is_gabor(),
                "the {kernel}×{kernel} first convolution of {} is too small for Gabor filters",
                self.name
            );
        }
        self.first_layer = first_layer;
        if let Some(weight) = self.parameters.first_mut() {
            weight.fixed = matches!(first_layer, FirstLayer::GaborFrozen | FirstLayer::Whitening);
        }
        self.arrange();
        Ok(self)
    }

    /// Overwrites the first convolution's initial weight with the Gabor bank, if one was chosen.
    pub(super) fn fill_first_layer(&self, flat: &mut [f32]) {
        let Some((weight, kernel)) = self.first_convolution().filter(|_| self.first_layer.is_gabor()) else {
            return;
        };
        let out_channels = weight.layout.file_shape()[0];
        let in_channels = weight.len() / (out_channels * kernel * kernel);
        let mut file = Vec::with_capacity(weight.len());
        for filter in gabor_bank(out_channels, in_channels, kernel) {
            (0..in_channels).for_each(|_| file.extend_from_slice(&filter));
        }
        weight.layout.memory_from_file(&file, &mut flat[weight.range()]);
    }

    /// The weight and kernel size of the first convolution; `None` if the first layer with parameters is another one.
    pub(super) fn first_convolution(&self) -> Option<(&Parameter, usize)> {
        let first = self.nodes.iter().find(|node| node.weight.is_some())?;
        let weight = &self.parameters[first.weight?];
        match (&first.operator, &weight.layout) {
            (Operator::Conv2d(op), Layout::Conv { .. }) if first.weight == Some(0) => Some((weight, op.window.kernel)),
            _ => None,
        }
    }
}

/// `out_channels` filters of `[kernel][kernel]`. With x to the right of the centre and y below it, filter `o` is
///
/// `g(x, y) = exp(−(x′² + γ² y′²) / (2σ²)) · cos(2π x′ / λ + ψ)`, `x′ = x cos θ + y sin θ`, `y′ = −x sin θ + y cos θ`
///
/// (Daugman, "Uncertainty relation for resolution in space, spatial frequency, and orientation optimized by
/// two-dimensional visual cortical filters", 1985; in this form Petkov and Kruizinga, 1997) with γ = 0.5 and σ = 0.56
/// λ, a bandwidth of one octave. Consecutive filters vary the orientation `θ = π · (o mod 8) / 8` first, then the phase
/// `ψ` (0, −π/2), then the wavelength `λ = kernel · (2 / kernel)^(i / n)` for `i` from 0 to n − 1, always more than two
/// pixels. Each filter's mean is subtracted, and the filter is scaled to the variance of PyTorch's default
/// initialisation, 1 / (3 · fan_in).
fn gabor_bank(out_channels: usize, in_channels: usize, kernel: usize) -> Vec<Vec<f32>> {
    let wavelengths = out_channels.div_ceil(2 * ORIENTATIONS);
    let fan_in = (in_channels * kernel * kernel) as f64;
    (0..out_channels)
        .map(|out| {
            let theta = PI * (out % ORIENTATIONS) as f64 / ORIENTATIONS as f64;
            let phase = -PI / 2.0 * (out / ORIENTATIONS % 2) as f64;
            let exponent = (out / (2 * ORIENTATIONS)) as f64 / wavelengths as f64;
            let wavelength = kernel as f64 * (2.0 / kernel as f64).powf(exponent);
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
