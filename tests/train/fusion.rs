//! Fusion in the plan, and the list of launches that needs no device.

use std::collections::BTreeMap;

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
    let model = find(name).expect("a known model");
    (model.build)(model.input, model.classes).expect("a network")
}

/// The label of every step, and what it computes.
fn steps(network: &Network, mode: Mode) -> Vec<String> {
    let plan = Plan::new(network, mode, 4).expect("a plan");
    let all = plan.forward.iter().chain(&plan.backward);
    all.map(|step| format!("{}: {}", step.label, step.op.operands().describe())).collect()
}

#[test]
fn mnist_cnn_is_fully_fused() {
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

/// A value that two operators read stays a buffer of its own, because each of them writes a part of its gradient.
#[test]
fn nothing_is_fused_if_another_operator_reads_the_value() {
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
    // Only its pooling reads the second convolution, which has no activation.
    has("deeper forward: convolution + bias + max pooling");
    has("maxpool.2 backward input: gradient of max pooling + bias gradient");
    has("deeper backward input: input gradient");
}

/// The columns of a linear layer's input are the pixels and channels of the flattened feature map, not its channels, so
/// their sums are not the bias gradient.
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
type Variant = (Precision, Option<Algorithm>);

const BLAS_GEMM: Variant = (Precision::Fp32, Some(Algorithm::Gemm));

fn options_of((precision, algorithm): Variant) -> Options {
    Options { graphs: true, algorithm, ..options(precision) }
}

/// The launches of each operator of a training step, listed without a device.
fn listed_with(network: &Network, batch: usize, options: &Options) -> Vec<Vec<String>> {
    let plan = Plan::new(network, Mode::Training, batch).expect("a plan");
    cuda::launches(&train_step(&plan, batch), &plan.memory_sizes(false), options).expect("a list")
}

fn listed(network: &Network, variant: Variant, batch: usize) -> Vec<String> {
    listed_with(network, batch, &options_of(variant)).concat()
}

fn train_step(plan: &Plan, batch: usize) -> Vec<Step> {
    plan.steps(&Sequence::TrainStep(TrainSettings::default()), batch)
}

/// The launches of each operator of a training step, compiled on a device.
fn launched_with(network: &Network, batch: usize, options: Options) -> (Cuda, Vec<Vec<String>>) {
    let mut backend = Cuda::new(options).expect("a CUDA device");
    let plan = Plan::new(network, Mode::Training, batch).expect("a plan");
    backend.allocate(&plan.memory_sizes(false)).expect("memory");
    let program = backend.compile(train_step(&plan, batch)).expect("a program");
    let launches = Cuda::launches(&program).expect("a device launches");
    (backend, launches)
}

fn launched(network: &Network, variant: Variant, batch: usize) -> Vec<Vec<String>> {
    launched_with(network, batch, options_of(variant)).1
}

#[test]
fn a_device_launches_what_is_listed_without_a_device() {
    on_cuda(|| {
        for precision in [Precision::Fp32, Precision::Tf32, Precision::Fp16, Precision::Bf16] {
            let shape = Shape::new(28, 28, 1);
            let more = [branching(shape, 8, 0.0), normalised(shape, 8, Activation::Relu)];
            let networks = ["mnist-cnn", "lenet5", "resnet20"].map(model).into_iter().chain(more);
            for (network, batch) in networks.zip([2, 5, 3, 64, 4]) {
                for algorithm in Algorithm::ALL {
                    if matches!(algorithm, Algorithm::CublasLt | Algorithm::Cudnn) && !on_the_emulator() {
                        continue; // only a device knows what the library offers
                    }
                    let variant = (precision, Some(algorithm));
                    let (expected, found) =
                        (listed_with(&network, batch, &options_of(variant)), launched(&network, variant, batch));
                    assert_eq!(found, expected, "{} in {precision}, {algorithm:?}", network.name);
                }
            }
        }
    });
}

#[test]
fn a_requested_algorithm_overrides_a_recorded_choice_with_and_without_a_device() {
    on_cuda(|| {
        let network = model("lenet5");
        let (backend, gemm) = launched_with(&network, 3, options_of(BLAS_GEMM));
        let recorded: BTreeMap<_, _> =
            backend.choices().into_iter().map(|choice| (choice.site, choice.candidate.to_string())).collect();
        let requesting = |algorithm| Options { algorithm, recorded: recorded.clone(), ..options_of(BLAS_GEMM) };
        assert_eq!(launched_with(&network, 3, requesting(None)).1, gemm);
        let implicit = listed_with(&network, 3, &requesting(Some(Algorithm::Implicit)));
        assert_ne!(implicit, gemm);
        assert_eq!(launched_with(&network, 3, requesting(Some(Algorithm::Implicit))).1, implicit);
    });
}

#[test]
fn a_step_of_mnist_cnn_takes_few_launches() {
    let counts = [(Precision::Fp32, 25), (Precision::Tf32, 25), (Precision::Fp16, 26), (Precision::Bf16, 25)];
    for (precision, count) in counts {
        let listed = listed(&model("mnist-cnn"), (precision, None), 64);
        assert_eq!(listed.len(), count, "{precision}: {listed:?}");
        // The first layer's two products use direct kernels, all others implicit GEMM.
        let of = |stem: &str| listed.iter().filter(|name| name.starts_with(stem)).count();
        assert_eq!((of("direct_"), of("cuBLAS")), (2, 0), "{precision}: {listed:?}");
    }
}

/// The loss sums the bias gradient of the logits only if it runs in one block.
#[test]
fn the_bias_gradient_of_many_logits_has_its_own_launch() {
    let mut net = Builder::new("wide", Shape::new(1, 1, 2));
    net.linear("fc", 0, 600).expect("fc");
    let network = net.finish().expect("a network");
    let separate = |batch| {
        let listed = listed(&network, BLAS_GEMM, batch);
        listed.iter().filter(|name| name.starts_with("bias_activation_backward")).count()
    };
    assert_eq!((separate(64), separate(1)), (1, 0));
}

/// An unfolded input that does not fit the workspace is processed in pieces, each with its own launches.
#[test]
fn the_launches_of_all_pieces_are_listed() {
    let network = model("mnist-cnn");
    let count = |workspace| listed_with(&network, 64, &Options { workspace, ..options_of(BLAS_GEMM) }).concat().len();
    assert_eq!(count(512 << 20), listed(&network, BLAS_GEMM, 64).len());
    assert!(count(1 << 20) > 2 * count(512 << 20));
}
