//! Dropout: the fraction that is dropped, independent masks, and equal masks on every backend.

use cnn_cuda::ops::{Algorithm, Backend, Dropout, DropoutPass, NextDropoutStep, Precision, Region};

use super::cpu;
use super::cuda::lab_by;
use super::lab::{Lab, random};
use crate::support::cuda::on_cuda;

/// Applies the dropout of `seed` and `step` to `values`.
pub fn dropped<B: Backend>(lab: &mut Lab<B>, values: &[f32], op: Dropout, [seed, step]: [u64; 2]) -> Vec<f32> {
    lab.clear();
    let (input, output) = (lab.put(Region::Arena, values), lab.empty(Region::Arena, values.len()));
    lab.backend.set_dropout_step(seed, step).expect("step");
    lab.run(DropoutPass { op, input, output });
    lab.get(output)
}

fn op(probability: f32, index: u32) -> Dropout {
    Dropout { probability, index }
}

#[test]
fn drops_the_given_fraction_and_scales_the_rest() {
    let values = vec![1.0; 100_000];
    for probability in [0.0, 0.1, 0.5, 0.9] {
        let output = dropped(&mut cpu(), &values, op(probability, 0), [3, 5]);
        let scale = 1.0 / (1.0 - probability);
        assert!(output.iter().all(|&value| value == 0.0 || value == scale), "{probability}");
        let fraction = output.iter().filter(|&&value| value == 0.0).count() as f64 / 1e5;
        // Five standard deviations of the fraction in a binomial distribution.
        let p = f64::from(probability);
        assert!((fraction - p).abs() <= 5.0 * (p * (1.0 - p) / 1e5).sqrt(), "{fraction} dropped instead of {p}");
    }
}

#[test]
fn masks_are_reproducible_and_differ_by_seed_step_and_layer() {
    let values = vec![1.0; 1000];
    let mask = |index, drawn| dropped(&mut cpu(), &values, op(0.5, index), drawn);
    let first = mask(0, [1, 7]);
    assert_eq!(first, mask(0, [1, 7]));
    for other in [mask(1, [1, 7]), mask(0, [2, 7]), mask(0, [1, 8]), mask(0, [1 << 40, 7])] {
        let same = first.iter().zip(&other).filter(|(a, b)| a == b).count();
        assert!((400..600).contains(&same), "{same} of 1000 are the same");
    }
    let mut lab = cpu();
    dropped(&mut lab, &values, op(0.5, 0), [1, 7]);
    lab.run(<NextDropoutStep>::default());
    let (input, output) = (lab.put(Region::Arena, &values), lab.empty(Region::Arena, 1000));
    lab.run(DropoutPass { op: op(0.5, 0), input, output });
    assert_eq!(lab.get(output), mask(0, [1, 8]));
}

/// Every backend drops the same values, in whole and partial pieces of work.
pub fn check_mask<B: Backend>(lab: &mut Lab<B>) {
    for len in [1, 7, 4099, 70_001] {
        let values = random(len, 1);
        let drawn = [0x1234_5678_9abc_def0, 11];
        let [got, expected] =
            [dropped(lab, &values, op(0.3, 2), drawn), dropped(&mut cpu(), &values, op(0.3, 2), drawn)];
        for (got, expected) in got.iter().zip(&expected) {
            // fp16 rounds small values to multiples of its smallest subnormal number.
            let close = (got - expected).abs() <= 1e-7 + 1e-3 * expected.abs();
            assert!(close && (*got == 0.0) == (*expected == 0.0), "{got} instead of {expected}");
        }
        lab.run(<NextDropoutStep>::default());
    }
}

#[test]
fn the_mask_follows_the_random_bits() {
    let output = dropped(&mut cpu(), &[1.0; 16], op(0.5, 0), [0, 0]);
    let kept: Vec<u8> = output.iter().map(|&value| u8::from(value > 0.0)).collect();
    let expected: Vec<u8> = (0..4)
        .flat_map(|position| cnn_cuda::rng::draw(0, cnn_cuda::rng::Purpose::Dropout, 0, position))
        .map(|bits| u8::from(bits >= 1 << 31))
        .collect();
    assert_eq!(kept, expected);
}

#[test]
fn cuda_draws_the_same_masks_as_the_cpu() {
    on_cuda(|| {
        for precision in [Precision::Fp32, Precision::Fp16] {
            check_mask(&mut lab_by(precision, Algorithm::Direct));
        }
    });
}
