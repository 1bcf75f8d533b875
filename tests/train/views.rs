//! Evaluation with test-time augmentation, compared with PyTorch's logits, in runs and afterwards.

use std::fs;
use std::path::Path;

use cnn_cuda::checkpoint::load_weights;
use cnn_cuda::cpu::Cpu;
use cnn_cuda::data::Split;
use cnn_cuda::network::{Network, Weights};
use cnn_cuda::ops::{Backend, Metrics, Normalise, TestViews};
use cnn_cuda::train::{Evaluator, Hyperparameters, Trainer};

use super::harness::{Listener, digits, lenet5, two_epochs};
use crate::ops::{FP32, Tolerance, compare};

const ALL: [TestViews; 3] = [TestViews::None, TestViews::Flip, TestViews::FlipShift];

/// Weights and images from PyTorch.
fn reference() -> (Network, Weights, Vec<u8>) {
    let (network, path) = (lenet5(), Path::new("tests/reference/lenet5.safetensors"));
    let weights = load_weights(path, &network).expect("PyTorch's weights");
    let bytes = fs::read(path.with_extension("images.safetensors")).expect("the committed reference");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("valid safetensors");
    (network, weights, file.tensor("images").expect("the tensor exists").data().to_vec())
}

/// Compares logits and loss with PyTorch's; the last batch is smaller. Tests of other backends use it too.
pub fn check_pytorch<B: Backend>(backend: impl Fn() -> B, tolerance: Tolerance) {
    let (network, weights, images) = reference();
    let text = fs::read_to_string("tests/reference/views.json").expect("the committed reference");
    let numbers: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let shape = network.input();
    let normalise = Normalise { shape, mean: vec![0.5], std: vec![0.5] };
    let labels: Vec<u32> = (0..images.len() / shape.len()).map(|image| image as u32 % 10).collect();
    let mut before = Vec::new();
    for views in ALL {
        let split = Split { images: images.clone(), labels: labels.clone(), ..Split::default() };
        let evaluator = Evaluator::new(backend(), &network, &weights, split, &normalise, 6, views);
        let mut found = Vec::new();
        let metrics = evaluator.expect("memory").run(|_, logits| found.extend_from_slice(logits)).expect("finite");
        let rows: Vec<Vec<f64>> = serde_json::from_value(numbers["logits"][views.name()].clone()).expect("logits");
        compare(&format!("logits of {}", views.name()), &found, &rows.concat(), tolerance);
        let loss = |(row, &label): (&Vec<f64>, &u32)| {
            row.iter().map(|logit| logit.exp()).sum::<f64>().ln() - row[label as usize]
        };
        let losses: f64 = rows.iter().zip(&labels).map(loss).sum();
        compare("loss", &[metrics.loss_sum as f32], &[losses], tolerance);
        assert_eq!((metrics.samples, found.len()), (labels.len() as u64, 10 * labels.len()));
        assert!(found != before, "the views have no effect");
        before = found;
    }
}

/// The evaluations of a run use its views, also of streamed images, and equal those of its weights. Tests of other
/// backends use it too.
pub fn check_run<B: Backend>(backend: impl Fn() -> B) {
    let run = |views, streamed: bool| -> Vec<Metrics> {
        let mut set = digits(64, 50);
        if streamed {
            set.stream_from_memory().expect("streamed");
        }
        let hyper = Hyperparameters { views, eval_batch_size: 20, ..two_epochs() };
        let mut trainer = Trainer::new(backend(), lenet5(), set, hyper).expect("a trainer");
        let mut listener = Listener::default();
        trainer.run(&mut listener).expect("a run");
        let weights = Weights { parameters: trainer.parameters().expect("read"), ..lenet5().initial_weights(0) };
        let digits = digits(1, 50);
        let normalise = Normalise { shape: digits.shape, mean: digits.mean, std: digits.std };
        let evaluator = Evaluator::new(backend(), &lenet5(), &weights, digits.test, &normalise, 20, views);
        let alone = evaluator.expect("memory").run(|_, _| ()).expect("finite");
        let all: Vec<Metrics> = listener.epochs.iter().map(|epoch| epoch.test).collect();
        assert_eq!(all.last(), Some(&alone), "{}", views.name());
        all
    };
    let plain = run(TestViews::None, false);
    let six = run(TestViews::FlipShift, false);
    assert_eq!(run(TestViews::FlipShift, true), six, "streamed images");
    assert!(plain.len() == 2 && plain != six);
}

#[test]
fn mean_logits_are_those_of_pytorch() {
    check_pytorch(|| Cpu::new(Some(2)).expect("threads"), FP32);
}

#[test]
fn a_run_and_its_weights_are_evaluated_with_the_same_views() {
    check_run(|| Cpu::new(Some(2)).expect("threads"));
}
