//! Compares SGD with PyTorch's definition in f64, and clipping and averaging with PyTorch's numbers.

use cnn_cuda::ops::{Backend, LossScale, Region, Sgd, Span};

use serde_json::Value;

use super::lab::{Lab, random, sgd_update, sizes_with_columns};
use super::{FP32, Tolerance, compare, cpu};

/// Checks three steps of every variant. Tests of other backends use it too.
pub fn check_sgd<B: Backend>(lab: &mut Lab<B>) {
    let variants = [
        Sgd::default(),
        Sgd { weight_decay: 0.25, ..Sgd::default() },
        Sgd { momentum: 0.875, ..Sgd::default() },
        Sgd { momentum: 0.875, nesterov: true, weight_decay: 0.125, ..Sgd::default() },
    ];
    const LEN: usize = 1003;
    for op in variants {
        let span = |region| Span::new(region, 0, LEN);
        let (weights, rate) = (random(LEN, 0), 0.25);
        lab.backend.write(span(Region::Parameters), &weights).expect("write");
        lab.backend.write(span(Region::Momentum), &[0.0; LEN]).expect("write");
        lab.backend.set_learning_rates(&[rate]).expect("rate");
        if lab.backend.loss_scale().expect("scale").is_some() {
            let scale = LossScale { scale: 1.0, good_steps: 0, skipped_steps: 0 };
            lab.backend.set_loss_scale(scale).expect("scale");
        }
        let mut w: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
        let mut buffer = vec![0.0; LEN];
        for step in 0..3 {
            let gradients = random(LEN, 1 + step);
            lab.backend.write(span(Region::Gradients), &gradients).expect("write");
            lab.run(sgd_update(op, LEN));
            for ((w, b), &gradient) in w.iter_mut().zip(&mut buffer).zip(&gradients) {
                let momentum = f64::from(op.momentum);
                let g = f64::from(gradient) + f64::from(op.weight_decay) * *w;
                *b = momentum * *b + g;
                let direction = match (op.momentum == 0.0, op.nesterov) {
                    (true, _) => g,
                    (false, true) => g + momentum * *b,
                    (false, false) => *b,
                };
                *w -= f64::from(rate) * direction;
            }
        }
        compare(&format!("{op:?}"), &lab.get(span(Region::Parameters)), &w, FP32);
    }
}

/// Compares clipped steps and averages with PyTorch's, given its gradients. Tests of other backends use it too.
pub fn check_averaging<B: Backend>(lab: &mut Lab<B>) {
    let text = include_str!("../reference/averaging.json");
    let reference: Value = serde_json::from_str(text).expect("the committed reference");
    let numbers = |value: &Value| -> Vec<f32> { serde_json::from_value(value.clone()).expect("numbers") };
    let setting = |key: &str| reference["settings"][key].as_f64().expect(key);
    let initial = numbers(&reference["initial"]);
    let span = |region| Span::new(region, 0, initial.len());
    lab.backend.allocate(&sizes_with_columns(0, 0)).expect("memory");
    lab.backend.write(span(Region::Parameters), &initial).expect("write");
    // Gradients after the last parameter must not count.
    lab.backend.write(Span::new(Region::Gradients, initial.len(), 64), &[100.0; 64]).expect("write");
    if lab.backend.loss_scale().expect("scale").is_some() {
        lab.backend.set_loss_scale(LossScale { scale: 1.0, good_steps: 0, skipped_steps: 0 }).expect("scale");
    }
    lab.backend.set_learning_rates(&[setting("lr") as f32]).expect("rate");
    for (index, step) in reference["steps"].as_array().expect("steps").iter().enumerate() {
        let decay = if index == 0 { 0.0 } else { setting("decay") };
        let op = Sgd {
            momentum: setting("momentum") as f32,
            nesterov: true,
            weight_decay: setting("weight_decay") as f32,
            clip_norm: Some(setting("clip") as f32),
            average_decay: Some(decay),
            frozen: 0,
        };
        lab.backend.write(span(Region::Gradients), &numbers(&step["gradient"])).expect("write");
        lab.run(sgd_update(op, initial.len()));
        for (region, key) in [(Region::Parameters, "weight"), (Region::Average, "average")] {
            let expected: Vec<f64> = numbers(&step[key]).iter().map(|&value| value.into()).collect();
            let close = Tolerance { absolute: 5e-7, relative: 1e-6 }; // a few roundings
            compare(&format!("{key} after step {index}"), &lab.get(span(region)), &expected, close);
        }
    }
    let all = |lab: &mut Lab<B>| [Region::Parameters, Region::Average].map(|region| lab.get(span(region)));
    let [weights, average] = all(lab);
    lab.backend.swap_average().expect("swapped");
    assert_eq!(all(lab), [average, weights]);
}

/// A NaN gradient must show in all trained weights, unless a loss scale skips the step. Frozen weights must not change.
pub fn check_frozen<B: Backend>(lab: &mut Lab<B>) {
    let span = |region| Span::new(region, 0, 9);
    let op = Sgd { momentum: 0.5, weight_decay: 0.5, average_decay: Some(0.5), frozen: 5, ..Sgd::default() };
    lab.backend.allocate(&sizes_with_columns(0, 0)).expect("memory");
    for region in [Region::Parameters, Region::Gradients] {
        lab.backend.write(span(region), &[1.0; 9]).expect("write");
    }
    lab.backend.set_learning_rates(&[0.5]).expect("rate");
    if lab.backend.loss_scale().expect("scale").is_some() {
        lab.backend.set_loss_scale(LossScale { scale: 1.0, good_steps: 0, skipped_steps: 0 }).expect("scale");
    }
    lab.run(sgd_update(op, 9));
    assert_eq!(lab.get(span(Region::Parameters)), [[1.0; 5].as_slice(), &[0.25; 4]].concat());
    assert_eq!(lab.get(span(Region::Momentum)), [[0.0; 5].as_slice(), &[1.5; 4]].concat());
    assert_eq!(lab.get(span(Region::Average)), [[0.0; 5].as_slice(), &[0.125; 4]].concat());
    lab.backend.write(span(Region::Gradients), &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, f32::NAN, 1.0, 1.0]).expect("write");
    let skips = lab.backend.loss_scale().expect("scale").is_some();
    lab.run(sgd_update(Sgd { clip_norm: Some(1.0), ..op }, 9));
    let weights = lab.get(span(Region::Parameters));
    assert_eq!(weights[..5], [1.0; 5]);
    assert!(weights[5..].iter().all(|weight| weight.is_nan() != skips), "{weights:?}");
}

#[test]
fn sgd_matches_pytorch() {
    check_sgd(&mut cpu());
}

#[test]
fn clipping_and_averaging_match_pytorch_and_frozen_weights_stay() {
    check_averaging(&mut cpu());
    check_frozen(&mut cpu());
}
