//! Training in bf16 on the CPU: as close to float64 as PyTorch's bfloat16, bit-identical for any number of threads, and
//! with weights and statistics in fp32.

use std::fs;

use cnn_cuda::cpu::{Cpu, Instructions};
use cnn_cuda::models::find;
use cnn_cuda::network::Network;
use cnn_cuda::ops::Precision;
use cnn_cuda::plan::{Mode, Plan};
use cnn_cuda::train::{Hyperparameters, Trainer};
use serde_json::Value;

use super::harness::{Listener, bits, digits, logits, two_epochs};
use super::{dag, networks, parity};
use crate::ops::pytorch::Tensors;

fn cpu(threads: usize) -> Cpu {
    cpu_with(Instructions::widest(), threads)
}

fn cpu_with(set: Instructions, threads: usize) -> Cpu {
    Cpu::with_options(Some(threads), set, Precision::Bf16).expect("an available set")
}

fn reference() -> Value {
    let text = fs::read_to_string("tests/reference/bfloat16.json").expect("the committed reference");
    serde_json::from_str(&text).expect("JSON")
}

/// Asserts that the losses are about as close to float64 as PyTorch's in bfloat16, in their root mean square.
fn check_losses(what: &str, got: &[f32], run: &Value) {
    let [exact, theirs] = ["losses_float64", "losses_bfloat16"].map(|key| parity::numbers(&run[key]));
    let ours: Vec<f64> = got.iter().map(|&loss| loss.into()).collect();
    assert_eq!((ours.len(), theirs.len(), exact.len()), (50, 50, 50), "{what}");
    let distance = |losses: &[f64]| {
        let squares = losses.iter().zip(&exact).map(|(loss, exact)| ((loss - exact) / exact).powi(2));
        (squares.sum::<f64>() / 50.0).sqrt()
    };
    let (ours, theirs) = (distance(&ours), distance(&theirs));
    println!("{what}: {ours:.2e} from float64, PyTorch's bfloat16 {theirs:.2e}");
    // Rounding errors are random, so neither is always closer.
    assert!(ours > 0.0 && ours < 1.25 * theirs, "{what}: {ours:.2e} from float64, PyTorch {theirs:.2e}");
}

#[test]
fn losses_are_as_close_to_float64_as_pytorchs_bfloat16() {
    let (reference, narrow) = (reference(), parity::Narrow::new());
    for run in ["sgd", "nesterov"] {
        let expected = &reference["narrow"][run];
        for set in Instructions::available() {
            let losses = narrow.train(cpu_with(set, 2), expected, 50).1;
            check_losses(&format!("narrow, {run}, {}", set.name()), &losses, expected);
        }
        let expected = &reference["mnist"][run];
        let Some(losses) = parity::train_on_mnist(cpu(2), expected, 50) else { return };
        check_losses(&format!("mnist-cnn, {run}"), &losses, expected);
    }
}

/// Weights and losses after a few steps on the digits, as bits.
fn few_steps(network: &Network, threads: usize) -> (Vec<u32>, Vec<u32>) {
    let hyper = Hyperparameters { max_steps: Some(3), ..two_epochs() };
    let mut trainer = Trainer::new(cpu(threads), network.clone(), digits(340, 150), hyper).expect("a trainer");
    let mut listener = Listener::default();
    trainer.run(&mut listener).expect("a run");
    (bits(&trainer.parameters().expect("read")), bits(&listener.losses))
}

#[test]
fn runs_are_bit_identical_for_any_number_of_threads() {
    for name in ["lenet5", "mnist-cnn"] {
        let model = find(name).expect("a known model");
        let network = (model.build)(model.input, model.classes).expect("a network");
        let one = few_steps(&network, 1);
        assert!(one == few_steps(&network, 2) && one == few_steps(&network, 5), "{name}");
    }
}

/// The logits of narrow networks with PyTorch's weights, in evaluation.
#[test]
fn logits_are_about_as_close_to_fp32_as_pytorchs_bfloat16() {
    let reference = reference();
    let bytes = fs::read("tests/reference/networks.safetensors").expect("the committed reference");
    let tensors = Tensors::new(&bytes);
    for network in networks::networks() {
        let (weights, inputs) = (networks::weights(&network, &tensors), networks::inputs(&network, &tensors));
        let plan = Plan::new(&network, Mode::Inference, 4).expect("a plan");
        let exact = logits(&mut Cpu::new(Some(2)).expect("threads"), &plan, &weights, &inputs);
        let rounded = logits(&mut cpu(2), &plan, &weights, &inputs);
        let norm = |values: &[f32]| values.iter().map(|value| f64::from(value * value)).sum::<f64>().sqrt();
        let error: Vec<f32> = rounded.iter().zip(&exact).map(|(rounded, exact)| rounded - exact).collect();
        let relative = norm(&error) / norm(&exact);
        let theirs = reference["logits"][&network.name].as_f64().expect("an error");
        println!("{}: {relative:.1e}, PyTorch's bfloat16 {theirs:.1e}", network.name);
        // Convolutions with activations are rounded in other places.
        assert!(relative > 0.0 && relative < 1.5 * theirs, "{}: {relative:.1e}, not {theirs:.1e}", network.name);
    }
}

#[test]
fn a_branching_graph_learns() {
    dag::check_learns(cpu(2));
}
