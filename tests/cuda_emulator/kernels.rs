//! Compares kernels with plain computations on odd shapes, with a block's threads in both orders.

mod convolution;
mod direct;
mod elementwise;
mod gather;
mod grouped;
mod loss;
mod norm;
mod optimizer;
mod pooling;
mod products;
mod shared;
mod tensor;
mod wgmma;

use crate::cuda_emulator::device::Device;

/// Defines tests that run `check` on the emulator with threads and blocks in both orders, and with race checks. A
/// result that depends on the order is a race on a GPU.
macro_rules! in_both_orders {
    ($($check:ident),+ $(,)?) => {
        mod forward {
            use crate::{cuda_emulator::device::Device, support::emulator::on_emulator};
            $(#[test]
            fn $check() {
                on_emulator(&[], || super::$check(Device::new()));
            })+
        }
        mod race_checked {
            use crate::{cuda_emulator::device::Device, support::emulator::{RACES, on_emulator}};
            $(#[test]
            #[ignore = "long; CI runs it"]
            fn $check() {
                on_emulator(&[RACES], || super::$check(Device::new()));
            })+
        }
        mod reverse {
            use crate::{cuda_emulator::device::Device, support::emulator::on_emulator};
            $(#[test]
            fn $check() {
                on_emulator(&[("CUDA_EMULATOR_ORDER", "reverse")], || super::$check(Device::new()));
            })+
        }
    };
}
use in_both_orders;

/// Small whole numbers, varied enough that a misplaced one shows.
fn whole(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 31 + seed * 17) % 23) as f32 - 11.0).collect()
}

/// The values in half precision.
fn halves(values: &[f32]) -> Vec<half::f16> {
    values.iter().map(|&value| half::f16::from_f32(value)).collect()
}

/// `Geometry` of `kernels/geometry.cuh`, without groups and dilation.
fn geometry(
    [height, width, channels, out_channels]: [usize; 4],
    (out_height, out_width): (usize, usize),
    [kernel, stride, padding]: [usize; 3],
) -> [u32; 11] {
    [height, width, channels, out_height, out_width, out_channels, kernel, stride, padding, 1, 1]
        .map(|value| value as u32)
}

fn upload_u32(device: &Device, values: &[usize]) -> cudarc::driver::CudaSlice<u32> {
    device.upload(&values.iter().map(|&v| v as u32).collect::<Vec<_>>())
}
