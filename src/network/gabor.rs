//! A bank of oriented Gabor filters.

use std::f64::consts::PI;

/// Orientations of the filters, evenly spaced over 180°.
const ORIENTATIONS: usize = 8;

/// `out_channels` filters of `[kernel][kernel]`. With x to the right of the centre and y below it, filter `o` is
///
/// `g(x, y) = exp(−(x′² + γ² y′²) / (2σ²)) · cos(2π x′ / λ + ψ)`, `x′ = x cos θ + y sin θ`, `y′ = −x sin θ + y cos θ`
///
/// (Daugman, "Uncertainty relation for resolution in space, spatial frequency, and orientation optimized by
/// two-dimensional visual cortical filters", 1985; in this form Petkov and Kruizinga, 1997) with γ = 0.5 and σ = 0.56
/// λ, a bandwidth of one octave. Consecutive filters vary the orientation `θ = π · (o mod 8) / 8` first, then the phase
/// `ψ` (0, −π/2), then the wavelength `λ = kernel · (2 / kernel)^(i / n)` for `i` from 0 to n − 1, always more than two
/// pixels. Each filter's mean is subtracted.
pub(super) fn gabor_bank(out_channels: usize, kernel: usize) -> Vec<Vec<f64>> {
    let wavelengths = out_channels.div_ceil(2 * ORIENTATIONS);
    (0..out_channels)
        .map(|out| {
            let theta = PI * (out % ORIENTATIONS) as f64 / ORIENTATIONS as f64;
            let phase = -PI / 2.0 * (out / ORIENTATIONS % 2) as f64;
            let exponent = (out / (2 * ORIENTATIONS)) as f64 / wavelengths as f64;
            let wavelength = kernel as f64 * (2.0 / kernel as f64).powf(exponent);
            let mut filter = gabor(kernel, theta, phase, wavelength);
            let mean = filter.iter().sum::<f64>() / filter.len() as f64;
            filter.iter_mut().for_each(|value| *value -= mean);
            filter
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
