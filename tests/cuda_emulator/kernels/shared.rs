//! Compares asynchronous copies, loads of matrix fragments and reductions of a warp with plain code.

use cudarc::driver::{CudaSlice, LaunchConfig};

use super::super::device::{Device, blocks, launch_planted};
use super::in_both_orders;
use crate::support::emulator::on_emulator;

in_both_orders!(copies_through_shared_memory, loads_matrices, reduces_in_a_warp);

#[test]
fn copies_early() {
    on_emulator(&[("CUDA_EMULATOR_COPIES", "early")], || copies_through_shared_memory(Device::new()));
}

fn copies_through_shared_memory(device: Device) {
    let device = device.with_target("sm_80");
    let (steps, count) = (5u32, 5 * 1024 - 20u32);
    let source: Vec<u32> = (0..count).map(|i| i * 7 + 1).collect();
    let from = device.upload(&source);
    for kernel in ["planted_copy_16_f32", "planted_copy_8_f32", "planted_copy_4_f32"] {
        let to: CudaSlice<u32> = device.poisoned(steps as usize * 1024);
        let config = LaunchConfig { shared_mem_bytes: 2 * 4096, ..blocks(1) };
        launch_planted!(device, kernel, config, &from, &to, &count, &steps).expect("copies");
        let expected = |i: usize| source.get(i / 1024 * 1024 + (i + 4) % 1024).copied().unwrap_or(0);
        assert_eq!(device.download(&to), (0..steps as usize * 1024).map(expected).collect::<Vec<_>>(), "{kernel}");
    }
}

/// Shared memory is aligned to 16 bytes and no more, which is all that CUDA promises.
#[test]
fn starts_shared_memory_at_the_least_alignment() {
    on_emulator(&[], || {
        let device = Device::new();
        let to: CudaSlice<u32> = device.poisoned(1);
        for shared_mem_bytes in [4, 16, 48, 1000, 1024, 4096, 48 * 1024] {
            let config = LaunchConfig { shared_mem_bytes, ..blocks(1) };
            launch_planted!(device, "planted_shared_address_f32", config, &to).expect("a launch");
            let address = device.download(&to)[0];
            assert_eq!(address % 32, 16, "{shared_mem_bytes}");
            assert!(address + shared_mem_bytes <= 1 << 18, "a descriptor has 18 bits");
        }
    });
}

fn loads_matrices(device: Device) {
    let element = |matrix: usize, row: usize, col: usize| (matrix * 64 + row * 8 + col + 1) as u32;
    let pair = |low: u32, high: u32| low | high << 16;
    let word = |i: usize| pair(element(0, i / 4, i % 4 * 2), element(0, i / 4, i % 4 * 2 + 1));
    let from = device.upload(&(0..128).map(word).collect::<Vec<u32>>());
    let to: CudaSlice<u32> = device.poisoned(256);
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 512 };
    launch_planted!(device, "planted_matrices_f32", config, &from, &to).expect("loads");
    let expected = |i: usize| {
        let (line, first, transposed, matrix) = (i / 8 / 4, i / 8 % 4 * 2, i / 4 % 2 == 1, i % 4);
        let at = |k| if transposed { element(matrix, k, line) } else { element(matrix, line, k) };
        pair(at(first), at(first + 1))
    };
    assert_eq!(device.download(&to), (0..256).map(expected).collect::<Vec<_>>());
}

fn reduces_in_a_warp(device: Device) {
    let device = device.with_target("sm_80");
    let values: Vec<u32> = (0..64u32).map(|i| (i + 1).wrapping_mul(0x9e37_79b9)).collect();
    let (from, to): (_, CudaSlice<u32>) = (device.upload(&values), device.poisoned(192));
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 0 };
    launch_planted!(device, "planted_reductions_f32", config, &from, &to).expect("reductions");
    let result = device.download(&to);
    for (i, value) in values.iter().enumerate() {
        let warp = &values[i / 32 * 32..][..32];
        let high = ((u64::from(*value) * 0x9000_0001) >> 32) as u32;
        assert_eq!(result[i * 3..][..3], [*warp.iter().max().unwrap(), *warp.iter().min().unwrap(), high], "{i}");
    }
}
