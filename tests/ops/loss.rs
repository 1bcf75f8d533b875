//! Softmax cross-entropy and the metrics.

use cnn_cuda::ops::{Backend, DataSets, LossGradient, LossScale, Metrics, Region, SoftmaxCrossEntropy, TrainingState};

use super::lab::{Lab, random};
use super::{FP32, Tolerance, compare, cpu};

/// Compares loss, gradient and counts with f64. Logits and gradients have the backend's storage type.
pub fn check_loss<B: Backend>(lab: &mut Lab<B>, tolerance: Tolerance) {
    for (batch, classes) in [(1, 2), (3, 10), (5, 1000), (64, 10)] {
        let logits: Vec<f32> = random(batch * classes, 0).iter().map(|x| x * 4.0).collect();
        let labels: Vec<u32> = (0..batch as u32).map(|n| n * 7 % classes as u32).collect();
        lab.clear();
        let (span, d_span) = (lab.put(Region::Arena, &logits), lab.empty(Region::Arena, logits.len()));
        if lab.backend.loss_scale().expect("scale").is_some() {
            let scale = LossScale { scale: 1.0, good_steps: 0, skipped_steps: 0 };
            lab.backend.set_loss_scale(scale).expect("scale");
        }
        lab.backend.set_metrics(Metrics::default()).expect("metrics");
        lab.backend.set_labels(&labels).expect("labels");
        let gradient = Some(LossGradient::new(d_span));
        lab.run(SoftmaxCrossEntropy { classes, logits: span, gradient });
        let (mut loss, mut d_logits) = (0.0, Vec::new());
        for (row, &label) in logits.chunks(classes).zip(&labels) {
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            loss += sum.ln() - f64::from(row[label as usize]);
            let onehot = |c: usize| f64::from(u8::from(c == label as usize));
            d_logits.extend((0..classes).map(|c| (f64::from(row[c]).exp() / sum - onehot(c)) / batch as f64));
        }
        let metrics = lab.backend.read_metrics().expect("metrics");
        compare("loss", &[metrics.loss_sum as f32], &[loss], FP32);
        compare("d_logits", &lab.get(d_span), &d_logits, tolerance);
        assert_eq!((metrics.samples, metrics.steps, metrics.first_bad_step), (batch as u64, 1, None));
    }
}

#[test]
fn loss_and_gradient_match_f64() {
    check_loss(&mut cpu(), FP32);
}

#[test]
fn later_steps_do_not_hide_a_bad_step() {
    let mut lab = cpu();
    lab.backend.set_metrics(Metrics::default()).expect("metrics");
    lab.backend.set_labels(&[1]).expect("labels");
    for logits in [[0.0, 1.0], [f32::NAN, 1.0], [0.0, 1.0]] {
        let span = lab.put(Region::Arena, &logits);
        lab.run(SoftmaxCrossEntropy { classes: 2, logits: span, gradient: None });
    }
    assert_eq!(lab.backend.read_metrics().expect("metrics").first_bad_step, Some(1));
}

#[test]
fn step_losses_are_means_and_are_taken_once() {
    let mut lab = cpu();
    lab.backend.log_steps(4).expect("log");
    lab.backend.set_labels(&[0, 0]).expect("labels");
    let span = lab.put(Region::Arena, &[0.0, 0.0, 0.0, 0.0]);
    let d_span = lab.empty(Region::Arena, 4);
    let training = SoftmaxCrossEntropy { classes: 2, logits: span, gradient: Some(LossGradient::new(d_span)) };
    lab.run(training);
    // An evaluation is not logged.
    lab.run(SoftmaxCrossEntropy { gradient: None, ..training });
    let losses = lab.backend.take_step_losses().expect("losses");
    assert_eq!((losses.len(), losses[0].accuracy), (1, 1.0));
    assert!((losses[0].loss - 2.0_f32.ln()).abs() < 1e-6);
    assert!(lab.backend.take_step_losses().expect("losses").is_empty());
}

#[test]
fn a_label_outside_the_classes_is_an_error() {
    let mut lab = cpu();
    lab.backend.set_labels(&[2]).expect("labels");
    let span = lab.put(Region::Arena, &[0.0, 0.0]);
    assert!(lab.try_run(SoftmaxCrossEntropy { classes: 2, logits: span, gradient: None }).is_err());
}

/// A confident network's loss is the small difference of large numbers, which must not be rounded away.
pub fn check_confident<B: Backend>(lab: &mut Lab<B>) {
    for gap in [3.0_f32, 10.0, 12.0] {
        let span = lab.put(Region::Arena, &[30.0, 30.0 - gap]);
        lab.backend.set_metrics(Metrics::default()).expect("metrics");
        lab.backend.set_labels(&[0]).expect("labels");
        lab.run(SoftmaxCrossEntropy { classes: 2, logits: span, gradient: None });
        let (loss, expected) = (lab.backend.read_metrics().expect("metrics").loss_sum, (-f64::from(gap)).exp().ln_1p());
        // For a small x, ln(1 + x) in fp32 has the rounding error of 1 + x, 6e-8.
        assert!((loss - expected).abs() < 1e-7 + 1e-5 * expected, "{loss} instead of {expected}");
    }
}

#[test]
fn small_losses_keep_their_precision() {
    check_confident(&mut cpu());
}

/// Compares the bias gradient that the loss computes with the column sums of its gradient.
pub fn check_bias<B: Backend>(lab: &mut Lab<B>, tolerance: Tolerance) {
    for (classes, batch) in [(10, 64), (3, 5), (1, 4), (300, 9), (600, 40)] {
        lab.clear();
        let logits = lab.put(Region::Arena, &random(classes * batch, 1));
        let d_logits = lab.empty(Region::Arena, classes * batch);
        let d_bias = lab.empty(Region::Gradients, classes);
        let labels: Vec<u32> = (0..batch).map(|sample| (sample * 7 % classes) as u32).collect();
        lab.backend.set_labels(&labels).expect("labels");
        let gradient = Some(LossGradient { d_bias: Some(d_bias), ..LossGradient::new(d_logits) });
        lab.run(SoftmaxCrossEntropy { classes, logits, gradient });
        let values = lab.get(d_logits);
        let column = |class: usize| values.iter().skip(class).step_by(classes).map(|&d| f64::from(d)).sum();
        let sums: Vec<f64> = (0..classes).map(column).collect();
        compare(&format!("bias gradient of {batch}×{classes} logits"), &lab.get(d_bias), &sums, tolerance);
    }
}

#[test]
fn the_loss_computes_the_bias_gradient() {
    check_bias(&mut cpu(), FP32);
}
