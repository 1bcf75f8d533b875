//! The initial filters of the first convolution: a bank of oriented filters, which may be frozen, or whitening ones.

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::gabor::gabor_bank;
use super::wavelet::wavelet_bank;
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
    /// A bank of oriented Morlet wavelets, trained like any other layer
    Wavelet,
    /// A bank of oriented Morlet wavelets, kept fixed during training
    WaveletFrozen,
    /// Filters that whiten the patches of the training images, kept fixed during training, but not their bias
    Whitening,
}

/// What computes the filters of a bank, `[kernel][kernel]` each, from their number and the size of the kernel.
type Bank = fn(usize, usize) -> Vec<Vec<f64>>;

impl FirstLayer {
    /// The bank of filters, and what to call them.
    fn bank(self) -> Option<(Bank, &'static str)> {
        match self {
            Self::Gabor | Self::GaborFrozen => Some((gabor_bank, "Gabor filters")),
            Self::Wavelet | Self::WaveletFrozen => Some((wavelet_bank, "wavelets")),
            Self::Drawn | Self::Whitening => None,
        }
    }

    /// Whether training keeps the filters.
    fn is_fixed(self) -> bool {
        matches!(self, Self::GaborFrozen | Self::WaveletFrozen | Self::Whitening)
    }
}

impl Network {
    /// The same network with the given initial filters in its first convolution.
    ///
    /// # Errors
    /// If the first layer with parameters is not a convolution, or for a bank of filters with a kernel below 3×3.
    pub fn with_first_layer(mut self, first_layer: FirstLayer) -> Result<Self> {
        if first_layer != FirstLayer::Drawn {
            let (_, kernel) =
                self.first_convolution().with_context(|| format!("{} does not start with a convolution", self.name))?;
            if let Some((_, filters)) = first_layer.bank() {
                let name = &self.name;
                ensure!(kernel >= 3, "the {kernel}×{kernel} first convolution of {name} is too small for {filters}");
            }
        }
        self.first_layer = first_layer;
        if let Some(weight) = self.parameters.first_mut().filter(|_| self.cells.is_empty()) {
            weight.fixed = first_layer.is_fixed();
        }
        self.arrange();
        Ok(self)
    }

    /// Overwrites the first convolution's initial weight with a bank of filters, if one was chosen: the same for every
    /// input channel, scaled to the variance of PyTorch's default initialisation, 1 / (3 · fan_in).
    pub(super) fn fill_first_layer(&self, flat: &mut [f32]) {
        let (Some((weight, kernel)), Some((bank, _))) = (self.first_convolution(), self.first_layer.bank()) else {
            return;
        };
        let out_channels = weight.layout.file_shape()[0];
        let fan_in = weight.len() / out_channels;
        let in_channels = fan_in / (kernel * kernel);
        let mut file = Vec::with_capacity(weight.len());
        for filter in bank(out_channels, kernel) {
            let square = filter.iter().map(|value| value * value).sum::<f64>() / filter.len() as f64;
            let scale = (1.0 / (3.0 * fan_in as f64 * square)).sqrt();
            (0..in_channels).for_each(|_| file.extend(filter.iter().map(|value| (scale * value) as f32)));
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
