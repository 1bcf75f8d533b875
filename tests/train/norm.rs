//! A small network with batch normalisation: fusion, gradients, and running statistics in runs, files and CUDA graphs.

use cnn_cuda::checkpoint::{load_weights, save_weights};
use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::network::{Builder, Conv2dOptions, Network};
use cnn_cuda::ops::{Activation, Backend, Precision, Step};
use cnn_cuda::plan::{Mode, Plan, ValueId};
use cnn_cuda::shape::{Shape, Window};
use cnn_cuda::train::{Hyperparameters, Outcome, Trainer};
use safetensors::tensor::Dtype;

use super::dag::check_gradients_of;
use super::harness::{Listener, bits, digits, two_epochs};
use crate::ops::cuda::options;
use crate::support::cuda::on_cuda;

/// A network with batch normalisation of the input, before activations, before both kinds of residual sum, and of a
/// vector.
pub fn normalised(input: Shape, width: usize, activation: Activation) -> Network {
    let mut net = Builder::new("normalised", input);
    let conv = |out_channels, kernel, stride| Conv2dOptions {
        out_channels,
        kernel,
        stride,
        padding: kernel / 2,
        bias: false,
        ..Default::default()
    };
    let mut build = || {
        let start = net.batch_norm2d("start", 0)?;
        let mut x = net.conv2d("stem", start, conv(width, 3, 2))?;
        x = net.batch_norm2d("stem.bn", x)?;
        x = net.activation(x, activation)?;
        for (block, stride) in [("first", 1), ("second", 2)] {
            let out = width * stride;
            let mut y = net.conv2d(&format!("{block}.conv1"), x, conv(out, 3, stride))?;
            y = net.batch_norm2d(&format!("{block}.bn1"), y)?;
            y = net.activation(y, activation)?;
            y = net.conv2d(&format!("{block}.conv2"), y, conv(out, 3, 1))?;
            y = net.batch_norm2d(&format!("{block}.bn2"), y)?;
            if stride > 1 {
                x = net.conv2d(&format!("{block}.down"), x, conv(out, 1, stride))?;
                x = net.batch_norm2d(&format!("{block}.down.bn"), x)?;
            }
            x = net.add(y, x)?;
            x = net.activation(x, activation)?;
        }
        let side = net.shape(x).height.min(net.shape(x).width);
        x = net.avg_pool2d(x, Window { kernel: side, stride: side, padding: 0 })?;
        x = net.flatten(x);
        x = net.batch_norm2d("end", x)?;
        net.linear("fc", x, 10)
    };
    build().expect("it fits");
    net.finish().expect("a network")
}

fn network() -> Network {
    normalised(Shape::new(28, 28, 1), 4, Activation::Relu)
}

#[test]
fn sums_and_activations_are_fused_into_the_preceding_batch_normalisation() {
    let plan = |mode| Plan::new(&network(), mode, 4).expect("a plan");
    let steps: Vec<String> = plan(Mode::Inference)
        .forward
        .iter()
        .map(|step| format!("{}: {}", step.label, step.op.operands().describe()))
        .collect();
    let expected = [
        "start forward: batch norm",
        "stem forward: convolution",
        "stem.bn forward: batch norm + ReLU",
        "first.conv1 forward: convolution",
        "first.bn1 forward: batch norm + ReLU",
        "first.conv2 forward: convolution",
        "first.bn2 forward: batch norm + sum + ReLU",
        "second.conv1 forward: convolution",
        "second.bn1 forward: batch norm + ReLU",
        "second.conv2 forward: convolution",
        "second.bn2 forward: batch norm",
        "second.down forward: convolution",
        "second.down.bn forward: batch norm + sum + ReLU",
        "avgpool.1 forward: average pooling",
        "end forward: batch norm",
        "fc forward: product + bias",
    ];
    assert_eq!(steps, expected);
    let training = plan(Mode::Training);
    let fused = |steps: &[Step<ValueId>], what: &str| -> Vec<String> {
        let is_fused = |step: &&Step<ValueId>| step.op.operands().describe().contains(what);
        steps.iter().filter(is_fused).map(|step| step.label.clone()).collect()
    };
    // Convolutions compute the statistics of their outputs; there is none before `start` and `end`.
    let statistics = ["start statistics", "stem forward", "first.conv1 forward", "first.conv2 forward"];
    let more = ["second.conv1 forward", "second.conv2 forward", "second.down forward", "end statistics"];
    assert_eq!(fused(&training.forward, "statistics"), [statistics, more].concat());
    // Gradients are summed only at the inputs of the blocks, which have two each. The input gradient that contributes
    // last also sums for the batch normalisation. `second.bn2` and `second.down.bn` get their gradients from a pooling.
    assert_eq!(
        fused(&training.backward, "input gradient + added"),
        ["second.conv1 backward input", "first.conv1 backward input"]
    );
    let sums = [
        "end backward sums",
        "second.down.bn backward sums",
        "second.bn2 backward sums",
        "second.conv2 backward input",
        "second.conv1 backward input",
        "first.conv2 backward input",
        "first.conv1 backward input",
        "stem backward input",
    ];
    assert_eq!(fused(&training.backward, "sums of batch norm"), sums);
    assert_eq!(fused(&training.backward, "copy"), [""; 0]);
    assert_eq!(network().parameter_count(), training.parameter_count);
}

#[test]
fn gradients_match_finite_differences() {
    let network = normalised(Shape::new(9, 8, 2), 4, Activation::LeakyRelu { slope: 0.5 });
    check_gradients_of(&mut Cpu::new(Some(2)).expect("two threads"), &network);
    on_cuda(|| check_gradients_of(&mut Cuda::new(options(Precision::Fp32)).expect("a CUDA device"), &network));
}

fn trainer<B: Backend>(backend: B) -> Trainer<B> {
    let hyper = Hyperparameters { batch_size: 16, eval_batch_size: 16, ..two_epochs() };
    Trainer::new(backend, network(), digits(40, 20), hyper).expect("a trainer")
}

/// Final weights, running statistics and losses, as bits.
fn final_bits<B: Backend>(trainer: &mut Trainer<B>, losses: &[f32]) -> [Vec<u32>; 3] {
    let statistics = trainer.statistics().expect("read");
    assert_eq!(statistics.batches_tracked, [6; 8]);
    [trainer.parameters().expect("read"), statistics.values, losses.to_vec()].map(|values| bits(&values))
}

fn whole_run<B: Backend>(backend: B) -> [Vec<u32>; 3] {
    let (mut trainer, mut listener) = (trainer(backend), Listener::default());
    assert_eq!(trainer.run(&mut listener).expect("a run"), Outcome::Finished);
    final_bits(&mut trainer, &listener.losses)
}

fn interrupted_run<B: Backend>(backend: impl Fn() -> B, stop: u64) -> [Vec<u32>; 3] {
    let (mut first, mut before) = (trainer(backend()), Listener { stop_after: Some(stop), ..Listener::default() });
    assert_eq!(first.run(&mut before).expect("a run"), Outcome::Interrupted);
    let (mut second, mut after) = (trainer(backend()), Listener::default());
    second.restore(&first.state().expect("a state")).expect("restored");
    second.run(&mut after).expect("a run");
    final_bits(&mut second, &[before.losses, after.losses].concat())
}

#[test]
fn the_number_of_threads_and_interruptions_do_not_change_a_run() {
    let cpu = |threads| Cpu::new(Some(threads)).expect("threads");
    let whole = whole_run(cpu(2));
    assert!(whole == whole_run(cpu(1)) && whole == whole_run(cpu(5)));
    for stop in [1, 3, 4] {
        assert!(whole == interrupted_run(|| cpu(2), stop), "stopped after {stop}");
    }
}

#[test]
#[ignore = "long; CI runs it"]
fn graphs_and_interruptions_do_not_change_a_run_on_cuda() {
    on_cuda(|| {
        for precision in [Precision::Fp32, Precision::Fp16] {
            let cuda = |graphs| Cuda::new(Options { graphs, ..options(precision) }).expect("a CUDA device");
            let whole = whole_run(cuda(true));
            assert!(whole == whole_run(cuda(false)), "graphs change the numbers in {precision}");
            assert!(whole == interrupted_run(|| cuda(true), 4), "interrupted in {precision}");
        }
        let on_cpu = whole_run(Cpu::new(Some(1)).expect("a thread"));
        let on_cuda =
            whole_run(Cuda::new(Options { graphs: true, ..options(Precision::Fp32) }).expect("a CUDA device"));
        for (which, (got, expected)) in on_cuda.iter().zip(&on_cpu).enumerate() {
            for (got, expected) in got.iter().zip(expected) {
                let [got, expected] = [*got, *expected].map(f32::from_bits);
                assert!((got - expected).abs() <= 1e-3 + 1e-3 * expected.abs(), "{which}: {got} not {expected}");
            }
        }
    });
}

#[test]
fn evaluation_uses_the_running_statistics_without_changing_them() {
    let mut trainer = trainer(Cpu::new(Some(2)).expect("two threads"));
    let initial = trainer.statistics().expect("read");
    assert_eq!(initial, network().initial_statistics());
    let before = trainer.evaluate().expect("metrics");
    assert_eq!(trainer.statistics().expect("read"), initial);
    let mut weights = network().initial_weights(0);
    weights.statistics.values.iter_mut().for_each(|value| *value += 0.5);
    trainer.set_weights(&weights).expect("set");
    assert!(trainer.evaluate().expect("metrics").loss() != before.loss());
    weights.statistics.batches_tracked.pop();
    assert!(trainer.set_weights(&weights).is_err());
}

#[test]
fn a_last_batch_of_one_image_is_refused_if_it_cannot_be_normalised() {
    let refused = |count| {
        let backend = Cpu::new(Some(1)).expect("a thread");
        let hyper = Hyperparameters { batch_size: 16, ..two_epochs() };
        Trainer::new(backend, network(), digits(count, 20), hyper).err().map(|error| format!("{error:#}"))
    };
    let message = refused(33).expect("the last batch has one image");
    assert!(message.contains("end: ") && message.contains("--batch-size"), "{message}");
    assert_eq!(refused(34), None);
}

#[test]
fn statistics_round_trip_through_files_under_pytorchs_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let (network, mut weights) = (network(), network().initial_weights(3));
    for (index, value) in weights.statistics.values.iter_mut().enumerate() {
        *value = index as f32;
    }
    weights.statistics.batches_tracked = (0..8).map(|index| (1 << 60) + index).collect();
    save_weights(&path, &network, &weights.parameters, &weights.statistics).expect("saved");
    assert_eq!(load_weights(&path, &network).expect("loaded"), weights);
    let bytes = std::fs::read(&path).expect("read");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("valid safetensors");
    let tracked = file.tensor("second.bn1.num_batches_tracked").expect("the tensor exists");
    assert!(tracked.dtype() == Dtype::I64 && tracked.shape().is_empty());
    assert_eq!(file.tensor("second.bn1.running_var").expect("the tensor exists").shape(), [8]);
    assert_eq!(file.len(), network.parameters.len() + 3 * 8);
    // As in PyTorch, a missing count of batches starts at 0, but missing statistics are an error.
    let without = |name: &str| {
        let kept = file.tensors().into_iter().filter(|(tensor, _)| tensor != name);
        std::fs::write(&path, safetensors::serialize(kept, None).expect("serialised")).expect("write");
        load_weights(&path, &network)
    };
    assert_eq!(without("stem.bn.num_batches_tracked").expect("loaded").statistics.batches_tracked[1], 0);
    let message = format!("{:#}", without("stem.bn.running_mean").expect_err("the statistics are missing"));
    assert!(message.contains("stem.bn.running_mean of normalised is missing"), "{message}");
}
