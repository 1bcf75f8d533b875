//! Narrow residual networks give PyTorch's logits, losses and running statistics (`tests/reference/resnets.safetensors`).

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use cnn_cuda::checkpoint::{load_weights, save_weights};
use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::models::resnet::{self, Kind, Layers};
use cnn_cuda::network::{Network, Weights};
use cnn_cuda::ops::{Backend, Optimizer, Precision, Rule};
use cnn_cuda::plan::{Mode, Plan};
use cnn_cuda::shape::Shape;
use cnn_cuda::train::{Hyperparameters, Trainer};
use safetensors::SafeTensors;

use super::harness::{Listener, dataset, hyperparameters, logits};
use crate::ops::cuda::options;
use crate::ops::pytorch::Tensors;
use crate::ops::{Tolerance, compare};
use crate::support::cuda::on_cuda;

const BATCH: usize = 8;

/// Sums are in another order, and batch normalisation over few values amplifies the differences.
const TOLERANCE: Tolerance = Tolerance { absolute: 1e-4, relative: 1e-3 };

pub fn networks() -> [(&'static str, Network); 3] {
    let build = |name, kind, widths: &[usize], blocks: &[usize]| {
        resnet::build(name, Shape::new(32, 32, 3), 10, &Layers { widths, blocks, kind }).expect("a network")
    };
    [
        ("basic", build("basic", Kind::Basic, &[4, 4, 8, 8], &[2, 1, 1, 1])),
        ("bottleneck", build("bottleneck", Kind::Bottleneck, &[2, 4, 4, 4], &[1, 2, 1, 1])),
        ("cifar", build("cifar", Kind::Cifar, &[4, 8, 12], &[2, 2, 2])),
    ]
}

/// Loads the `state_dict` under `prefix` by writing it to its own file at `path`.
fn weights(network: &Network, bytes: &[u8], prefix: &str, path: &Path) -> Weights {
    let file = SafeTensors::deserialize(bytes).expect("valid safetensors");
    let own =
        file.tensors().into_iter().filter_map(|(name, view)| Some((name.strip_prefix(prefix)?.to_string(), view)));
    let own: HashMap<String, _> = own.collect();
    fs::write(path, safetensors::serialize(own, None).expect("serialised")).expect("write");
    load_weights(path, network).expect("PyTorch's names and shapes")
}

/// The weights and normalised images of a network.
pub fn initial(name: &str, network: &Network) -> (Weights, Vec<f32>) {
    let bytes = fs::read("tests/reference/resnets.safetensors").expect("the committed reference");
    let folder = tempfile::tempdir().expect("a folder");
    let weights = weights(network, &bytes, &format!("{name}.initial."), &folder.path().join("weights.safetensors"));
    let tensors = Tensors::new(&bytes);
    (weights, normalised(tensors.bytes(&format!("{name}.images"))))
}

fn normalised(images: &[u8]) -> Vec<f32> {
    images.iter().map(|&byte| (f32::from(byte) / 255.0 - 0.5) / 0.5).collect()
}

fn evaluated<B: Backend>(mut backend: B, network: &Network, weights: &Weights, images: &[u8]) -> Vec<f32> {
    let plan = Plan::new(network, Mode::Inference, BATCH).expect("a plan");
    let images = &images[..BATCH * network.input().len()];
    logits(&mut backend, &plan, weights, &normalised(images))
}

fn check<B: Backend>(backend: impl Fn() -> B) {
    let bytes = fs::read("tests/reference/resnets.safetensors").expect("the committed reference");
    let tensors = Tensors::new(&bytes);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weights.safetensors");
    let as_f64 = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    for (name, network) in networks() {
        let get = |key: &str| as_f64(&tensors.get(&format!("{name}.{key}")).0);
        let initial = weights(&network, &bytes, &format!("{name}.initial."), &path);
        let images = tensors.bytes(&format!("{name}.images"));
        let got = evaluated(backend(), &network, &initial, images);
        compare(&format!("{name} logits"), &got, &get("logits"), TOLERANCE);
        let labels = tensors.integers(&format!("{name}.labels")).iter().map(|&label| label as u32).collect();
        let set = dataset(network.input(), 10, images.to_vec(), labels);
        let optimizer = Optimizer { rule: Rule::sgd(0.9, false), weight_decay: 1e-3, ..Optimizer::default() };
        let hyper = Hyperparameters { optimizer, ..hyperparameters(BATCH, 0.02) };
        let mut trainer = Trainer::new(backend(), network.clone(), set, hyper).expect("a trainer");
        trainer.set_weights(&initial).expect("weights");
        let mut listener = Listener::default();
        trainer.run(&mut listener).expect("a run");
        compare(&format!("{name} losses"), &listener.losses, &get("losses"), TOLERANCE);
        let statistics = trainer.statistics().expect("read");
        for (one, tracked) in network.statistics.iter().zip(&statistics.batches_tracked) {
            let names = ["running_mean", "running_var"].map(|what| format!("final.{}.{what}", one.name));
            let expected = names.map(|name| get(&name)).concat();
            compare(&format!("{name} {}", one.name), &statistics.values[one.range()], &expected, TOLERANCE);
            assert_eq!(*tracked, tensors.integers(&format!("{name}.final.{}.num_batches_tracked", one.name))[0]);
        }
        let parameters = trainer.parameters().expect("read");
        // `load_state_dict(strict=True)` requires the same tensors with the same types and shapes.
        save_weights(&path, &network, &parameters, &statistics).expect("saved");
        let saved = fs::read(&path).expect("read");
        let saved = SafeTensors::deserialize(&saved).expect("valid safetensors");
        let kinds = |file: &SafeTensors, prefix: &str| -> HashMap<String, _> {
            let own = file.tensors().into_iter();
            own.filter_map(|(name, view)| {
                Some((name.strip_prefix(prefix)?.to_string(), (view.dtype(), view.shape().to_vec())))
            })
            .collect()
        };
        let reference = SafeTensors::deserialize(&bytes).expect("valid safetensors");
        assert_eq!(kinds(&saved, ""), kinds(&reference, &format!("{name}.initial.")));
    }
}

#[test]
fn narrow_residual_networks_match_pytorch() {
    check(|| Cpu::new(Some(2)).expect("two threads"));
    on_cuda(|| check(|| Cuda::new(Options { graphs: true, ..options(Precision::Fp32) }).expect("a CUDA device")));
}
