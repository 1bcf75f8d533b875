//! What the plan fuses, told without a device, and that a captured step has as many launches as the plan's list says.

use cnn_cuda::cuda::{Cuda, Launches, Options};
use cnn_cuda::models::find;
use cnn_cuda::network::{Builder, Conv2dOptions, Network};
use cnn_cuda::ops::{Algorithm, Backend, Metrics, Normalise, OptimizerOps, Recording, Region, Sgd, Span, Subset};
use cnn_cuda::ops::{GatherOps, LossOps};
use cnn_cuda::plan::{self, Mode, Plan};
use cnn_cuda::shape::{Shape, Window};

use super::dag::branching;
use crate::ops::cuda::options;
use crate::support::cuda::{on_cuda, on_the_emulator};

fn model(name: &str) -> Network {
    let model = find(name).expect("a model");
    (model.build)(model.input, model.classes).expect("a network")
}

/// Every step with what it computes.
fn steps(network: &Network, mode: Mode) -> Vec<String> {
    let plan = Plan::new(network, mode, 4).expect("a plan");
    let all = plan.forward.iter().chain(&plan.backward);
    all.map(|step| format!("{}: {}", step.label, step.kind.describe())).collect()
}

#[test]
fn mnist_cnn_is_fused_as_far_as_it_goes() {
    let expected = [
        "layer1.0 forward: convolution + bias + ReLU",
        "layer2.0 forward: convolution + bias + ReLU + max pooling",
        "layer3.0 forward: convolution + bias + ReLU",
        "layer4.0 forward: convolution + bias + ReLU + max pooling",
        "fc.0 forward: product + bias + ReLU",
        "fc.2 forward: product + bias + ReLU",
        "fc.4 forward: product + bias",
        "fc.4 backward weight: weight gradient",
        "fc.4 backward input: input gradient + ReLU + bias gradient",
        "fc.2 backward weight: weight gradient",
        "fc.2 backward input: input gradient + ReLU + bias gradient",
        "fc.0 backward weight: weight gradient",
        "fc.0 backward input: input gradient",
        "maxpool.2 backward input: gradient of max pooling + ReLU + bias gradient",
        "layer4.0 backward weight: weight gradient",
        "layer4.0 backward input: input gradient + ReLU + bias gradient",
        "layer3.0 backward weight: weight gradient",
        "layer3.0 backward input: input gradient",
        "maxpool.1 backward input: gradient of max pooling + ReLU + bias gradient",
        "layer2.0 backward weight: weight gradient",
        "layer2.0 backward input: input gradient + ReLU + bias gradient",
        "layer1.0 backward weight: weight gradient",
    ];
    assert_eq!(steps(&model("mnist-cnn"), Mode::Training), expected);
    assert_eq!(steps(&model("mnist-cnn"), Mode::Inference), expected[..7]);
}

/// A value that two operators read keeps its steps: each writes a part of its gradient.
#[test]
fn nothing_is_fused_where_another_operator_reads_the_value() {
    let mut net = Builder::new("shared", Shape::new(8, 8, 2));
    let options = Conv2dOptions { out_channels: 4, kernel: 3, padding: 1, ..Default::default() };
    let conv = net.conv2d("conv", 0, options).expect("conv");
    let relu = net.relu(conv).expect("relu");
    let window = Window { kernel: 2, stride: 2, padding: 0 };
    let pooled = net.max_pool2d(relu, window).expect("pool");
    let deeper = net.conv2d("deeper", relu, options).expect("conv");
    let smaller = net.max_pool2d(deeper, window).expect("pool");
    let sum = net.add(pooled, smaller).expect("sum");
    let flat = net.flatten(sum);
    net.linear("fc", flat, 3).expect("fc");
    let steps = steps(&net.finish().expect("a network"), Mode::Training);
    let has = |step: &str| assert!(steps.iter().any(|found| found == step), "{step} is missing from {steps:#?}");
    has("conv forward: convolution + bias + ReLU");
    has("maxpool.1 forward: max pooling");
    has("maxpool.1 backward input: gradient of max pooling");
    has("conv backward bias: gradient of ReLU + bias gradient");
    // The second convolution is read by its pooling alone, and has no activation.
    has("deeper forward: convolution + bias + max pooling");
    has("maxpool.2 backward input: gradient of max pooling + bias gradient");
    has("deeper backward input: input gradient");
}

/// A linear layer sees a flattened feature map's pixels side by side: its columns are not the channels.
#[test]
fn a_gradient_across_a_flatten_is_not_summed_by_column() {
    let mut net = Builder::new("flat", Shape::new(4, 4, 1));
    let conv = net.conv2d("conv", 0, Conv2dOptions { out_channels: 2, ..Default::default() }).expect("conv");
    let relu = net.relu(conv).expect("relu");
    let flat = net.flatten(relu);
    net.linear("fc", flat, 3).expect("fc");
    let steps = steps(&net.finish().expect("a network"), Mode::Training);
    assert!(steps.contains(&"fc backward input: input gradient".to_string()), "{steps:#?}");
    assert!(steps.contains(&"conv backward bias: gradient of ReLU + bias gradient".to_string()), "{steps:#?}");
}

/// Precision and algorithm.
type How = (&'static str, Option<Algorithm>);

const BY_BLAS: How = ("fp32", Some(Algorithm::Im2col));

/// Launches of a training step by the list.
fn listed(network: &Network, (precision, algorithm): How, batch: usize) -> Vec<&'static str> {
    let plan = Plan::new(network, Mode::Training, batch).expect("a plan");
    let mut launches = Launches::new(precision, options(precision).workspace, algorithm);
    launches.allocate(&plan.memory_sizes(false)).expect("a list");
    plan::train_step(&mut launches, &plan, &Sgd::default(), batch).expect("a step");
    launches.take()
}

/// Nodes of the graph that a device captured of a training step.
fn captured(network: &Network, (precision, algorithm): How, batch: usize) -> usize {
    let mut backend = Cuda::new(Options { graphs: true, algorithm, ..options(precision) }).expect("a CUDA device");
    let plan = Plan::new(network, Mode::Training, batch).expect("a plan");
    let shape = network.input();
    let normalise = Normalise { shape, mean: vec![0.5; shape.channels], std: vec![0.5; shape.channels] };
    let images = vec![7; batch * shape.len()];
    backend.load_subset(Subset::Train, &normalise, images, vec![1; batch]).expect("images");
    backend.allocate(&plan.memory_sizes(false)).expect("memory");
    let parameters = network.initial_parameters(0);
    backend.write(Span::new(Region::Parameters, 0, parameters.len()), &parameters).expect("weights");
    backend.set_metrics(Metrics::default()).expect("metrics");
    backend.set_learning_rates(&[0.01]).expect("rate");
    let order: Vec<u32> = (0..batch as u32).collect();
    for _ in 0..2 {
        backend.set_order(Subset::Train, &order, 0).expect("order");
        plan::train_step(&mut backend, &plan, &Sgd::default(), batch).expect("a step");
    }
    backend.recorded_launches(Recording::train_step(batch)).expect("the step was captured")
}

#[test]
fn a_captured_step_has_as_many_nodes_as_are_listed() {
    on_cuda(|| {
        for precision in ["fp32", "fp16"] {
            let networks = [model("mnist-cnn"), model("lenet5"), branching(Shape::new(28, 28, 1), 8, 0.0)];
            for (network, batch) in networks.iter().zip([2, 5, 3]) {
                for algorithm in Algorithm::ALL.map(Some) {
                    let listed = listed(network, (precision, algorithm), batch);
                    let nodes = captured(network, (precision, algorithm), batch);
                    // A real library may take more than one kernel for a product.
                    let by_library = listed.iter().any(|name| name.ends_with(" product")) && !on_the_emulator();
                    let fits = if by_library { nodes >= listed.len() } else { nodes == listed.len() };
                    assert!(fits, "{nodes} of {} in {precision}, {algorithm:?}: {listed:?}", network.name);
                }
            }
        }
    });
}

#[test]
fn a_step_of_mnist_cnn_takes_at_most_thirty_launches() {
    for (precision, most) in [("fp32", 25), ("tf32", 25), ("fp16", 26)] {
        let listed = listed(&model("mnist-cnn"), (precision, None), 64);
        assert!(listed.len() <= most, "{precision}: {} of {listed:?}", listed.len());
    }
}

/// One block sums the bias gradient of the logits only where there are few of them.
#[test]
fn many_logits_are_summed_apart() {
    let mut net = Builder::new("wide", Shape::new(1, 1, 2));
    net.linear("fc", 0, 600).expect("fc");
    let network = net.finish().expect("a network");
    assert_eq!(listed(&network, BY_BLAS, 64).iter().filter(|name| **name == "bias_activation_backward").count(), 1);
    assert!(!listed(&network, BY_BLAS, 8).contains(&"bias_activation_backward"));
    on_cuda(|| {
        let mut net = Builder::new("wide", Shape::new(1, 1, 2));
        net.linear("fc", 0, 600).expect("fc");
        let network = net.finish().expect("a network");
        for batch in [8, 64] {
            let implicit = ("fp32", Some(Algorithm::Implicit));
            assert_eq!(captured(&network, implicit, batch), listed(&network, implicit, batch).len());
        }
    });
}

/// What does not fit the workspace is done in pieces, each of which is launched.
#[test]
fn pieces_are_listed() {
    let network = model("mnist-cnn");
    let plan = Plan::new(&network, Mode::Training, 64).expect("a plan");
    let count = |workspace: usize| {
        let mut launches = Launches::new(BY_BLAS.0, workspace, BY_BLAS.1);
        launches.allocate(&plan.memory_sizes(false)).expect("a list");
        plan::train_step(&mut launches, &plan, &Sgd::default(), 64).expect("a step");
        launches.take().len()
    };
    assert_eq!(count(512 << 20), listed(&network, BY_BLAS, 64).len());
    assert!(count(1 << 20) > 2 * count(512 << 20));
}
