//! What the plan fuses, and what a device launches for it, told without a device.

use cnn_cuda::cuda::{self, Cuda, Options};
use cnn_cuda::models::find;
use cnn_cuda::network::{Builder, Conv2dOptions, Network};
use cnn_cuda::ops::{Activation, Algorithm, Backend, Precision, Step};
use cnn_cuda::plan::{Mode, Plan, Sequence, TrainSettings};
use cnn_cuda::shape::{Shape, Window};

use super::dag::branching;
use super::norm::normalised;
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
    all.map(|step| format!("{}: {}", step.label, step.op.operands().describe())).collect()
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
type How = (Precision, Option<Algorithm>);

const BY_BLAS: How = (Precision::Fp32, Some(Algorithm::Gemm));

fn options_of((precision, algorithm): How) -> Options {
    Options { graphs: true, algorithm, ..options(precision) }
}

/// What each step of a training step launches by the list that needs no device.
fn listed_with(network: &Network, batch: usize, options: &Options) -> Vec<Vec<String>> {
    let plan = Plan::new(network, Mode::Training, batch).expect("a plan");
    cuda::launches(&train_step(&plan, batch), &plan.memory_sizes(false), options).expect("a list")
}

fn listed(network: &Network, how: How, batch: usize) -> Vec<String> {
    listed_with(network, batch, &options_of(how)).concat()
}

fn train_step(plan: &Plan, batch: usize) -> Vec<Step> {
    plan.steps(&Sequence::TrainStep(TrainSettings::default()), batch)
}

/// What a device launches for them.
fn launched(network: &Network, how: How, batch: usize) -> Vec<Vec<String>> {
    let mut backend = Cuda::new(options_of(how)).expect("a CUDA device");
    let plan = Plan::new(network, Mode::Training, batch).expect("a plan");
    backend.allocate(&plan.memory_sizes(false)).expect("memory");
    let program = backend.compile(train_step(&plan, batch)).expect("a program");
    Cuda::launches(&program).expect("a device launches")
}

#[test]
fn a_device_launches_what_is_listed_without_one() {
    on_cuda(|| {
        for precision in [Precision::Fp32, Precision::Tf32, Precision::Fp16] {
            let shape = Shape::new(28, 28, 1);
            let more = [branching(shape, 8, 0.0), normalised(shape, 8, Activation::Relu)];
            let networks = ["mnist-cnn", "lenet5", "resnet20"].map(model).into_iter().chain(more);
            for (network, batch) in networks.zip([2, 5, 3, 64, 4]) {
                for algorithm in Algorithm::ALL {
                    if algorithm == Algorithm::CublasLt && !on_the_emulator() {
                        continue; // what the library offers is for the device to say
                    }
                    let how = (precision, Some(algorithm));
                    let (expected, found) =
                        (listed_with(&network, batch, &options_of(how)), launched(&network, how, batch));
                    assert_eq!(found, expected, "{} in {precision}, {algorithm:?}", network.name);
                }
            }
        }
    });
}

#[test]
fn a_step_of_mnist_cnn_takes_few_launches() {
    for (precision, count) in [(Precision::Fp32, 25), (Precision::Tf32, 25), (Precision::Fp16, 26)] {
        let listed = listed(&model("mnist-cnn"), (precision, None), 64);
        assert_eq!(listed.len(), count, "{precision}: {listed:?}");
        // Both products of the first layer are direct, all others implicit.
        let of = |stem: &str| listed.iter().filter(|name| name.starts_with(stem)).count();
        assert_eq!((of("direct_"), of("cuBLAS")), (2, 0), "{precision}: {listed:?}");
    }
}

/// One block sums the bias gradient of the logits only where there are few of them.
#[test]
fn many_logits_are_summed_apart() {
    let mut net = Builder::new("wide", Shape::new(1, 1, 2));
    net.linear("fc", 0, 600).expect("fc");
    let network = net.finish().expect("a network");
    let apart = |batch| {
        let listed = listed(&network, BY_BLAS, batch);
        listed.iter().filter(|name| name.starts_with("bias_activation_backward")).count()
    };
    assert_eq!((apart(64), apart(8)), (1, 0));
}

/// What does not fit the workspace is done in pieces, each of which is launched.
#[test]
fn pieces_are_listed() {
    let network = model("mnist-cnn");
    let count = |workspace| listed_with(&network, 64, &Options { workspace, ..options_of(BY_BLAS) }).concat().len();
    assert_eq!(count(512 << 20), listed(&network, BY_BLAS, 64).len());
    assert!(count(1 << 20) > 2 * count(512 << 20));
}
