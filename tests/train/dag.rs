//! A graph with a residual sum, a concatenation and shared activations: its gradients, training, fusion and memory.

use cnn_cuda::cpu::Cpu;
use cnn_cuda::network::{Builder, Conv2dOptions, Network};
use cnn_cuda::ops::{Activation, Backend, Metrics, Normalise, Op, Region, Span, Subset};
use cnn_cuda::plan::{Mode, Plan, Sequence, TrainSettings};
use cnn_cuda::shape::{Shape, Window};
use cnn_cuda::train::{Hyperparameters, Trainer};

use super::harness::{Listener, digits, hyperparameters, logits, run_once};

/// A graph in which activations feed two and three operators. The inner activations are ReLU, or leaky with a nonzero
/// `slope`.
pub fn branching(input: Shape, width: usize, slope: f32) -> Network {
    let inner = match slope {
        0.0 => Activation::Relu,
        _ => Activation::LeakyRelu { slope },
    };
    let mut net = Builder::new("branching", input);
    let conv = |padding, kernel, out_channels| Conv2dOptions { out_channels, kernel, padding, ..Default::default() };
    let stem = net.conv2d("stem", 0, conv(1, 3, width)).expect("stem");
    let stem = net.activation(stem, Activation::LeakyRelu { slope: 0.1 }).expect("activation");
    let pooled = net.max_pool2d(stem, Window { kernel: 3, stride: 2, padding: 1 }).expect("pool");
    let a = net.conv2d("block.a", pooled, conv(1, 3, width)).expect("a");
    let a = net.activation(a, inner).expect("activation");
    let b = net.conv2d("block.b", a, conv(1, 3, width)).expect("b");
    let sum = net.add(b, pooled).expect("add"); // the activation follows the sum, not b
    let sum = net.activation(sum, inner).expect("activation");
    let pointwise = net.conv2d("branch.1x1", sum, conv(0, 1, 3)).expect("1x1");
    let averaged = net.avg_pool2d(sum, Window { kernel: 3, stride: 1, padding: 1 }).expect("average");
    let joined = net.concat(&[pointwise, averaged, sum]).expect("concat");
    let small = net.max_pool2d(joined, Window { kernel: 2, stride: 2, padding: 0 }).expect("pool");
    let (left, right) = (net.flatten(small), net.flatten(pooled));
    let both = net.concat(&[left, right]).expect("concat"); // two stages feed the classifier
    net.linear("fc", both, 10).expect("fc");
    net.finish().expect("a network")
}

/// The loss of one batch with `parameters`, and the gradients of all parameters.
fn loss_and_gradients<B: Backend>(backend: &mut B, network: &Network, parameters: &[f32]) -> (f64, Vec<f32>) {
    let batch = 3;
    let plan = Plan::new(network, Mode::Training, batch).expect("a plan");
    backend.set_dropout_step(5, 0).expect("step");
    backend.allocate(&plan.memory_sizes(false)).expect("memory");
    backend.write(Span::new(Region::Parameters, 0, parameters.len()), parameters).expect("write");
    let shape = network.input();
    let images: Vec<u8> = (0..batch * shape.len()).map(|i| (i * 71 % 251) as u8).collect();
    let normalise = Normalise { shape, mean: vec![0.5; shape.channels], std: vec![0.5; shape.channels] };
    backend.load_subset(Subset::Train, &normalise, images, vec![1, 7, 4]).expect("load");
    backend.set_order(Subset::Train, &[2, 0, 1], 0).expect("order");
    backend.set_metrics(Metrics::default()).expect("metrics");
    backend.set_learning_rates(&[0.0]).expect("rate");
    let settings = TrainSettings { label_smoothing: 0.1, ..TrainSettings::default() };
    run_once(backend, &plan, Sequence::TrainStep(settings), batch);
    let loss = backend.read_metrics().expect("metrics").loss();
    (loss, backend.read(Span::new(Region::Gradients, 0, parameters.len())).expect("read"))
}

/// Checks the gradients of a branching graph.
pub fn check_gradients<B: Backend>(backend: &mut B) {
    // If a shift moves a value through zero, a slope of one half bends the loss less than ReLU does.
    check_gradients_of(backend, &branching(Shape::new(9, 8, 2), 4, 0.5));
}

/// Compares each tensor's gradient with a central difference of the loss along that gradient.
pub fn check_gradients_of<B: Backend>(backend: &mut B, network: &Network) {
    let parameters = network.initial_parameters(3);
    let (_, gradients) = loss_and_gradients(backend, network, &parameters);
    for parameter in &network.parameters {
        // The slope of the loss along a gradient is the gradient's norm: nothing cancels, so fp32 is precise enough.
        let gradient = &gradients[parameter.range()];
        let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        assert!(norm > 1e-6, "{} has no gradient", parameter.name);
        // Small enough to cross few kinks of the activations, but large compared with fp32's rounding of the loss.
        let h = 2e-3;
        let mut shifted_loss = |sign: f64| {
            let mut shifted = parameters.clone();
            for (value, &g) in shifted[parameter.range()].iter_mut().zip(gradient) {
                *value += (sign * h * f64::from(g) / norm) as f32;
            }
            loss_and_gradients(backend, network, &shifted).0
        };
        let slope = (shifted_loss(1.0) - shifted_loss(-1.0)) / (2.0 * h);
        assert!((slope / norm - 1.0).abs() < 0.02, "{}: slope {slope}, gradient norm {norm}", parameter.name);
    }
}

#[test]
fn gradients_of_a_branching_graph_match_finite_differences() {
    check_gradients(&mut Cpu::new(Some(2)).expect("two threads"));
}

/// Trains a branching graph on the digits.
pub fn check_learns<B: Backend>(backend: B) {
    let network = branching(Shape::new(28, 28, 1), 8, 0.0);
    let hyper = Hyperparameters { epochs: 4, eval_batch_size: 128, shuffle: true, ..hyperparameters(16, 0.05) };
    let mut trainer = Trainer::new(backend, network, digits(1600, 400), hyper).expect("a trainer");
    let mut listener = Listener::default();
    trainer.run(&mut listener).expect("a run");
    let last = listener.epochs.last().expect("four epochs");
    assert!(last.test.accuracy() > 0.8, "accuracy {}", last.test.accuracy());
    assert!(last.train.loss() < 0.5 * listener.epochs[0].train.loss());
}

#[test]
fn a_branching_graph_learns() {
    check_learns(Cpu::new(Some(2)).expect("two threads"));
}

#[test]
fn activations_are_fused_only_if_nothing_else_reads_their_input() {
    let network = branching(Shape::new(28, 28, 1), 8, 0.0);
    let plan = Plan::new(&network, Mode::Training, 4).expect("a plan");
    let fused = |label: &str| {
        let step = plan.forward.iter().find(|step| step.label == format!("{label} forward")).expect(label);
        match &step.op {
            Op::Conv2dForward(forward) => forward.activation != Activation::Identity,
            _ => panic!("{label} is no convolution"),
        }
    };
    assert!(fused("stem") && fused("block.a"));
    assert!(!fused("block.b") && !fused("branch.1x1"));
    let mut net = Builder::new("shared", Shape::new(8, 8, 1));
    let conv = net.conv2d("conv", 0, Conv2dOptions::default()).expect("conv");
    let relu = net.relu(conv).expect("relu");
    let sum = net.add(conv, relu).expect("add");
    let flat = net.flatten(sum);
    net.linear("fc", flat, 2).expect("fc");
    let plan = Plan::new(&net.finish().expect("a network"), Mode::Training, 1).expect("a plan");
    assert!(plan.forward.iter().any(|step| matches!(step.op, Op::ActivationForward(_))));
}

#[test]
fn inference_needs_less_memory_than_training_and_gives_the_same_logits() {
    let network = branching(Shape::new(28, 28, 1), 8, 0.0);
    let plans = [Mode::Training, Mode::Inference].map(|mode| Plan::new(&network, mode, 4).expect("a plan"));
    let sizes = plans.each_ref().map(|plan| plan.memory_sizes(false).arena);
    assert!(3 * sizes[1] < 2 * sizes[0], "{sizes:?}");
    let (weights, input) = (network.initial_weights(0), crate::ops::lab::random(4 * network.input().len(), 0));
    let logits = plans.map(|plan| logits(&mut Cpu::new(Some(1)).expect("a thread"), &plan, &weights, &input));
    assert_eq!(logits[0], logits[1]);
}
