//! A network with dropout, an auxiliary head, local response normalisation and poolings of all kinds: its gradients,
//! its evaluation, and reproducible runs.

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::network::{Builder, Conv2dOptions, Network};
use cnn_cuda::ops::{Activation, AnyLayer, Backend, Lrn, Op, Precision};
use cnn_cuda::plan::{Mode, Plan, Sequence, TrainSettings};
use cnn_cuda::shape::{Shape, Window};
use cnn_cuda::train::{Hyperparameters, Outcome, Trainer};

use super::dag::check_gradients_of;
use super::harness::{Listener, bits, dataset, logits, two_epochs};
use crate::ops::cuda::options;
use crate::support::cuda::on_cuda;

pub fn network(input: Shape) -> Network {
    let mut net = Builder::new("assorted", input);
    let leaky = Activation::LeakyRelu { slope: 0.5 };
    let conv = |out_channels| Conv2dOptions { out_channels, padding: 1, ..Default::default() };
    let mut x = net.conv2d("a", 0, conv(6)).expect("a");
    x = net.activation(x, leaky).expect("activation");
    x = net.max_pool2d_ceil(x, Window { kernel: 3, stride: 2, padding: 0 }).expect("pool");
    x = net.layer(x, AnyLayer::Lrn(Lrn { input: net.shape(x), size: 3, alpha: 0.5, beta: 0.75, k: 1.0 })).expect("lrn");
    x = net.conv2d("b", x, conv(4)).expect("b");
    x = net.activation(x, leaky).expect("activation");
    let mut side = net.adaptive_avg_pool2d(x, 2, 2).expect("pool");
    side = net.flatten(side);
    side = net.dropout(side, 0.2).expect("dropout");
    side = net.linear("side", side, 10).expect("side");
    net.auxiliary(side, 0.3);
    x = net.adaptive_avg_pool2d(x, 3, 3).expect("pool");
    x = net.flatten(x);
    x = net.dropout(x, 0.3).expect("dropout");
    x = net.linear("fc1", x, 12).expect("fc1");
    x = net.activation(x, leaky).expect("activation");
    x = net.dropout(x, 0.5).expect("dropout");
    net.linear("fc2", x, 10).expect("fc2");
    net.finish().expect("a network")
}

#[test]
fn gradients_match_finite_differences_of_the_total_loss() {
    check_gradients_of(&mut Cpu::new(Some(2)).expect("two threads"), &network(Shape::new(10, 9, 2)));
}

#[test]
fn gradients_match_finite_differences_of_the_total_loss_on_cuda() {
    on_cuda(|| check_gradients_of(&mut cuda(true), &network(Shape::new(10, 9, 2))));
}

#[test]
fn evaluation_has_neither_dropout_nor_auxiliary_heads() {
    let network = network(Shape::new(10, 9, 2));
    let plan = Plan::new(&network, Mode::Inference, 3).expect("a plan");
    let labels = |plan: &Plan| plan.forward.iter().map(|step| step.label.clone()).collect::<Vec<_>>();
    let losses = |plan: &Plan, sequence| -> Vec<String> {
        let steps = plan.sequence(&sequence).into_iter();
        steps.filter(|step| matches!(step.op, Op::SoftmaxCrossEntropy(_))).map(|step| step.label).collect()
    };
    assert_eq!(losses(&plan, Sequence::EvaluateStep), ["loss"]);
    assert!(labels(&plan).iter().all(|label| !label.contains("side") && !label.contains("dropout")));
    let training = Plan::new(&network, Mode::Training, 3).expect("a plan");
    assert_eq!(losses(&training, Sequence::TrainStep(TrainSettings::default())), ["loss", "auxiliary loss"]);
    let dropouts = |plan: &Plan| plan.forward.iter().filter(|step| matches!(step.op, Op::DropoutPass(_))).count();
    assert_eq!(dropouts(&training), 3);
    let none = Plan::new(&network.clone().with_dropout(0.0), Mode::Training, 3).expect("a plan");
    assert_eq!(dropouts(&none), 0);
    assert_eq!(network.parameter_count() - network.evaluated_parameter_count(), 16 * 10 + 10);

    // The plan without dropout gives the same logits in training and in evaluation.
    let (weights, input) = (network.initial_weights(0), crate::ops::lab::random(3 * network.input().len(), 0));
    let logits = [none, plan].map(|plan| logits(&mut Cpu::new(Some(1)).expect("a thread"), &plan, &weights, &input));
    assert_eq!(logits[0], logits[1]);
}

#[test]
fn invalid_heads_and_dropout_rates_are_errors() {
    let mut net = Builder::new("heads", Shape::flat(3));
    let side = net.linear("side", 0, 4).expect("side");
    net.auxiliary(side, 0.3);
    net.linear("fc", 0, 5).expect("fc");
    assert!(net.finish().unwrap_err().to_string().contains("side has 4"));
    let mut net = Builder::new("dropout", Shape::flat(3));
    assert!(net.dropout(0, 1.0).is_err() && net.dropout(0, -0.1).is_err() && net.dropout(0, f32::NAN).is_err());
}

fn cuda(graphs: bool) -> Cuda {
    Cuda::new(Options { graphs, ..options(Precision::Fp32) }).expect("a CUDA device")
}

fn trainer<B: Backend>(backend: B) -> Trainer<B> {
    let hyper = Hyperparameters { label_smoothing: 0.1, batch_size: 6, ..two_epochs() };
    let shape = Shape::new(9, 8, 1);
    let images = (0..16 * shape.len()).map(|i| (i * 71 % 251) as u8).collect();
    let set = dataset(shape, 10, images, (0..16).map(|i| i * 7 % 10).collect());
    Trainer::new(backend, network(shape), set, hyper).expect("a trainer")
}

/// Losses and weights of a run that, if `stop_after` is given, is interrupted after that many steps and resumed in a
/// new trainer.
fn run<B: Backend>(backend: impl Fn() -> B, stop_after: Option<u64>) -> (Vec<f32>, Vec<u32>) {
    let mut first = trainer(backend());
    let mut before = Listener { stop_after, ..Listener::default() };
    if first.run(&mut before).expect("a run") == Outcome::Finished {
        return (before.losses, bits(&first.parameters().expect("read")));
    }
    let mut second = trainer(backend());
    second.restore(&first.state().expect("a state")).expect("restored");
    let mut after = Listener::default();
    second.run(&mut after).expect("a run");
    ([before.losses, after.losses].concat(), bits(&second.parameters().expect("read")))
}

#[test]
fn runs_are_bit_identical_for_any_number_of_threads_and_when_resumed() {
    let on_cpu = |threads| move || Cpu::new(Some(threads)).expect("threads");
    let whole = run(on_cpu(1), None);
    assert_eq!(whole.0.len(), 6);
    assert!(whole == run(on_cpu(3), None));
    // In the middle of the second epoch.
    assert!(whole == run(on_cpu(1), Some(4)));
}

#[test]
fn cuda_runs_use_the_cpus_dropout_masks_in_graphs_and_when_resumed() {
    on_cuda(|| {
        let with_graphs = run(|| cuda(true), None);
        assert!(with_graphs == run(|| cuda(false), Some(4)), "graphs or an interruption change the run");
        let expected = run(|| Cpu::new(Some(1)).expect("a thread"), None);
        for (step, (got, expected)) in with_graphs.0.iter().zip(&expected.0).enumerate() {
            assert!((got - expected).abs() <= 1e-4 * expected, "step {step}: {got} instead of {expected}");
        }
    });
}
