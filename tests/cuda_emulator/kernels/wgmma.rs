//! Compares products of warpgroups with plain products: every width, both orders of both operands, registers, TF32, bfloat16.

use cudarc::driver::LaunchConfig;

use super::super::device::{Device, launch_planted};
use super::in_both_orders;
use crate::support::emulator::on_emulator;

in_both_orders!(multiplies);

#[test]
fn multiplies_early() {
    on_emulator(&[("CUDA_EMULATOR_PRODUCTS", "early")], || multiplies(Device::new()));
}

/// Whole numbers that fp16, bfloat16 and TF32 represent exactly, varied enough that a misplaced one shows.
fn number(index: usize) -> f32 {
    (index * 37 % 101) as f32 - 50.0
}

/// The number type of a product's operands.
#[derive(Clone, Copy, PartialEq)]
enum Operands {
    Tf32,
    Half,
    Bfloat16,
}

/// The bytes of an operand. The low 13 bits of a TF32 number must be ignored.
fn bytes(numbers: &[f32], operands: Operands) -> Vec<u8> {
    let bytes = |&value: &f32| match operands {
        Operands::Tf32 => (value.to_bits() | 0x1fff).to_le_bytes().to_vec(),
        Operands::Half => half::f16::from_f32(value).to_le_bytes().to_vec(),
        Operands::Bfloat16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
    };
    numbers.iter().flat_map(bytes).collect()
}

fn multiplies(device: Device) {
    let device = device.with_target("sm_90a");
    for (name, cols) in [
        ("32", 32),
        ("64", 64),
        ("128", 128),
        ("256", 256),
        ("left_lines", 128),
        ("right_lines", 256),
        ("lines", 128),
        ("registers", 128),
        ("registers_lines", 64),
        ("tf32", 128),
        ("tf32_registers", 32),
    ] {
        let is_tf32 = name.starts_with("tf32");
        let operands = if is_tf32 { Operands::Tf32 } else { Operands::Half };
        check(&device, &format!("planted_wgmma_{name}_f32"), cols, operands);
        if !is_tf32 {
            check(&device, &format!("planted_wgmma_{name}_bf16"), cols, Operands::Bfloat16);
        }
    }
}

/// Checks d [rows][cols] += a [rows][depth] · b [cols][depth]ᵀ, with one and two warpgroups.
fn check(device: &Device, kernel: &str, cols: usize, operands: Operands) {
    let depth = if operands == Operands::Tf32 { 32 } else { 64 };
    // Two warpgroups unless the operands would need more than 48 KB.
    let warpgroups = if cols == 256 { 1 } else { 2 };
    for rows in (1..=warpgroups).map(|count| 64 * count) {
        let left: Vec<f32> = (0..rows * depth).map(number).collect();
        let right: Vec<f32> = (0..cols * depth).map(|i| number(i + 1000)).collect();
        let start: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
        let d = device.upload(&start);
        let (a, b) = (device.upload(&bytes(&left, operands)), device.upload(&bytes(&right, operands)));
        let shared = (rows + cols) * 128 + 1024;
        let config = LaunchConfig {
            grid_dim: (1, 1, 1),
            block_dim: (2 * rows as u32, 1, 1),
            shared_mem_bytes: u32::try_from(shared).expect("small"),
        };
        launch_planted!(device, kernel, config, &a, &b, &d).expect("a product");
        let expected = |i: usize| {
            let (row, col) = (i / cols, i % cols);
            start[i] + (0..depth).map(|k| left[row * depth + k] * right[col * depth + k]).sum::<f32>()
        };
        assert_eq!(device.download(&d), (0..rows * cols).map(expected).collect::<Vec<_>>(), "{kernel}, {rows} rows");
    }
}
