//! Compares the optimisers with PyTorch's definitions in f64, and clipping and averaging with PyTorch's numbers.

use cnn_cuda::ops::{Adam, Backend, Group, Groups, LossScale, Optimizer, Region, Rule, Span};
use serde_json::Value;

use super::lab::{Lab, grouped_update, optimizer_update, random, sizes_with_columns};
use super::{FP32, Tolerance, compare, cpu};

const LEN: usize = 1003;

/// Groups whose boundaries are within and between vectors of four, one of them of a single parameter.
fn groups() -> Groups {
    let scaled = |end, rate_scale, decay_scale| Group { rate_scale, decay_scale, ..Group::plain(end) };
    let groups = [
        Group::frozen(6),
        scaled(7, 0.5, 0.0),
        scaled(313, 2.0, 1.0),
        Group::frozen(316),
        Group::plain(317),
        Group::frozen(500),
        scaled(802, 0.125, 0.0),
    ];
    Groups::new(&groups).expect("seven groups")
}

/// Every rule, without groups and with them.
fn variants() -> Vec<(Optimizer, Groups)> {
    let adam = |betas, decoupled| Rule::Adam(Adam { betas, decoupled, ..Adam::default() });
    let plain = Optimizer::default();
    let rules = [
        plain,
        Optimizer { weight_decay: 0.25, ..plain },
        Optimizer { rule: Rule::sgd(0.875, false), ..plain },
        Optimizer { rule: Rule::sgd(0.875, true), weight_decay: 0.125, ..plain },
        Optimizer { rule: adam([0.9, 0.999], false), ..plain },
        Optimizer { rule: adam([0.75, 0.875], false), weight_decay: 0.125, ..plain },
        Optimizer { rule: adam([0.9, 0.999], true), weight_decay: 0.25, ..plain },
        Optimizer { rule: Rule::Adam(Adam { betas: [0.0, 0.0], epsilon: 0.125, decoupled: true }), ..plain },
    ];
    let grouped = rules.map(|op| (Optimizer { average_decay: Some(0.75), ..op }, groups()));
    rules.map(|op| (op, Groups::default())).into_iter().chain(grouped).collect()
}

/// One parameter and its state, in f64.
#[derive(Clone, Copy, Default)]
struct Reference {
    weight: f64,
    /// Momentum, or Adam's first moment.
    first: f64,
    second: f64,
    average: f64,
}

impl Reference {
    /// PyTorch's update number `step`, counted from 1, of a parameter of a group.
    fn update(&mut self, op: &Optimizer, group: &Group, step: i32, rate: f64, gradient: f64) {
        if group.frozen {
            return;
        }
        let decay = f64::from(group.decay_scale) * f64::from(op.weight_decay);
        let rate = rate * f64::from(group.rate_scale);
        match op.rule {
            Rule::Sgd(sgd) => {
                let momentum = f64::from(sgd.momentum);
                let g = gradient + decay * self.weight;
                self.first = momentum * self.first + g;
                self.weight -= rate * if sgd.nesterov { g + momentum * self.first } else { self.first };
            }
            Rule::Adam(adam) => {
                let [first, second] = adam.betas;
                let g = if adam.decoupled { gradient } else { gradient + decay * self.weight };
                self.first = first * self.first + (1.0 - first) * g;
                self.second = second * self.second + (1.0 - second) * g * g;
                if adam.decoupled {
                    self.weight *= 1.0 - rate * decay;
                }
                let root = self.second.sqrt() / (1.0 - second.powi(step)).sqrt();
                self.weight -= rate / (1.0 - first.powi(step)) * self.first / (root + f64::from(adam.epsilon));
            }
            Rule::Muon(_) => unreachable!("Muon has tests of its own"),
        }
        let average = op.average_decay.unwrap_or(0.0);
        self.average = average * self.average + (1.0 - average) * self.weight;
    }
}

/// A region of an optimiser's results, and its value.
type Results = (Region, fn(&Reference) -> f64);

const RESULTS: [Results; 4] = [
    (Region::Parameters, |it| it.weight),
    (Region::Momentum, |it| it.first),
    (Region::SecondMoment, |it| it.second),
    (Region::Average, |it| it.average),
];

pub fn unit_loss_scale<B: Backend>(lab: &mut Lab<B>) -> bool {
    let has_loss_scale = lab.backend.loss_scale().expect("scale").is_some();
    let scale = LossScale { scale: 1.0, good_steps: 0, skipped_steps: 0 };
    lab.backend.set_loss_scale(scale).expect("scale");
    has_loss_scale
}

/// Checks three steps of every variant, with different learning rates. With a loss scale, a step that overflows comes
/// between them: it changes nothing and is not counted. Tests of other backends use it too.
pub fn check_rules<B: Backend>(lab: &mut Lab<B>) {
    let span = |region| Span::new(region, 0, LEN);
    for (op, groups) in variants() {
        let weights = random(LEN, 0);
        lab.backend.write(span(Region::Parameters), &weights).expect("write");
        for region in [Region::Momentum, Region::SecondMoment, Region::Average] {
            lab.backend.write(span(region), &[0.0; LEN]).expect("write");
        }
        lab.backend.set_update_count(0).expect("count");
        let skips = unit_loss_scale(lab);
        let rates = [0.25, 0.125, 0.0625];
        let mut all: Vec<Reference> =
            weights.iter().map(|&w| Reference { weight: w.into(), ..Reference::default() }).collect();
        let ranges = groups.ranges(LEN);
        let group = |at| ranges.iter().find(|(range, _)| range.contains(&at)).expect("a group").1;
        for (step, rate) in (1..).zip(rates) {
            lab.backend.set_learning_rates(&[rate]).expect("rate");
            let mut gradients = random(LEN, step);
            if skips && step == 2 {
                let before = RESULTS.map(|(region, _)| lab.get(span(region)));
                gradients[7] = f32::INFINITY;
                lab.backend.write(span(Region::Gradients), &gradients).expect("write");
                lab.run(grouped_update(op, groups, LEN));
                assert!(RESULTS.map(|(region, _)| lab.get(span(region))) == before, "{op:?}: the step was not skipped");
                gradients = random(LEN, step);
                unit_loss_scale(lab);
            }
            lab.backend.write(span(Region::Gradients), &gradients).expect("write");
            lab.run(grouped_update(op, groups, LEN));
            for (at, (it, &gradient)) in all.iter_mut().zip(&gradients).enumerate() {
                it.update(&op, &group(at), step as i32, rate.into(), gradient.into());
            }
        }
        assert_eq!(lab.backend.update_count().expect("count"), 3, "{op:?}");
        let in_use = [true, op.rule.has_momentum(), op.rule.has_second_moment(), op.average_decay.is_some()];
        for ((region, value), _) in RESULTS.into_iter().zip(in_use).filter(|(_, in_use)| *in_use) {
            let expected: Vec<f64> = all.iter().map(value).collect();
            compare(&format!("{region:?} of {op:?}"), &lab.get(span(region)), &expected, FP32);
        }
    }
}

/// The bias corrections of Adam depend on the number of updates before, far beyond what f32 could count.
pub fn check_late_update<B: Backend>(lab: &mut Lab<B>) {
    let span = |region| Span::new(region, 0, 5);
    for updates in [9, 999, 123_456, (1 << 40) + 12345] {
        for (region, value) in [(Region::Parameters, 1.0), (Region::Momentum, 0.5), (Region::SecondMoment, 0.25)] {
            lab.backend.write(span(region), &[value; 5]).expect("write");
        }
        unit_loss_scale(lab);
        lab.backend.set_update_count(updates).expect("count");
        lab.backend.set_learning_rates(&[0.5]).expect("rate");
        lab.backend.write(span(Region::Gradients), &[0.5; 5]).expect("write");
        let op = Optimizer { rule: Rule::Adam(Adam::default()), ..Optimizer::default() };
        lab.run(optimizer_update(op, 5));
        let corrections = [0.9f64, 0.999].map(|beta| 1.0 - (beta.ln() * (updates + 1) as f64).exp());
        let expected = 1.0 - 0.5 * 0.5 / corrections[0] / (0.5 / corrections[1].sqrt());
        compare(&format!("after {updates} updates"), &lab.get(span(Region::Parameters)), &[expected; 5], FP32);
        assert_eq!(lab.backend.update_count().expect("count"), updates + 1);
    }
}
/// Compares clipped steps and averages with PyTorch's, given its gradients. Tests of other backends use it too.
pub fn check_averaging<B: Backend>(lab: &mut Lab<B>) {
    check_average(lab, "decay", "average", false);
    check_average(lab, "warm_decay", "warm_average", true);
}

/// Compares the average of a name, with the decay of a name.
fn check_average<B: Backend>(lab: &mut Lab<B>, decay: &str, average: &str, average_warm_up: bool) {
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
    unit_loss_scale(lab);
    lab.backend.set_update_count(0).expect("count");
    lab.backend.set_learning_rates(&[setting("lr") as f32]).expect("rate");
    for (index, step) in reference["steps"].as_array().expect("steps").iter().enumerate() {
        let decay = if index == 0 { 0.0 } else { setting(decay) };
        let op = Optimizer {
            rule: Rule::sgd(setting("momentum") as f32, true),
            weight_decay: setting("weight_decay") as f32,
            clip_norm: Some(setting("clip") as f32),
            average_decay: Some(decay),
            average_warm_up,
        };
        lab.backend.write(span(Region::Gradients), &numbers(&step["gradient"])).expect("write");
        lab.run(optimizer_update(op, initial.len()));
        for (region, key) in [(Region::Parameters, "weight"), (Region::Average, average)] {
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

/// The gradients of frozen parameters do not count for the norm, at any alignment.
pub fn check_clipping_of_frozen<B: Backend>(lab: &mut Lab<B>) {
    lab.backend.allocate(&sizes_with_columns(0, 0)).expect("memory");
    unit_loss_scale(lab);
    lab.backend.set_learning_rates(&[1.0]).expect("rate");
    let op = Optimizer { clip_norm: Some(1.0), ..Optimizer::default() };
    for frozen in 0..9 {
        let span = |region| Span::new(region, 0, frozen + 2);
        let gradients = [vec![100.0; frozen], vec![3.0, 4.0]].concat();
        lab.backend.write(span(Region::Parameters), &vec![0.0; frozen + 2]).expect("write");
        lab.backend.write(span(Region::Gradients), &gradients).expect("write");
        lab.run(grouped_update(op, Groups::frozen(frozen), frozen + 2));
        // The norm is 5, and 1e-6 is added to it.
        let expected = [vec![0.0; frozen], vec![-3.0 / 5.000_001, -4.0 / 5.000_001]].concat();
        compare(&format!("{frozen} frozen"), &lab.get(span(Region::Parameters)), &expected, FP32);
    }
}

#[test]
fn frozen_gradients_do_not_count_for_clipping() {
    check_clipping_of_frozen(&mut cpu());
}

/// A NaN gradient must show in all trained weights, unless a loss scale skips the step. Frozen weights must not change.
pub fn check_frozen<B: Backend>(lab: &mut Lab<B>) {
    let span = |region| Span::new(region, 0, 9);
    let op =
        Optimizer { rule: Rule::sgd(0.5, false), weight_decay: 0.5, average_decay: Some(0.5), ..Optimizer::default() };
    lab.backend.allocate(&sizes_with_columns(0, 0)).expect("memory");
    for region in [Region::Parameters, Region::Gradients] {
        lab.backend.write(span(region), &[1.0; 9]).expect("write");
    }
    lab.backend.set_learning_rates(&[0.5]).expect("rate");
    unit_loss_scale(lab);
    let frozen = Groups::frozen(5);
    lab.run(grouped_update(op, frozen, 9));
    assert_eq!(lab.get(span(Region::Parameters)), [[1.0; 5].as_slice(), &[0.25; 4]].concat());
    assert_eq!(lab.get(span(Region::Momentum)), [[0.0; 5].as_slice(), &[1.5; 4]].concat());
    assert_eq!(lab.get(span(Region::Average)), [[0.0; 5].as_slice(), &[0.125; 4]].concat());
    lab.backend.write(span(Region::Gradients), &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, f32::NAN, 1.0, 1.0]).expect("write");
    let skips = lab.backend.loss_scale().expect("scale").is_some();
    lab.run(grouped_update(Optimizer { clip_norm: Some(1.0), ..op }, frozen, 9));
    let weights = lab.get(span(Region::Parameters));
    assert_eq!(weights[..5], [1.0; 5]);
    assert!(weights[5..].iter().all(|weight| weight.is_nan() != skips), "{weights:?}");
}

#[test]
fn every_rule_matches_pytorch() {
    check_rules(&mut cpu());
    check_late_update(&mut cpu());
}

#[test]
fn groups_cover_all_parameters_once() {
    let ranges = |groups: &[Group], len| {
        let ranges = Groups::new(groups).expect("groups").ranges(len);
        ranges.into_iter().map(|(range, group)| (range, group.frozen)).collect::<Vec<_>>()
    };
    let frozen = |end| Group::frozen(end);
    assert_eq!(ranges(&[], 5), [(0..5, false)]);
    assert_eq!(ranges(&[frozen(0)], 5), [(0..5, false)]);
    assert_eq!(ranges(&[frozen(2), Group::plain(2), frozen(4)], 5), [(0..2, true), (2..4, true), (4..5, false)]);
    assert_eq!(ranges(&[frozen(3), Group::plain(9)], 5), [(0..3, true), (3..5, false)]);
    assert_eq!(ranges(&[frozen(9)], 5), [(0..5, true)]);
    assert_eq!(ranges(&[frozen(9)], 0), []);
    assert!(Groups::new(&[frozen(3), frozen(2)]).is_err());
    assert!(Groups::new(&[frozen(1); 9]).is_err());
}

#[test]
fn clipping_and_averaging_match_pytorch_and_frozen_weights_stay() {
    check_averaging(&mut cpu());
    check_frozen(&mut cpu());
}
