//! Frozen layers: what is planned, PyTorch's losses with `requires_grad=False` and `.eval()` norms, tensors that keep
//! their bits, and unfreezing at an epoch with interruptions around it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use cnn_cuda::checkpoint::{load_weights, save_weights};
use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::models::find;
use cnn_cuda::models::resnet::{self, Kind, Layers};
use cnn_cuda::network::{FirstLayer, Network, Weights};
use cnn_cuda::ops::{Backend, Optimizer, Precision, Rule};
use cnn_cuda::plan::{Mode, Plan};
use cnn_cuda::shape::Shape;
use cnn_cuda::train::{Hyperparameters, Outcome, TrainState, Trainer};
use safetensors::SafeTensors;

use super::harness::{Listener, bits, dataset, digits, hyperparameters, two_epochs};
use crate::ops::cuda::options;
use crate::ops::pytorch::Tensors;
use crate::ops::{Tolerance, compare};
use crate::support::cuda::on_cuda;

const BATCH: usize = 8;

fn narrow(input: Shape) -> Network {
    let layers = Layers { widths: &[4, 8, 12], blocks: &[2; 3], kind: Kind::Cifar };
    resnet::build("narrow", input, 10, &layers).expect("a network")
}

/// The settings of each case of `tests/reference/freezing.py`.
fn cases() -> [(&'static str, &'static str, Option<u32>, Option<f32>); 4] {
    [
        ("bottom", "conv1,bn1,layer1", None, None),
        ("middle", "layer2,layer3.0.bn2", None, Some(1.0)),
        ("backbone", "backbone", None, None),
        ("unfrozen", "conv1,bn1,layer1", Some(5), None),
    ]
}

/// The weights under `initial.`, read through a file of their own.
fn initial(network: &Network, bytes: &[u8], folder: &Path) -> Weights {
    let file = SafeTensors::deserialize(bytes).expect("valid safetensors");
    let own = file.tensors().into_iter();
    let own: HashMap<String, _> =
        own.filter_map(|(name, view)| Some((name.strip_prefix("initial.")?.to_string(), view))).collect();
    let path = folder.join("initial.safetensors");
    fs::write(&path, safetensors::serialize(own, None).expect("serialised")).expect("written");
    load_weights(&path, network).expect("PyTorch's names and shapes")
}

fn check_losses<B: Backend>(backend: impl Fn() -> B) {
    let bytes = fs::read("tests/reference/freezing.safetensors").expect("the committed reference");
    let (tensors, folder) = (Tensors::new(&bytes), tempfile::tempdir().expect("a folder"));
    let images = tensors.bytes("images");
    let labels: Vec<u32> = tensors.integers("labels").iter().map(|&label| label as u32).collect();
    for (name, prefixes, unfreeze_at, clip_norm) in cases() {
        let network = narrow(Shape::new(16, 16, 3)).with_frozen(prefixes).expect("its layers");
        let weights = initial(&network, &bytes, folder.path());
        let rule = Rule::sgd(0.9, false);
        let optimizer = Optimizer { rule, weight_decay: 1e-3, clip_norm, ..Optimizer::default() };
        let hyper = Hyperparameters { epochs: 10, optimizer, unfreeze_at, ..hyperparameters(BATCH, 0.005) };
        let set = dataset(network.input(), 10, images.to_vec(), labels.clone());
        let mut trainer = Trainer::new(backend(), network.clone(), set, hyper).expect("a trainer");
        trainer.set_weights(&weights).expect("weights");
        let mut listener = Listener::default();
        trainer.run(&mut listener).expect("a run");
        let losses = tensors.bytes(&format!("{name}.losses")).chunks_exact(8);
        let losses: Vec<f64> = losses.map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes"))).collect();
        assert_eq!(losses.len(), 50);
        // PyTorch's float32 is within 5e-7 of these, its float64.
        compare(name, &listener.losses, &losses, Tolerance { absolute: 2e-5, relative: 0.0 });
        let statistics = trainer.statistics().expect("read");
        let tracked = |norm: &str| tensors.integers(&format!("{name}.final.{norm}.num_batches_tracked"))[0];
        let expected: Vec<i64> = network.statistics.iter().map(|norm| tracked(&norm.name)).collect();
        assert_eq!(statistics.batches_tracked, expected, "{name}");
        if unfreeze_at.is_none() {
            check_frozen(&network, &weights, &trainer.state().expect("a state"));
        }
    }
}

/// Asserts that frozen tensors kept their bits, and that all others changed.
fn check_frozen(network: &Network, before: &Weights, after: &TrainState) {
    for (index, parameter) in network.parameters.iter().enumerate() {
        let [before, after] = [&before.parameters, &after.parameters].map(|all| bits(&all[parameter.range()]));
        assert_eq!(before == after, network.is_frozen(index), "{}", parameter.name);
    }
    for node in &network.nodes {
        let Some(statistics) = node.statistics.map(|index| &network.statistics[index]) else { continue };
        let [before, after] = [&before.statistics, &after.statistics].map(|all| bits(&all.values[statistics.range()]));
        assert_eq!(before == after, network.is_frozen_norm(node), "{}", node.name);
    }
    assert!(after.momentum[..network.frozen_len()].iter().all(|&momentum| momentum == 0.0));
}

#[test]
fn frozen_networks_match_pytorch_and_frozen_tensors_keep_their_bits() {
    check_losses(|| Cpu::new(Some(2)).expect("two threads"));
    on_cuda(|| {
        check_losses(|| Cuda::new(Options { graphs: true, ..options(Precision::Fp32) }).expect("a CUDA device"));
    });
}

#[test]
#[ignore = "long; CI runs it"]
fn frozen_tensors_keep_their_bits_in_every_precision_on_cuda() {
    on_cuda(|| {
        for precision in [Precision::Tf32, Precision::Fp16] {
            let network = narrow(Shape::new(28, 28, 1)).with_frozen("layer1,layer2").expect("its layers");
            let cuda = Cuda::new(Options { graphs: true, ..options(precision) }).expect("a CUDA device");
            let mut trainer = Trainer::new(cuda, network.clone(), digits(96, 32), two_epochs()).expect("a trainer");
            let weights = network.initial_weights(0);
            trainer.run(&mut ()).expect("a run");
            check_frozen(&network, &weights, &trainer.state().expect("a state"));
        }
    });
}

/// The labels of a training plan's backward pass.
fn backward(network: &Network) -> Vec<String> {
    let plan = Plan::new(network, Mode::Training, 4).expect("a plan");
    plan.backward.iter().map(|step| step.label.clone()).collect()
}

#[test]
fn no_gradient_is_computed_below_the_last_layer_that_is_trained() {
    for name in ["resnet20", "resnet50", "vgg11_bn", "alexnet", "googlenet", "mnist-cnn"] {
        let model = find(name).expect("a known model");
        let network = (model.build)(model.input, model.classes).expect("a network");
        let (whole, steps) =
            (backward(&network).len(), backward(&network.clone().with_frozen("backbone").expect("a head")));
        // The loss sums the bias gradient.
        let heads = network.heads().len();
        let is_head = |label: &&String| label.contains("fc") || label.contains("classifier") || label.contains("layer");
        let computed: Vec<&String> = steps.iter().filter(|label| label.ends_with("backward weight")).collect();
        assert!(whole > 10 && computed.len() == heads && computed.iter().all(is_head), "{name}: {steps:?}");
        // Dropouts count their steps.
        assert_eq!(steps.iter().filter(|label| !label.ends_with(" step")).count(), heads, "{name}: {steps:?}");
    }
    let steps = backward(&narrow(Shape::new(32, 32, 3)).with_frozen("conv1,bn1,layer1").expect("its layers"));
    let below = |label: &&String| label.starts_with("conv1") || label.starts_with("bn1") || label.starts_with("layer1");
    assert_eq!(steps.iter().filter(below).collect::<Vec<_>>(), [""; 0]);
    // A gradient passes through a frozen layer, but not to its parameters.
    let steps = backward(&narrow(Shape::new(32, 32, 3)).with_frozen("layer2").expect("its layers"));
    let of_layer: Vec<&str> = steps.iter().filter_map(|label| label.strip_prefix("layer2.")).collect();
    assert!(of_layer.contains(&"0.conv1 backward input") && of_layer.contains(&"1.bn1 backward input"), "{of_layer:?}");
    assert!(!of_layer.iter().any(|label| label.contains("weight") || label.contains("sums")), "{of_layer:?}");
    assert!(steps.contains(&"conv1 backward weight".to_string()));
}

/// A frozen batch normalisation needs no statistics of its batch, and less memory.
#[test]
fn frozen_norms_are_planned_as_in_evaluation() {
    let network = narrow(Shape::new(32, 32, 3));
    let plan = |network: &Network| Plan::new(network, Mode::Training, 4).expect("a plan");
    let frozen = plan(&network.clone().with_frozen("backbone").expect("a head"));
    let described: Vec<String> = frozen.forward.iter().map(|step| step.op.operands().describe()).collect();
    assert!(!described.iter().any(|text| text.contains("statistics")), "{described:?}");
    assert!(2 * frozen.memory_sizes(false).arena < plan(&network).memory_sizes(false).arena);
    // A batch of one image of one pixel has no variance, but frozen norms need none.
    let one = narrow(Shape::new(4, 4, 3)).with_frozen("backbone").expect("a head");
    let set = dataset(one.input(), 10, vec![7; 3 * 48], vec![0, 1, 2]);
    let cpu = || Cpu::new(Some(1)).expect("a thread");
    Trainer::new(cpu(), one.clone(), set.clone(), hyperparameters(1, 0.1))
        .expect("a trainer")
        .run(&mut ())
        .expect("a run");
    let later = Hyperparameters { epochs: 2, unfreeze_at: Some(2), ..hyperparameters(1, 0.1) };
    assert!(Trainer::new(cpu(), one, set, later).is_err());
}

#[test]
fn prefixes_are_modules_and_unknown_ones_are_listed() {
    let network = narrow(Shape::new(32, 32, 3));
    let frozen = |prefixes: &str| -> Vec<String> {
        let network = network.clone().with_frozen(prefixes).expect("its layers");
        let names: Vec<_> =
            network.parameters.iter().enumerate().filter(|(index, _)| network.is_frozen(*index)).collect();
        let len: usize = names.iter().map(|(_, parameter)| parameter.len()).sum();
        assert_eq!(network.frozen_len(), len);
        // They are the first of the flat buffer, without gaps.
        let mut ranges: Vec<_> = network.parameters.iter().map(cnn_cuda::network::Parameter::range).collect();
        ranges.sort_by_key(|range| range.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start) && ranges[0].start == 0);
        assert!(names.iter().all(|(_, parameter)| parameter.range().end <= len));
        names.into_iter().map(|(_, parameter)| parameter.name.clone()).collect()
    };
    assert_eq!(frozen("fc"), ["fc.weight", "fc.bias"]);
    assert_eq!(frozen("fc.bias, conv1."), ["conv1.weight", "fc.bias"]);
    assert_eq!(frozen("layer1.1.bn2"), ["layer1.1.bn2.weight", "layer1.1.bn2.bias"]);
    assert_eq!(frozen("backbone").len(), network.parameters.len() - 2);
    let error = |prefixes: &str| network.clone().with_frozen(prefixes).expect_err("it cannot be frozen").to_string();
    // `layer` is the beginning of a name, but not a module.
    for prefix in ["layer", "layer4", "", "nosuch"] {
        let message = error(prefix);
        for words in
            [&format!("no layer or module {prefix:?}"), "conv1, bn1, layer1 (layer1.0, layer1.1), layer2", "fc"]
        {
            assert!(message.contains(words), "{words:?} is not in: {message}");
        }
    }
    assert!(error("bn1.weight").contains("the batch normalisation bn1 can only be fixed as a whole"));
    assert!(error("backbone,fc").contains("nothing is left to train"));
    // Gabor filters stay the first values whatever else is frozen.
    let gabor = network.clone().with_first_layer(FirstLayer::GaborFrozen).and_then(|it| it.with_frozen("fc"));
    let gabor = gabor.expect("its layers");
    let drawn = network.clone().with_first_layer(FirstLayer::GaborFrozen).expect("a convolution");
    assert_eq!(gabor.parameters[0].offset, 0);
    assert_eq!(gabor.frozen_len(), drawn.frozen_len() + 12 * 10 + 10);
    let filters = drawn.parameters[0].range();
    assert_eq!(gabor.initial_parameters(0)[filters.clone()], drawn.initial_parameters(0)[filters]);
}

/// Files have PyTorch's names, so the order in memory does not matter to them.
#[test]
fn files_do_not_depend_on_what_is_frozen() {
    let folder = tempfile::tempdir().expect("a folder");
    let network = narrow(Shape::new(16, 16, 3));
    let frozen = network.clone().with_frozen("layer3").expect("its layers");
    let [whole, part] = ["whole", "part"].map(|name| folder.path().join(name));
    for (network, path) in [(&network, &whole), (&frozen, &part)] {
        let Weights { parameters, statistics } = network.initial_weights(3);
        save_weights(path, network, &parameters, &statistics).expect("saved");
    }
    assert!(fs::read(&whole).expect("read") == fs::read(&part).expect("read"));
    assert!(load_weights(&whole, &frozen).expect("loaded") == frozen.initial_weights(3));
}

fn unfreezing<B: Backend>(backend: B, epochs: u32) -> Trainer<B> {
    let network = narrow(Shape::new(28, 28, 1)).with_frozen("conv1,bn1,layer1").expect("its layers");
    let optimizer = Optimizer { average_decay: Some(0.9), clip_norm: Some(2.0), ..two_epochs().optimizer };
    let hyper = Hyperparameters { epochs, optimizer, unfreeze_at: Some(3), batch_size: 16, ..two_epochs() };
    Trainer::new(backend, network, digits(40, 20), hyper).expect("a trainer")
}

fn end_of<B: Backend>(trainer: &mut Trainer<B>, losses: &[f32]) -> ([Vec<u32>; 5], Vec<i64>) {
    let TrainState { parameters, statistics, momentum, average, .. } = trainer.state().expect("a state");
    let values = [parameters, statistics.values, momentum, average, losses.to_vec()];
    (values.map(|values| bits(&values)), statistics.batches_tracked)
}

/// Asserts that a run that continues at `state`, in which nothing is frozen if it `is_unfrozen`, ends like `end`.
fn resume<B: Backend>(
    backend: &impl Fn() -> B,
    state: &TrainState,
    early: &[f32],
    is_unfrozen: bool,
    end: &([Vec<u32>; 5], Vec<i64>),
) {
    let (mut second, mut late) = (unfreezing(backend(), 4), Listener::default());
    second.restore(state).expect("restored");
    let at = state.position.total_steps;
    assert_eq!(second.network.frozen_len() == 0, is_unfrozen, "after {at}");
    assert_eq!(second.statistics().expect("read"), state.statistics, "after {at}");
    second.run(&mut late).expect("a run");
    assert!(*end == end_of(&mut second, &[early, &late.losses].concat()), "after {at}");
    let earlier = unfreezing(backend(), 4).state().expect("a state");
    let message = second.restore(&earlier).expect_err("it is unfrozen").to_string();
    assert!(message.contains("an earlier epoch"), "{message}");
}

/// Three steps an epoch; the third epoch begins after six.
fn check_unfreezing<B: Backend>(backend: impl Fn() -> B, stops: &[u64]) {
    let (mut whole, mut listener) = (unfreezing(backend(), 4), Listener::default());
    let before = whole.parameters().expect("read");
    whole.run(&mut listener).expect("a run");
    let end = end_of(&mut whole, &listener.losses);
    // The frozen norms of conv1 and layer1 have counted the steps of two epochs only.
    assert_eq!(end.1[..5], [6; 5]);
    assert!(end.1[5..].iter().all(|&tracked| tracked == 12));
    let after = whole.parameters().expect("read");
    let moved = whole.network.parameters.iter().filter(|it| before[it.range()] != after[it.range()]).count();
    assert_eq!((moved, whole.network.frozen_len()), (whole.network.parameters.len(), 0));
    for &stop in stops {
        let (mut first, mut early) =
            (unfreezing(backend(), 4), Listener { stop_after: Some(stop), ..Listener::default() });
        assert_eq!(first.run(&mut early).expect("a run"), Outcome::Interrupted);
        // After six steps, the evaluation of the second epoch is still to be made.
        resume(&backend, &first.state().expect("a state"), &early.losses, stop > 6, &end);
    }
    let (mut first, mut early) = (unfreezing(backend(), 2), Listener::default());
    first.run(&mut early).expect("a run");
    resume(&backend, &first.state().expect("a state"), &early.losses, true, &end);
}

#[test]
#[ignore = "long; CI runs it"]
fn unfreezing_and_interruptions_around_it_give_the_same_bits() {
    check_unfreezing(|| Cpu::new(Some(2)).expect("two threads"), &[2, 5, 6, 7, 10]);
    on_cuda(|| {
        let cuda = || Cuda::new(Options { graphs: true, ..options(Precision::Fp32) }).expect("a CUDA device");
        check_unfreezing(cuda, &[5, 6, 7]);
    });
}
