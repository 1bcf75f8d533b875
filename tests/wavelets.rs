//! The wavelets of the first convolution: the published formula, and the properties of a bank of wavelets.

use cnn_cuda::network::{Builder, Conv2dOptions, FirstLayer, Layout, Network};
use cnn_cuda::shape::Shape;
use serde::Deserialize;

/// A small network with the given first convolution.
fn network(out_channels: usize, kernel: usize, channels: usize) -> Network {
    let mut net = Builder::new("small", Shape::new(12, 12, channels));
    let conv = net.conv2d("conv1", 0, Conv2dOptions { out_channels, kernel, ..Default::default() }).expect("fits");
    let flat = net.flatten(conv);
    net.linear("fc", flat, 2).expect("fits");
    net.finish().expect("a network")
}

/// The filters of one input channel, `[out_channels][kernel][kernel]`, after a check that all channels have the same.
fn filters(out_channels: usize, kernel: usize, channels: usize) -> Vec<Vec<f64>> {
    let net = network(out_channels, kernel, channels).with_first_layer(FirstLayer::Wavelet).expect("a convolution");
    let (weight, values) = (&net.parameters[0], net.initial_parameters(3));
    let mut file = vec![0.0; weight.len()];
    weight.layout.file_from_memory(&values[weight.range()], &mut file);
    let of_channel = |filter: &[f32]| {
        let (first, others) = filter.split_at(kernel * kernel);
        others.chunks(kernel * kernel).for_each(|other| assert_eq!(first, other));
        first.iter().map(|&value| f64::from(value)).collect()
    };
    file.chunks(channels * kernel * kernel).map(of_channel).collect()
}

#[derive(Deserialize)]
struct Case {
    kernel: usize,
    channels: usize,
    filters: Vec<Vec<f64>>,
}

/// Some banks are longer than needed; the last filters are then left out.
#[test]
fn wavelets_are_those_of_the_paper() {
    let text = std::fs::read_to_string("tests/reference/wavelets.json").expect("a golden file");
    let cases: Vec<Case> = serde_json::from_str(&text).expect("JSON");
    for Case { kernel, channels, filters: expected } in cases {
        let out_channels = if kernel == 11 { 64 } else { expected.len() };
        let found = filters(out_channels, kernel, channels);
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let far = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            // Both are rounded, the file to 9 digits and the filters to f32.
            assert!(far < 1e-7, "{kernel}×{kernel}, filter {index}: {far}");
        }
    }
}

#[test]
fn wavelets_have_zero_mean_unit_scale_symmetry_and_distinct_orientations() {
    for (out_channels, kernel, channels) in [(16, 3, 1), (6, 5, 1), (32, 5, 3), (64, 7, 3), (64, 3, 3), (5, 4, 1)] {
        let bank = filters(out_channels, kernel, channels);
        let fan_in = (channels * kernel * kernel) as f64;
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for (index, filter) in bank.iter().enumerate() {
            let name = format!("filter {index} of {out_channels} of {kernel}×{kernel}");
            let mean = filter.iter().sum::<f64>() / filter.len() as f64;
            let variance = product(filter, filter) / filter.len() as f64;
            assert!(mean.abs() < 1e-7 && (variance * 3.0 * fan_in - 1.0).abs() < 1e-5, "{name}: {mean}, {variance}");
            // The real part is even and the imaginary part odd, so they are orthogonal.
            let mut turned = filter.clone();
            turned.reverse();
            let symmetry = product(filter, &turned) / product(filter, filter);
            assert!((symmetry.abs() - 1.0).abs() < 1e-5, "{name}: {symmetry}");
            assert!(bank[..index].iter().all(|other| other != filter), "{name} is a duplicate");
        }
    }
    // Orientations are evenly spaced over 180°, so half a turn of them is a rotation by 90°: with 16 filters the fifth is
    // the first turned.
    let bank = filters(16, 3, 1);
    for at in 0..9 {
        assert!((bank[0][at] - bank[4][at % 3 * 3 + at / 3]).abs() < 1e-6);
        assert!((bank[8][at] - bank[12][at % 3 * 3 + at / 3]).abs() < 1e-6);
    }
    // A vertical edge excites the odd wavelet that is oriented along x most, and not the one along y.
    let edge: Vec<f64> = (0..25).map(|at| f64::from(u8::from(at % 5 > 2))).collect();
    let answers: Vec<f64> =
        filters(32, 5, 1)[8..16].iter().map(|filter| filter.iter().zip(&edge).map(|(a, b)| a * b).sum()).collect();
    assert!(answers[1..].iter().all(|answer| answer.abs() < answers[0]) && answers[4].abs() < 1e-6, "{answers:?}");
}

#[test]
fn frozen_wavelets_are_not_trained_and_other_parameters_stay_as_they_were() {
    let frozen = network(16, 3, 1).with_first_layer(FirstLayer::WaveletFrozen).expect("a convolution");
    assert_eq!(frozen.frozen_len(), 144);
    assert!(matches!(frozen.parameters[0].layout, Layout::Conv { .. }));
    let (usual, values) = (network(16, 3, 1).initial_parameters(1), frozen.initial_parameters(1));
    assert!(usual[144..] == values[144..] && usual[..144] != values[..144]);
    assert_eq!(network(16, 3, 1).with_first_layer(FirstLayer::Wavelet).expect("a convolution").frozen_len(), 0);
    for (first_layer, filters) in [(FirstLayer::Wavelet, "wavelets"), (FirstLayer::Gabor, "Gabor filters")] {
        let error = network(16, 2, 1).with_first_layer(first_layer).expect_err("a small kernel").to_string();
        assert!(error.contains("2×2") && error.contains(filters), "{error}");
    }
}
