//! SGD step by step, the loss scale, and the batch that a step is made of.

use half::f16;

use super::super::device::{Device, blocks, launch};
use super::{in_both_orders, whole};

in_both_orders!(
    follows_pytorchs_sgd,
    skips_an_overflowing_step,
    grows_and_halves_the_loss_scale,
    gathers_a_batch_at_the_position,
);

/// w, gradient and the three steps' results, in the order of PyTorch's documentation.
fn reference(weights: &mut [f32], buffer: &mut [f32], gradients: &[f32], momentum: f32, nesterov: bool) {
    for ((weight, velocity), gradient) in weights.iter_mut().zip(buffer).zip(gradients) {
        let gradient = gradient + 0.01 * *weight;
        *velocity = momentum * *velocity + gradient;
        let step = if nesterov { gradient + momentum * *velocity } else { *velocity };
        *weight -= 0.1 * step;
    }
}

fn follows_pytorchs_sgd(device: Device) {
    for (momentum, nesterov) in [(0.0f32, false), (0.9, false), (0.9, true)] {
        let mut weights: Vec<f32> = whole(1000, 1).iter().map(|w| w / 10.0).collect();
        let mut buffer = vec![0.0; weights.len()];
        let gradients = whole(weights.len(), 2);
        let scaled: Vec<f32> = gradients.iter().map(|g| g * 512.0).collect();
        let (on_device, velocity) = (device.upload(&weights), device.upload(&buffer));
        let (gradient, copy) = (device.upload(&scaled), device.poisoned::<f16>(weights.len()));
        let (rates, scale, none) = (device.upload(&[7.0f32, 0.1]), device.upload(&[512.0f32]), 0u64);
        let next = device.upload(&[3u64, 1]); // past the last, which holds on
        let (count, flag, decay) = (weights.len() as u64, u32::from(nesterov), 0.01f32);
        for _ in 0..3 {
            reference(&mut weights, &mut buffer, &gradients, momentum, nesterov);
            let (w, g, c, f, m) = (&on_device, &gradient, &copy, &flag, &momentum);
            let (at, n, r) = (blocks(3), &next, &rates);
            if momentum == 0.0 {
                launch!(device, "sgd_f16", at, w, c, g, &none, n, r, &scale, &none, &count, m, &decay, f)
            } else {
                launch!(device, "sgd_f16", at, w, c, g, &velocity, n, r, &scale, &none, &count, m, &decay, f)
            }
            .unwrap();
        }
        let got = device.download(&on_device);
        for (got, wanted) in got.iter().zip(&weights) {
            // Multiply-adds round once where the reference rounds twice.
            assert!((got - wanted).abs() <= 1e-6 * (1.0 + wanted.abs()), "{got} {wanted}");
        }
        assert_eq!(device.download(&copy), got.iter().map(|&w| f16::from_f32(w)).collect::<Vec<_>>());
    }
}

fn skips_an_overflowing_step(device: Device) {
    for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let mut gradients = whole(700, 3);
        gradients[613] = bad;
        let (gradient, flag, weights) =
            (device.upload(&gradients), device.upload(&[0i32]), device.upload(&[1.0f32; 700]));
        let (next, rates, none, count) = (device.upload(&[0u64, 0]), device.upload(&[0.1f32]), 0u64, 700u64);
        launch!(device, "check_overflow_f32", blocks(2), &gradient, &flag, &count).unwrap();
        assert_eq!(device.download(&flag), [1]);
        let (zero, plain) = (0.0f32, 0u32);
        launch!(
            device,
            "sgd_f32",
            blocks(2),
            &weights,
            &none,
            &gradient,
            &none,
            &next,
            &rates,
            &none,
            &flag,
            &count,
            &zero,
            &zero,
            &plain
        )
        .unwrap();
        assert_eq!(device.download(&weights), [1.0; 700]);
        let finite = device.upload(&[f32::MAX; 700]);
        let flag = device.upload(&[0i32]);
        launch!(device, "check_overflow_f32", blocks(2), &finite, &flag, &count).unwrap();
        assert_eq!(device.download(&flag), [0]);
    }
}

fn grows_and_halves_the_loss_scale(device: Device) {
    let (scale, good) = (device.upload(&[3.0f32]), device.upload(&[1998u32]));
    let (skipped, mut flag) = (device.upload(&[0u64]), device.upload(&[0i32]));
    let mut seen = Vec::new();
    for overflow in [0, 0, 1, 1, 1] {
        device.stream.memcpy_htod(&[overflow], &mut flag).unwrap();
        launch!(device, "update_loss_scale_f32", blocks(1), &scale, &good, &skipped, &flag).unwrap();
        assert_eq!(device.download(&flag), [0]);
        seen.push((device.download(&scale)[0], device.download(&good)[0], device.download(&skipped)[0]));
    }
    assert_eq!(seen, [(3.0, 1999, 0), (6.0, 0, 0), (3.0, 0, 1), (1.5, 0, 2), (1.0, 0, 3)]);
    let (scale, good) = (device.upload(&[65536.0f32 * 256.0]), device.upload(&[1999u32]));
    launch!(device, "update_loss_scale_f32", blocks(1), &scale, &good, &skipped, &flag).unwrap();
    assert_eq!(device.download(&scale), [65536.0 * 256.0]);
}

fn gathers_a_batch_at_the_position(device: Device) {
    let (size, channels) = (12usize, 3usize);
    let images: Vec<u8> = (0..7 * size).map(|i| (i * 37 % 256) as u8).collect();
    let labels: Vec<u32> = (0..7).map(|i| 10 + i).collect();
    let order = [4u32, 0, 6, 2, 1, 5, 3];
    let (mean, std) = ([0.5f32, 0.1, 0.0], [0.5f32, 0.3, 1.0]);
    let (image, label, position) = (device.upload(&images), device.upload(&labels), device.upload(&[2u64]));
    let on_device = device.upload(&order);
    let (m, s) = (device.upload(&mean), device.upload(&std));
    let (batch, sample, c) = (3u32, size as u32, channels as u32);
    let (output, taken) = (device.poisoned::<f32>(3 * size), device.poisoned::<u32>(3));
    let (p, o, t) = (&position, &output, &taken);
    let name = "gather_normalise_f32";
    launch!(device, name, blocks(1), &image, &label, &on_device, p, &m, &s, o, t, &batch, &sample, &c).unwrap();
    let normal = |i: usize, byte: u8| (f32::from(byte) / 255.0 - mean[i % channels]) / std[i % channels];
    let expected: Vec<f32> = [6, 2, 1]
        .iter()
        .flat_map(|&at| images[at * size..][..size].iter().enumerate().map(|(i, &byte)| normal(i, byte)))
        .collect();
    assert_eq!(device.download(&output), expected);
    assert_eq!(device.download(&taken), [6, 2, 1].map(|at| labels[at]));
    launch!(device, "advance_f32", blocks(1), &position, &batch).unwrap();
    assert_eq!(device.download(&position), [5]);
}
