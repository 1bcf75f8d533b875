//! Checkpoints and weights of every released version load, and their runs continue.
//!
//! `tests/reference/checkpoint-vN.safetensors` is the checkpoint of [`run`] after four steps, as version N of the format
//! stores it, and `model-v1.safetensors` has its averaged weights. A new version gets a file of its own, written by
//! `save_state`; the older files stay.

use std::path::Path;

use cnn_cuda::checkpoint::{RunIdentity, inspect_checkpoint, load_state, load_weights};
use cnn_cuda::cpu::Cpu;
use cnn_cuda::data::{Dataset, Split};
use cnn_cuda::ops::{Adam, Optimizer, Rule};
use cnn_cuda::shape::Shape;
use cnn_cuda::train::{Hyperparameters, LearningRate, Trainer};

use crate::support::tiny::tiny;
use crate::train::harness::{Listener, bits, hyperparameters};

/// Twenty images, so an epoch has three steps.
fn images() -> Dataset {
    let shape = Shape::new(6, 6, 1);
    let images: Vec<u8> = (0..20 * shape.len()).map(|index| (index * 37 % 251) as u8).collect();
    let test = Split { images: images[..shape.len()].to_vec(), labels: vec![0], ..Split::default() };
    Dataset {
        name: "test".into(),
        shape,
        classes: (0..3).map(|class| class.to_string()).collect(),
        mean: vec![0.5],
        std: vec![0.5],
        train: Split { images, labels: (0..20).map(|index| index % 3).collect(), ..Split::default() },
        val: Split::default(),
        test,
    }
}

/// The run of a version's file: two epochs with momentum, in version 3 with Adam, and averaged weights.
fn run(version: u32) -> (Trainer<Cpu>, RunIdentity) {
    let dataset = images();
    let rule = if version < 3 { Rule::sgd(0.9, false) } else { Rule::Adam(Adam::default()) };
    let hyper = Hyperparameters {
        epochs: 2,
        learning_rate: LearningRate::constant(0.05),
        optimizer: Optimizer { rule, average_decay: Some(0.75), ..Optimizer::default() },
        seed: 3,
        shuffle: true,
        ..hyperparameters(8, 0.05)
    };
    let identity = RunIdentity {
        model: "tiny".into(),
        dataset: "test".into(),
        train_images: 20,
        data_fingerprint: dataset.fingerprint(),
        seed: 3,
        batch_size: 8,
        shuffle: true,
        ..RunIdentity::default()
    };
    let backend = Cpu::new(Some(1)).expect("a thread");
    (Trainer::new(backend, tiny(), dataset, hyper).expect("a trainer"), identity)
}

/// Whether all values are equal but for the rounding of another CPU.
fn are_close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5)
}

#[test]
fn checkpoints_of_every_version_resume() {
    for version in [1, 2, 3] {
        let (mut whole, mut listener) = (run(version).0, Listener { stop_after: Some(4), ..Listener::default() });
        whole.run(&mut listener).expect("four steps");
        let expected = whole.state().expect("a state");
        whole.run(&mut Listener::default()).expect("the rest");
        let path = format!("tests/reference/checkpoint-v{version}.safetensors");
        let path = Path::new(&path);
        assert_eq!(inspect_checkpoint(path).expect("a checkpoint").has_digest, version > 1);
        let (mut trainer, identity) = run(version);
        let state = load_state(path, &trainer.network, &identity).expect("a checkpoint of an earlier version");
        assert_eq!((state.position, state.best), (expected.position, expected.best));
        // Versions 1 and 2 were written by programs that did not count updates.
        assert_eq!((state.update_count, expected.update_count), (4, 4));
        assert_eq!(
            (state.metrics.correct, state.metrics.samples),
            (expected.metrics.correct, expected.metrics.samples)
        );
        assert_eq!(state.statistics.batches_tracked, [4]);
        for (read, expected) in [
            (&state.parameters, &expected.parameters),
            (&state.momentum, &expected.momentum),
            (&state.second_moment, &expected.second_moment),
            (&state.average, &expected.average),
            (&state.statistics.values, &expected.statistics.values),
        ] {
            assert!(are_close(read, expected), "version {version}: {read:?} instead of {expected:?}");
        }
        trainer.restore(&state).expect("restored");
        trainer.run(&mut Listener::default()).expect("the rest");
        let ends = [&mut trainer, &mut whole].map(|it| it.parameters().expect("read"));
        assert!(are_close(&ends[0], &ends[1]), "version {version}: {ends:?}");
        if state.parameters == expected.parameters && state.momentum == expected.momentum {
            assert_eq!(bits(&ends[0]), bits(&ends[1]), "version {version}");
        }
    }
}

#[test]
fn weights_of_the_first_version_load() {
    let weights = load_weights(Path::new("tests/reference/model-v1.safetensors"), &tiny()).expect("weights");
    let (trainer, identity) = run(1);
    let path = Path::new("tests/reference/checkpoint-v1.safetensors");
    let state = load_state(path, &trainer.network, &identity).expect("a checkpoint");
    assert_eq!((weights.parameters, weights.statistics), (state.average, state.statistics));
}

#[test]
fn a_newer_version_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.safetensors");
    let bytes = std::fs::read("tests/reference/checkpoint-v1.safetensors").expect("read");
    let text = b"{\\\"version\\\":1,";
    let at = bytes.windows(text.len()).position(|window| window == text).expect("the version") + text.len() - 2;
    for (digit, words) in [(b'9', "version 9, which a newer cnn-cuda wrote"), (b'2', "no SHA-256"), (b'0', "damaged")] {
        let mut bytes = bytes.clone();
        bytes[at] = digit;
        std::fs::write(&path, bytes).expect("write");
        let (trainer, identity) = run(1);
        let message = format!("{:#}", load_state(&path, &trainer.network, &identity).expect_err("another version"));
        assert!(message.contains(words), "{message}");
    }
}
