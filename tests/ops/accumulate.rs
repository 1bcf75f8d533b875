//! Gradient accumulation: the sums of every micro-batch, on every backend.

use cnn_cuda::ops::{AccumulateGradients, Backend, MicroBatch, Optimizer, Region, Span};

use super::lab::{Lab, optimizer_update, random};
use super::{FP32, compare, cpu};

const SHARES: [(MicroBatch, f32); 4] =
    [(MicroBatch::First, 0.3), (MicroBatch::Middle, 0.3), (MicroBatch::Middle, 0.3), (MicroBatch::Last, 0.1)];

/// Sums gradients of whole and partial pieces of work. What the sum held before does not matter. Tests of other backends
/// use it too.
pub fn check_accumulation<B: Backend>(lab: &mut Lab<B>) {
    for len in [1, 3, 4, 5, 1003, 70_002] {
        let [gradients, sum] = [Region::Gradients, Region::GradientSum].map(|region| Span::new(region, 0, len));
        lab.backend.write(sum, &vec![f32::NAN; len]).expect("write");
        let mut expected = vec![0.0; len];
        for (stream, (micro_batch, weight)) in (0..).zip(SHARES) {
            let values = random(len, stream);
            lab.backend.write(gradients, &values).expect("write");
            lab.run(AccumulateGradients { weight, micro_batch, gradients, sum });
            expected.iter_mut().zip(&values).for_each(|(sum, &value)| *sum += f64::from(weight) * f64::from(value));
            let is_last = micro_batch == MicroBatch::Last;
            compare("the sum", &lab.get(if is_last { gradients } else { sum }), &expected, FP32);
            if !is_last {
                assert_eq!(lab.get(gradients), values);
            }
        }
    }
}

/// A gradient that overflowed in the first micro-batch is not finite in the total, so that the update shows it, or with a
/// loss scale is skipped and counted once.
pub fn check_overflow<B: Backend>(lab: &mut Lab<B>) {
    const LEN: usize = 9;
    let span = |region| Span::new(region, 0, LEN);
    let (gradients, sum) = (span(Region::Gradients), span(Region::GradientSum));
    lab.backend.write(span(Region::Parameters), &[1.0; LEN]).expect("write");
    lab.backend.set_learning_rates(&[0.5]).expect("rate");
    let before = lab.backend.loss_scale().expect("scale");
    for (micro_batch, seventh) in [(MicroBatch::First, f32::NEG_INFINITY), (MicroBatch::Last, 1.0)] {
        let mut values = [1.0; LEN];
        values[7] = seventh;
        lab.backend.write(gradients, &values).expect("write");
        lab.run(AccumulateGradients { weight: 0.5, micro_batch, gradients, sum });
    }
    lab.run(optimizer_update(Optimizer::default(), LEN));
    let weights = lab.get(span(Region::Parameters));
    match (before, lab.backend.loss_scale().expect("scale")) {
        (Some(before), Some(after)) => {
            assert_eq!(weights, [1.0; LEN]);
            assert_eq!((after.skipped_steps, after.scale), (before.skipped_steps + 1, before.scale / 2.0));
        }
        _ => assert!(!weights[7].is_finite(), "{weights:?}"),
    }
}

#[test]
fn micro_batches_are_summed() {
    check_accumulation(&mut cpu());
    check_overflow(&mut cpu());
}
