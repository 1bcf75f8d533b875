//! A bank of oriented Morlet wavelets.

use std::f64::consts::PI;

/// The fewest orientations for which there is a further scale.
const ORIENTATIONS: usize = 4;

/// `out_channels` filters of `[kernel][kernel]`: the real and the imaginary parts of Morlet wavelets. With x to the right
/// of the centre and y below it, the wavelet of orientation `θ` and scale `j` is
///
/// `ψ(x, y) = exp(−(x′² + s² y′²) / (2σ²)) · (exp(iξx′) − β)`, `x′ = x cos θ + y sin θ`, `y′ = −x sin θ + y cos θ`
///
/// with `σ = 0.8 · 2^j`, `ξ = ¾π / 2^j` and `s = ½`, as in the scattering networks of Bruna and Mallat ("Invariant
/// Scattering Convolution Networks", IEEE TPAMI 35, 2013) and in their implementation Kymatio. `β` makes the sum over the
/// kernel zero, which a wavelet must have to be admissible. It is real: the imaginary part is odd.
///
/// There are as many scales as fit, `σ ≤ kernel / 3`, as long as each has at least four orientations. Consecutive filters
/// vary the orientation `θ = π · l / L` first, then the part (real, imaginary), then the scale, from fine to coarse. `L` is
/// the smallest number of orientations for which there are enough filters.
pub(super) fn wavelet_bank(out_channels: usize, kernel: usize) -> Vec<Vec<f64>> {
    let fitting = (0..=16).take_while(|&scale| deviation(scale) <= kernel as f64 / 3.0).count();
    let scales = fitting.min(out_channels / (2 * ORIENTATIONS)).max(1);
    let orientations = out_channels.div_ceil(2 * scales);
    (0..out_channels)
        .map(|out| {
            let theta = PI * (out % orientations) as f64 / orientations as f64;
            let [real, imaginary] = morlet(kernel, theta, (out / (2 * orientations)) as i32);
            if (out / orientations).is_multiple_of(2) { real } else { imaginary }
        })
        .collect()
}

/// `σ` of a scale.
fn deviation(scale: i32) -> f64 {
    0.8 * 2.0_f64.powi(scale)
}

/// The real and the imaginary part of a wavelet.
fn morlet(kernel: usize, theta: f64, scale: i32) -> [Vec<f64>; 2] {
    const SLANT: f64 = 0.5;
    let centre = (kernel - 1) as f64 / 2.0;
    let (sigma, frequency) = (deviation(scale), 0.75 * PI / 2.0_f64.powi(scale));
    // The envelope and x′ at every position.
    let at = |index: usize| {
        let (x, y) = ((index % kernel) as f64 - centre, (index / kernel) as f64 - centre);
        let (along, across) = (x * theta.cos() + y * theta.sin(), y * theta.cos() - x * theta.sin());
        let squares = along * along + SLANT * SLANT * across * across;
        ((-squares / (2.0 * sigma * sigma)).exp(), along)
    };
    let positions: Vec<(f64, f64)> = (0..kernel * kernel).map(at).collect();
    let part = |wave: fn(f64) -> f64| -> Vec<f64> {
        let waves = || positions.iter().map(|&(envelope, along)| (envelope, wave(frequency * along)));
        let sum: f64 = waves().map(|(envelope, wave)| envelope * wave).sum();
        let beta = sum / positions.iter().map(|&(envelope, _)| envelope).sum::<f64>();
        waves().map(|(envelope, wave)| envelope * (wave - beta)).collect()
    };
    [part(f64::cos), part(f64::sin)]
}
