//! Random transforms of training pictures on CUDA: torchvision's pixels, and the same bits as on the CPU.

use cnn_cuda::cuda::Cuda;
use cnn_cuda::ops::{MemorySizes, Precision};

use super::cuda::options;
use super::lab::{Lab, sizes_with_columns};
use super::{augment, cpu};
use crate::support::cuda::on_cuda;

/// A lab for batches of a few small pictures.
fn lab(precision: Precision) -> Lab<Cuda> {
    let sizes = MemorySizes { arena: 1 << 16, staged: [1 << 12; 4], max_batch: 8, ..sizes_with_columns(0, 0) };
    Lab::with_sizes(Cuda::new(options(precision)).expect("a CUDA device"), &sizes)
}

/// Runs every transform, on pictures in colour and in gray.
pub fn run_transforms(precision: Precision) {
    for (transforms, stored, shape) in [0, 3].map(|index| augment::settings().swap_remove(index)) {
        augment::transformed(&mut lab(precision), &transforms, stored, shape);
    }
}

#[test]
fn pixels_are_those_of_torchvision() {
    on_cuda(|| {
        augment::check_against_torchvision(&mut lab(Precision::Fp32));
        augment::check_crops(&mut lab(Precision::Fp32));
    });
}

#[test]
fn batches_have_the_bits_of_the_cpu() {
    on_cuda(|| {
        for (transforms, stored, shape) in augment::settings() {
            let expected = augment::transformed(&mut cpu(), &transforms, stored, shape);
            let got = augment::transformed(&mut lab(Precision::Fp32), &transforms, stored, shape);
            assert!(got == expected, "{transforms:?}");
            let got = augment::transformed(&mut lab(Precision::Fp16), &transforms, stored, shape);
            let half = |bits: &u32| half::f16::from_f32(f32::from_bits(*bits)).to_f32().to_bits();
            assert!(got == expected.iter().map(half).collect::<Vec<_>>(), "{transforms:?} in fp16");
        }
    });
}
