//! The optimisers in whole runs: 1,000 steps against PyTorch, parameter groups, and runs that are interrupted.

use std::fs;

use cnn_cuda::checkpoint::{RunIdentity, load_state, save_state};
use cnn_cuda::cpu::Cpu;
use cnn_cuda::network::{Builder, Conv2dOptions, FirstLayer, GroupRules, MuonGroups, Network};
use cnn_cuda::ops::{Activation, Adam, Backend, Muon, Optimizer, Rule, Sgd};
use cnn_cuda::shape::Shape;
use cnn_cuda::train::{Hyperparameters, Outcome, TrainState, Trainer};
use safetensors::SafeTensors;
use serde_json::Value;

use super::harness::{Listener, bits, dataset, digits, hyperparameters, lenet5, two_epochs};
use super::parity::from_tensors;
use crate::ops::pytorch::Tensors;
use crate::ops::{Tolerance, compare};

const STEPS: u64 = 1000;
/// Every loss of so many is in the reference.
const EVERY: usize = 50;

/// PyTorch's float32 is up to 3.1e-5 from its float64 (`float32_against_float64` in the description), because Adam
/// divides small gradients by small denominators, and Muon enlarges small singular values; five times that allows for
/// another order of the sums.
const WEIGHTS: Tolerance = Tolerance { absolute: 1.5e-4, relative: 1e-5 };
const LOSSES: Tolerance = Tolerance { absolute: 0.0, relative: 2e-5 };

/// The network of `tests/reference/optimizers.py`.
fn network() -> Network {
    let mut net = Builder::new("small", Shape::new(8, 8, 1));
    let options = Conv2dOptions { out_channels: 5, padding: 1, bias: false, ..Default::default() };
    let mut x = net.conv2d("conv1", 0, options).expect("conv1");
    x = net.batch_norm2d("bn1", x).expect("bn1");
    x = net.activation(x, Activation::Tanh).expect("tanh");
    x = net.conv2d("conv2", x, Conv2dOptions { out_channels: 6, stride: 2, ..Default::default() }).expect("conv2");
    x = net.activation(x, Activation::Tanh).expect("tanh");
    x = net.flatten(x);
    x = net.linear("fc1", x, 7).expect("fc1");
    x = net.activation(x, Activation::Tanh).expect("tanh");
    net.linear("fc2", x, 3).expect("fc2");
    net.finish().expect("a network")
}

/// The settings of a run of the reference.
fn settings(run: &Value) -> (Hyperparameters, GroupRules) {
    let number = |key: &str| run[key].as_f64().map(|number| number as f32);
    let usual = Muon::default();
    let momentum = number("momentum").unwrap_or(usual.momentum);
    let sgd = Sgd { momentum: number("sgd_momentum").unwrap_or(usual.sgd.momentum), nesterov: true };
    let iterations = run["ns_steps"].as_u64().map_or(usual.iterations, |steps| steps as u32);
    let normalises = run["normalise"] == true;
    let muon = Muon { momentum, nesterov: true, iterations, normalises, sgd };
    let is_adamw = match run["optimizer"].as_str() {
        Some("sgd" | "muon") => None,
        Some("adam") => Some(false),
        Some("adamw") => Some(true),
        other => panic!("{other:?}"),
    };
    let usual = Adam::default();
    let betas = serde_json::from_value(run["betas"].clone()).unwrap_or(usual.betas);
    let rule = match is_adamw {
        None if run["optimizer"] == "muon" => Rule::Muon(muon),
        None => Rule::sgd(momentum, true),
        Some(decoupled) => Rule::Adam(Adam { betas, epsilon: number("eps").unwrap_or(usual.epsilon), decoupled }),
    };
    let (weight_decay, clip_norm) = (number("weight_decay").unwrap_or(0.0), number("clip"));
    let hyper = Hyperparameters {
        optimizer: Optimizer { rule, weight_decay, clip_norm, ..Optimizer::default() },
        label_smoothing: 0.1,
        epochs: u32::MAX,
        max_steps: Some(STEPS),
        ..hyperparameters(8, number("lr").expect("lr"))
    };
    let rules = GroupRules {
        decay_norm_bias: run["decay_norm_bias"].as_bool().unwrap_or(true),
        head_rate_scale: number("head_lr_scale").unwrap_or(1.0),
        bias_rate_scale: number("bias_lr_scale").unwrap_or(1.0),
        unscaled_decay: run["unscaled_decay"] == true,
        muon: number("sgd_lr").map(|rate| MuonGroups {
            sgd_rate_scale: rate / hyper.learning_rate.rate,
            decays: run["normalise"] != true,
        }),
    };
    (hyper, rules)
}

/// Trains as PyTorch did in float64, on any backend, and compares losses and final weights.
fn check_against_pytorch<B: Backend>(backend: impl Fn() -> B) {
    let bytes = fs::read("tests/reference/optimizers.safetensors").expect("the committed reference");
    let tensors = Tensors::new(&bytes);
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
    let description = &header.metadata().as_ref().expect("metadata")["description"];
    let description: Value = serde_json::from_str(description).expect("a description");
    let labels: Vec<u32> = tensors.integers("labels").iter().map(|&label| label as u32).collect();
    let runs = description["runs"].as_object().expect("runs");
    assert!(runs.len() >= 7);
    for (name, run) in runs {
        let (hyper, rules) = settings(run);
        let network = network().with_groups(rules).expect("groups");
        let set = dataset(network.input(), 3, tensors.bytes("images").to_vec(), labels.clone());
        let mut trainer = Trainer::new(backend(), network.clone(), set, hyper).expect("a trainer");
        let initial = from_tensors(&network, |parameter| tensors.get(&format!("initial.{parameter}")).0);
        trainer.set_parameters(&initial).expect("weights");
        let mut listener = Listener::default();
        trainer.run(&mut listener).expect("a run");
        let expected: Vec<f64> = tensors.get(&format!("losses.{name}")).0.into_iter().map(f64::from).collect();
        let losses: Vec<f32> = listener.losses.iter().copied().step_by(EVERY).collect();
        compare(&format!("{name} losses"), &losses, &expected, LOSSES);
        let last = from_tensors(&network, |parameter| tensors.get(&format!("final.{name}.{parameter}")).0);
        let last: Vec<f64> = last.into_iter().map(f64::from).collect();
        compare(&format!("{name} weights"), &trainer.parameters().expect("weights"), &last, WEIGHTS);
    }
}

#[test]
fn a_thousand_steps_of_every_optimiser_give_pytorchs_weights() {
    check_against_pytorch(|| Cpu::new(Some(2)).expect("two threads"));
}

/// Optimisers with state, clipping, an average and groups.
fn variants() -> Vec<(Hyperparameters, GroupRules)> {
    let adam = |decoupled| Rule::Adam(Adam { decoupled, ..Adam::default() });
    let usual = Optimizer { weight_decay: 0.01, ..Optimizer::default() };
    let hyper = |optimizer| Hyperparameters { optimizer, ..two_epochs() };
    let (head_rate_scale, bias_rate_scale) = (3.0, 2.0);
    let groups = GroupRules { decay_norm_bias: false, head_rate_scale, bias_rate_scale, ..GroupRules::default() };
    let muon = |decays| Some(MuonGroups { sgd_rate_scale: 2.0, decays });
    let normalised = Muon { normalises: true, iterations: 3, ..Muon::default() };
    let averaged = Optimizer { clip_norm: Some(0.5), average_decay: Some(0.9), rule: adam(true), ..usual };
    vec![
        (hyper(Optimizer { rule: adam(false), ..usual }), GroupRules::default()),
        (hyper(averaged), groups),
        (hyper(Optimizer { rule: Rule::sgd(0.9, true), ..usual }), groups),
        (hyper(Optimizer { rule: Rule::Muon(Muon::default()), ..usual }), GroupRules { muon: muon(true), ..groups }),
        (
            hyper(Optimizer { rule: Rule::Muon(normalised), ..usual }),
            GroupRules { decay_norm_bias: true, unscaled_decay: true, muon: muon(false), ..groups },
        ),
    ]
}

fn trainer(threads: usize, (hyper, rules): (Hyperparameters, GroupRules)) -> Trainer<Cpu> {
    let network = lenet5().with_groups(rules).expect("groups");
    Trainer::new(Cpu::new(Some(threads)).expect("threads"), network, digits(340, 150), hyper).expect("a trainer")
}

/// Runs to the end. Returns the final state, without the time.
fn finish(mut trainer: Trainer<Cpu>) -> TrainState {
    assert_eq!(trainer.run(&mut Listener::default()).expect("a run"), Outcome::Finished);
    TrainState { epoch_seconds: 0.0, ..trainer.state().expect("a state") }
}

#[test]
fn runs_of_every_optimiser_resume_bit_identical_with_any_number_of_threads() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.safetensors");
    let identity = RunIdentity { model: "lenet5".into(), batch_size: 32, ..RunIdentity::default() };
    for variant in variants() {
        let whole = finish(trainer(2, variant));
        assert_eq!((whole.update_count, whole.position.total_steps), (22, 22));
        assert!(finish(trainer(1, variant)) == whole && finish(trainer(3, variant)) == whole, "{variant:?}");
        for stop in [0, 1, 11, 17] {
            let mut first = trainer(2, variant);
            let mut before = Listener { stop_after: Some(stop), ..Listener::default() };
            assert_eq!(first.run(&mut before).expect("a run"), Outcome::Interrupted);
            let state = first.state().expect("a state");
            save_state(&path, &first.network, &identity, &state).expect("saved");
            let mut second = trainer(1, variant);
            let loaded = load_state(&path, &second.network, &identity).expect("loaded");
            assert_eq!(loaded.update_count, stop);
            second.restore(&loaded).expect("restored");
            assert!(finish(second) == whole, "{variant:?} stopped after {stop}");
        }
    }
}

/// A checkpoint has its tensors by name, so its values do not depend on the order of parameters in memory.
#[test]
fn a_checkpoint_does_not_depend_on_the_order_in_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.safetensors");
    let identity = RunIdentity { model: "lenet5".into(), batch_size: 32, ..RunIdentity::default() };
    let (hyper, rules) = variants()[1];
    let mut grouped = trainer(2, (hyper, rules));
    grouped.run(&mut Listener { stop_after: Some(5), ..Listener::default() }).expect("a run");
    let state = grouped.state().expect("a state");
    save_state(&path, &grouped.network, &identity, &state).expect("saved");
    let plain = load_state(&path, &lenet5(), &identity).expect("loaded");
    for (parameter, there) in lenet5().parameters.iter().zip(&grouped.network.parameters) {
        assert_eq!(parameter.name, there.name);
        for (flat, moved) in [
            (&plain.parameters, &state.parameters),
            (&plain.momentum, &state.momentum),
            (&plain.second_moment, &state.second_moment),
            (&plain.average, &state.average),
        ] {
            assert_eq!(bits(&flat[parameter.range()]), bits(&moved[there.range()]), "{}", parameter.name);
        }
    }
    assert!(lenet5().parameters.iter().zip(&grouped.network.parameters).any(|(a, b)| a.offset != b.offset));
}

/// Groups whose factors are 1 change nothing, and neither does their order in memory.
#[test]
fn groups_do_not_change_a_run_that_does_not_distinguish_them() {
    let ordered = GroupRules { decay_norm_bias: false, ..GroupRules::default() };
    for (hyper, _) in variants().into_iter().filter(|(hyper, _)| !matches!(hyper.optimizer.rule, Rule::Muon(_))) {
        // Without clipping, whose norm is a sum in the order of memory.
        let optimizer = Optimizer { weight_decay: 0.0, clip_norm: None, ..hyper.optimizer };
        let hyper = Hyperparameters { optimizer, ..hyper };
        let (mut plain, mut grouped) = (trainer(2, (hyper, GroupRules::default())), trainer(2, (hyper, ordered)));
        for trainer in [&mut plain, &mut grouped] {
            trainer.run(&mut Listener::default()).expect("a run");
        }
        let [flat, moved] = [&mut plain, &mut grouped].map(|it| it.parameters().expect("read"));
        assert_ne!(bits(&flat), bits(&moved), "the order is the same, so the test checks nothing");
        for (parameter, there) in plain.network.parameters.iter().zip(&grouped.network.parameters) {
            assert_eq!(bits(&flat[parameter.range()]), bits(&moved[there.range()]), "{}", parameter.name);
        }
    }
}

#[test]
fn frozen_filters_stay_first_in_memory_and_unchanged() {
    let (hyper, rules) = variants()[1];
    let frozen = lenet5().with_first_layer(FirstLayer::GaborFrozen).expect("a convolution");
    let network = frozen.with_groups(rules).expect("groups");
    let (initial, len) = (network.initial_parameters(0), network.frozen_len());
    assert!(network.parameters[0].offset == 0 && len == network.parameters[0].len());
    let backend = Cpu::new(Some(2)).expect("threads");
    let state = finish(Trainer::new(backend, network, digits(340, 150), hyper).expect("a trainer"));
    for values in [&state.parameters, &state.average] {
        assert_eq!(bits(&values[..len]), bits(&initial[..len]));
        assert!(values[len..] != initial[len..]);
    }
    assert!(state.momentum[..len].iter().chain(&state.second_moment[..len]).all(|&value| value == 0.0));
}

#[test]
fn groups_that_are_not_those_of_the_optimiser_are_refused() {
    let muon = Hyperparameters {
        optimizer: Optimizer { rule: Rule::Muon(Muon::default()), ..Optimizer::default() },
        ..two_epochs()
    };
    let matrices = Some(MuonGroups { sgd_rate_scale: 2.0, decays: true });
    let matrices = GroupRules { muon: matrices, ..GroupRules::default() };
    for (hyper, rules) in [(muon, GroupRules::default()), (two_epochs(), matrices)] {
        let network = lenet5().with_groups(rules).expect("groups");
        let result = Trainer::new(Cpu::new(Some(1)).expect("a thread"), network, digits(340, 150), hyper);
        let message = format!("{:#}", result.err().expect("other groups"));
        assert!(message.contains("groups"), "{message}");
    }
}

#[test]
fn a_state_of_another_optimiser_is_refused_and_changes_nothing() {
    let (adam, sgd) = (variants()[0], variants()[2]);
    for (from, to, words) in [(adam, sgd, "another optimiser than SGD"), (sgd, adam, "another optimiser than Adam")] {
        let state = trainer(1, from).state().expect("a state");
        let mut other = trainer(1, to);
        let before = other.state().expect("a state");
        let message = format!("{:#}", other.restore(&state).expect_err("another optimiser"));
        assert!(message.contains(words), "{message}");
        assert!(other.state().expect("a state") == before);
    }
}
