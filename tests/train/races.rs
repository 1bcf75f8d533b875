//! A few training steps and an evaluation of whole networks on the emulator build that checks for data races.

use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::models::find;
use cnn_cuda::network::Network;
use cnn_cuda::ops::{Algorithm, Optimizer, Precision, Rule};
use cnn_cuda::shape::Shape;
use cnn_cuda::train::{Hyperparameters, Trainer};

use super::harness::{Listener, dataset, hyperparameters};
use super::{assorted, networks, resnet};
use crate::ops::cuda::options;
use crate::support::emulator::{RACES, on_emulator};

/// Runs three steps, captured and then replayed, the last on a smaller batch, with every feature of the update.
fn train(network: &Network, precision: Precision, algorithm: Algorithm, batch: usize) {
    let options = Options { graphs: true, algorithm: Some(algorithm), ..options(precision) };
    let (shape, classes) = (network.input(), network.classes());
    let count = 2 * batch + batch.div_ceil(2);
    let images = (0..count * shape.len()).map(|i| (i * 71 % 251) as u8).collect();
    let set = dataset(shape, classes, images, (0..count).map(|i| (i * 7 % classes) as u32).collect());
    let optimizer = Optimizer {
        rule: Rule::sgd(0.9, false),
        clip_norm: Some(1.0),
        average_decay: Some(0.9),
        ..Optimizer::default()
    };
    let hyper = Hyperparameters { optimizer, label_smoothing: 0.1, ..hyperparameters(batch, 0.01) };
    let mut trainer = Trainer::new(Cuda::new(options).expect("a device"), network.clone(), set, hyper).expect("fits");
    let mut listener = Listener::default();
    trainer.run(&mut listener).expect("a run");
    assert_eq!(listener.losses.len(), 3, "{}", network.name);
}

fn model(name: &str) -> Network {
    let model = find(name).expect("a model");
    (model.build)(model.input, model.classes).expect("a network")
}

#[test]
#[ignore = "long; CI runs it"]
fn networks_of_all_kinds_are_free_of_data_races() {
    on_emulator(&[RACES], || {
        // Layers without a direct kernel use im2col.
        let all = [
            (Algorithm::Direct, Precision::Fp32),
            (Algorithm::Implicit, Precision::Fp16),
            (Algorithm::CublasLt, Precision::Tf32),
        ];
        for (algorithm, precision) in all {
            if algorithm == Algorithm::Implicit {
                train(&model("resnet20"), precision, algorithm, 1);
            }
            if algorithm != Algorithm::CublasLt {
                train(&model("mnist-cnn"), precision, algorithm, 2);
                train(&model("lenet5"), precision, algorithm, 40);
            }
            train(&assorted::network(Shape::new(10, 9, 2)), precision, algorithm, 6);
            let narrow = networks::networks().into_iter().chain(resnet::networks().map(|(_, network)| network));
            narrow.for_each(|network| train(&network, precision, algorithm, 3));
        }
    });
}
