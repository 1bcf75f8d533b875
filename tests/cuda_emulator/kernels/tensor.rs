//! Compares tensor-core products of every shape with plain products, and checks rounding to TF32.

use cudarc::driver::LaunchConfig;

use super::super::device::{Device, launch_planted};
use super::in_both_orders;
use crate::cuda_emulator::device::blocks;

in_both_orders!(multiplies_halves_k8, multiplies_halves_k16, multiplies_bfloat16, multiplies_tf32, rounds_to_tf32);

const WARP: LaunchConfig = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };

/// Whole numbers that fp16, bfloat16 and TF32 represent exactly, varied enough that a misplaced register shows.
fn number(index: usize) -> f32 {
    (index * 37 % 101) as f32 - 50.0
}

/// Checks d [16][8] += a [16][k] · b [k][8]. Every word holds `per_word` numbers along k.
fn check(device: &Device, kernel: &str, depth: usize, per_word: usize, bits: impl Fn(f32) -> u32) {
    let words = depth / per_word;
    let word = |numbers: &dyn Fn(usize) -> f32| {
        (0..per_word).fold(0, |word, part| word | bits(numbers(part)) << (16 * part as u32))
    };
    let left = |row: usize, k: usize| number(row * depth + k);
    let right = |k: usize, col: usize| number(1000 + k * 8 + col);
    let a: Vec<u32> = (0..16 * words).map(|i| word(&|part| left(i / words, i % words * per_word + part))).collect();
    let b: Vec<u32> = (0..words * 8).map(|i| word(&|part| right(i / 8 * per_word + part, i % 8))).collect();
    let start: Vec<f32> = (0..128).map(|i| i as f32).collect();
    let (a, b, d) = (device.upload(&a), device.upload(&b), device.upload(&start));
    launch_planted!(device, kernel, WARP, &a, &b, &d).expect("a product");
    let expected: Vec<f32> =
        (0..128).map(|i| start[i] + (0..depth).map(|k| left(i / 8, k) * right(k, i % 8)).sum::<f32>()).collect();
    assert_eq!(device.download(&d), expected, "{kernel}");
}

fn half_bits(value: f32) -> u32 {
    half::f16::from_f32(value).to_bits().into()
}

fn multiplies_halves_k8(device: Device) {
    check(&device, "planted_mma_f16_k8_f32", 8, 2, half_bits);
}

fn multiplies_halves_k16(device: Device) {
    check(&device, "planted_mma_f16_k16_f32", 16, 2, half_bits);
}

fn multiplies_bfloat16(device: Device) {
    let bits = |value| half::bf16::from_f32(value).to_bits().into();
    check(&device, "planted_mma_bf16_k16_f32", 16, 2, bits);
}

fn multiplies_tf32(device: Device) {
    check(&device, "planted_mma_tf32_k8_f32", 8, 1, f32::to_bits);
}

fn rounds_to_tf32(device: Device) {
    let step = 1.0 / 1024.0;
    let mut values = vec![1.0_f32; 256];
    let cases = [
        (1.0, 1.0),
        (1.0 + step, 1.0 + step),
        (1.0 + 0.49 * step, 1.0),
        (1.0 + 0.5 * step, 1.0 + step), // ties round away from zero
        (-1.0 - 0.5 * step, -1.0 - step),
        (2.0 - 0.1 * step, 2.0), // a carry into the exponent
        (f32::INFINITY, f32::INFINITY),
        (0.0, 0.0),
    ];
    cases.iter().enumerate().for_each(|(i, case)| values[i] = case.0);
    let bits = device.upload(&values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>());
    launch_planted!(device, "planted_round_to_tf32_f32", blocks(1), &bits).expect("rounded");
    let rounded = device.download(&bits);
    for (i, case) in cases.iter().enumerate() {
        assert_eq!(f32::from_bits(rounded[i]), case.1, "{} was rounded wrongly", case.0);
    }
}
