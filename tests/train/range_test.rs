//! The learning-rate range test: its rates, its numbers, and when it ends.

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::ops::{Backend, Precision};
use cnn_cuda::train::{Hyperparameters, RangeEnding, RangeTest, RateRange, Trainer};

use super::harness::{bits, digits, lenet5, two_epochs};
use crate::ops::cuda::options;
use crate::support::cuda::on_cuda;

const RANGE: RateRange = RateRange { min: 1e-4, max: 1.0, steps: 5 };

fn trainer<B: Backend>(backend: B, hyper: Hyperparameters) -> Trainer<B> {
    Trainer::new(backend, lenet5(), digits(340, 50), hyper).expect("a trainer")
}

fn cpu() -> Cpu {
    Cpu::new(Some(2)).expect("two threads")
}

#[test]
fn rates_grow_by_the_same_factor() {
    let rates: Vec<f32> = (0..5).map(|step| RANGE.rate(step)).collect();
    for (rate, expected) in rates.iter().zip([1e-4, 1e-3, 1e-2, 1e-1, 1.0]) {
        assert!((rate - expected).abs() <= 1e-6 * expected, "{rates:?}");
    }
    assert_eq!((rates[0], rates[4]), (1e-4, 1.0));
}

/// The test of given losses.
fn of(losses: impl IntoIterator<Item = f64>) -> RangeTest {
    let losses: Vec<f64> = losses.into_iter().collect();
    let mut test = RangeTest::new(RateRange { min: 1e-3, max: 1.0, steps: 40 });
    for (at, loss) in losses.iter().enumerate() {
        assert_eq!(test.ending(), None, "it ended before step {at}");
        test.push(*loss);
    }
    test
}

#[test]
fn a_suggestion_is_at_the_steepest_fall_of_the_smoothed_loss() {
    // Flat, then a fall that is steepest at step 25, then a rise.
    let losses = |step: usize| 2.0 - 1.5 / (1.0 + (-(step as f64 - 25.0)).exp()) + if step > 33 { 3.0 } else { 0.0 };
    let test = of((0..40).map(losses));
    assert_eq!(test.ending(), Some(RangeEnding::Complete));
    // PyTorch Lightning's formula, with sums instead of a recurrence.
    let smoothed = |end: usize| {
        let weight = |at: usize| 0.98_f64.powi((end - at) as i32);
        let all: f64 = (0..=end).map(|at| weight(at) * losses(at)).sum();
        all / (0..=end).map(weight).sum::<f64>()
    };
    for (at, step) in test.steps.iter().enumerate() {
        assert!((step.smoothed - smoothed(at)).abs() < 1e-12, "step {at}");
    }
    let slopes: Vec<f64> = (5..38).map(|at| smoothed(at + 1) - smoothed(at - 1)).collect();
    let steepest = 5 + (0..slopes.len()).min_by(|&a, &b| slopes[a].total_cmp(&slopes[b])).expect("a slope");
    let lowest = (4..39).min_by(|&a, &b| smoothed(a).total_cmp(&smoothed(b))).expect("a minimum");
    let suggestion = test.suggestion().expect("a suggestion");
    assert_eq!((suggestion.steepest, suggestion.lowest), (test.range.rate(steepest), test.range.rate(lowest)));
    assert_eq!(suggestion.rate(), suggestion.lowest / 10.0);
    assert!((25..30).contains(&steepest) && lowest == 33, "{steepest} {lowest}");
}

#[test]
fn a_test_ends_when_the_loss_diverges_and_says_why_there_is_no_suggestion() {
    let reason = |test: &RangeTest| format!("{:#}", test.suggestion().expect_err("no suggestion"));
    for last in [f64::NAN, f64::INFINITY, 1e30] {
        let test = of([2.0, 2.0, 1.9, last]);
        assert_eq!(test.ending(), Some(RangeEnding::Diverged));
        assert!(reason(&test).contains("diverged after 4 steps"), "{}", reason(&test));
    }
    // An average over 31 losses exceeds four times the minimum only if the last is large enough.
    assert_eq!(of((0..30).map(|_| 1.0).chain([50.0])).ending(), None);
    let flat = of((0..40).map(|step| 2.3 + 0.01 * f64::from(step % 2)));
    assert!(reason(&flat).contains("hardly fell"), "{}", reason(&flat));
}

/// Eleven steps an epoch: the test goes on in the next.
fn tested<B: Backend>(backend: B, hyper: Hyperparameters) -> (RangeTest, Trainer<B>) {
    let mut trainer = trainer(backend, hyper);
    let test = trainer.range_test(RateRange { min: 1e-5, max: 10.0, steps: 60 }).expect("a test");
    (test, trainer)
}

#[test]
fn a_range_test_trains_at_its_rates() {
    let (test, mut trainer) = tested(cpu(), two_epochs());
    let suggestion = test.suggestion().expect("a suggestion");
    assert!((1e-3..1.0).contains(&suggestion.steepest), "{suggestion:?}");
    assert!(suggestion.steepest < suggestion.lowest);
    // Its first steps are those of a run with the same rates; here, one step at the first.
    let mut one = self::trainer(cpu(), two_epochs());
    let short = one.range_test(RateRange { min: 1e-5, max: 1e-4, steps: 2 }).expect("a test");
    assert_eq!(short.steps[0], test.steps[0]);
    assert!(trainer.position().epoch >= 3, "{:?}", trainer.position());
    let (again, mut other) = tested(cpu(), two_epochs());
    assert_eq!(format!("{again:?}"), format!("{test:?}"));
    assert_eq!(bits(&other.parameters().expect("read")), bits(&trainer.parameters().expect("read")));
    // Accumulated steps have one rate and one loss each.
    let accumulated = Hyperparameters { batch_size: 16, grad_accum_steps: Some(2), ..two_epochs() };
    let (of_two, _) = tested(cpu(), accumulated);
    for (one, two) in test.steps.iter().zip(&of_two.steps).take(20) {
        assert!((one.loss - two.loss).abs() < 1e-4 && one.rate == two.rate, "{one:?} {two:?}");
    }
}

#[test]
#[ignore = "long; CI runs it"]
fn a_range_test_on_cuda_is_as_on_the_cpu() {
    on_cuda(|| {
        let (expected, _) = tested(cpu(), two_epochs());
        for (precision, tolerance) in [(Precision::Fp32, 1e-4), (Precision::Fp16, 1e-2)] {
            let backend = Cuda::new(Options { graphs: true, ..options(precision) }).expect("a CUDA device");
            let (test, _) = tested(backend, two_epochs());
            // Later steps amplify rounding.
            for (got, expected) in test.steps.iter().zip(&expected.steps).take(30) {
                let close = (got.loss - expected.loss).abs() <= tolerance * expected.loss;
                assert!(close && got.rate == expected.rate, "{precision}: {got:?} instead of {expected:?}");
            }
            test.suggestion().expect("a suggestion");
        }
    });
}
