//! The images that a network receives: of the first step of a run, and of an evaluation.

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::ops::{Augmentation, Backend, Flip, Mixing, Normalise, Precision, TestViews};
use cnn_cuda::train::{Evaluator, Hyperparameters, Trainer};

use super::harness::{Listener, bits, digits, lenet5, two_epochs};
use crate::ops::cuda::options;
use crate::support::cuda::on_cuda;

fn cpu() -> Cpu {
    Cpu::new(Some(2)).expect("threads")
}

fn normalise() -> Normalise {
    let set = digits(1, 1);
    Normalise { shape: set.shape, mean: set.mean, std: set.std }
}

/// Every transform of this trainer's images that mixes or moves them.
fn augmented() -> Hyperparameters {
    let augmentation =
        Augmentation { crop_padding: 4, flip: Flip::Random, cutout: 8, brightness: 0.3, ..Augmentation::default() };
    Hyperparameters { augmentation, mixing: Mixing { mixup: Some(0.5), cutmix: None }, ..two_epochs() }
}

/// Without transforms, the first batch has the images of the data set; asking for it does not change a run.
fn check_first_batch<B: Backend>(backend: impl Fn() -> B) {
    for (hyper, streamed) in [(two_epochs(), false), (two_epochs(), true), (augmented(), false)] {
        let hyper = Hyperparameters { max_steps: Some(2), ..hyper };
        let trainer = || {
            let mut set = digits(90, 32);
            if streamed {
                set.stream_from_memory().expect("streamed");
            }
            Trainer::new(backend(), lenet5(), set, hyper).expect("a trainer")
        };
        let (mut plain, mut asked) = (trainer(), trainer());
        let batch = asked.first_batch().expect("the first batch");
        let (set, len) = (digits(90, 32), lenet5().input().len());
        assert_eq!((batch.values.len(), batch.indices.len()), (32 * len, 32));
        assert_eq!(batch.mix.is_some(), hyper.mixing.is_on());
        let expected: Vec<u8> =
            batch.indices.iter().flat_map(|&index| set.train.images[index as usize * len..][..len].to_vec()).collect();
        let pixels = normalise().pixels(&batch.values);
        let is_plain = !hyper.mixing.is_on();
        assert_eq!(pixels == expected, is_plain, "the images are transformed, or not, as the settings say");
        let mut losses = Vec::new();
        for trainer in [&mut plain, &mut asked] {
            let mut listener = Listener::default();
            trainer.run(&mut listener).expect("a run");
            losses.push((bits(&listener.losses), bits(&trainer.parameters().expect("read"))));
        }
        assert!(losses[0] == losses[1], "asking for the first batch changed the run");
        let error = asked.first_batch().expect_err("the run has begun");
        assert!(format!("{error:#}").contains("before its first step"), "{error:#}");
    }
}

/// The images of an evaluation are those of the test set, also behind a validation set, in any order and repeated; and
/// the evaluator of a finished run has the results of a new one.
fn check_evaluator<B: Backend>(backend: impl Fn() -> B) {
    let (mut set, test) = (digits(90, 45), digits(1, 45).test);
    set.val = digits(1, 13).test;
    let hyper = Hyperparameters { eval_batch_size: 20, max_steps: Some(1), ..two_epochs() };
    let mut trainer = Trainer::new(backend(), lenet5(), set, hyper).expect("a trainer");
    trainer.run(&mut Listener::default()).expect("a run");
    let weights = lenet5().initial_weights(3);
    let mut ended = trainer.into_evaluator(&weights).expect("an evaluator");
    let alone = Evaluator::new(backend(), &lenet5(), &weights, test.clone(), &normalise(), 20, TestViews::None);
    let mut alone = alone.expect("an evaluator");
    let mut logits = [Vec::new(), Vec::new()];
    let mut results = Vec::new();
    for (evaluator, logits) in [&mut ended, &mut alone].into_iter().zip(&mut logits) {
        results.push(evaluator.run(|index, values| logits.push((index, bits(values)))).expect("an evaluation"));
        let indices = [44, 0, 7, 7, 30, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19];
        let pixels = normalise().pixels(&evaluator.images(&indices).expect("images"));
        let len = lenet5().input().len();
        let expected: Vec<u8> = indices.iter().flat_map(|&at| test.images[at * len..][..len].to_vec()).collect();
        assert!(pixels == expected, "other images");
        assert!(evaluator.images(&[]).expect("no images").is_empty());
    }
    assert_eq!(results[0], results[1]);
    assert!(logits[0] == logits[1] && logits[0].len() == 45 && logits[0][44].0 == 44, "other logits");
}

#[test]
fn the_first_batch_is_what_the_network_receives() {
    check_first_batch(cpu);
}

#[test]
fn an_evaluator_gives_the_images_of_its_set() {
    check_evaluator(cpu);
}

#[test]
fn cuda_gives_the_first_batch_and_the_images_of_an_evaluation() {
    let cuda = || Cuda::new(Options { graphs: true, ..options(Precision::Fp32) }).expect("a CUDA device");
    on_cuda(|| {
        check_first_batch(cuda);
        check_evaluator(cuda);
    });
}

/// Black, white and everything beyond.
#[test]
fn normalised_values_become_pixels_again() {
    let normalise = Normalise { mean: vec![0.5, 0.25], std: vec![0.5, 2.0], ..normalise() };
    assert_eq!(normalise.pixels(&[-1.0, -0.125, 1.0, 0.375, 9.0, -9.0]), [0, 0, 255, 255, 255, 0]);
    let single = Normalise { mean: vec![0.1307], std: vec![0.3081], ..normalise };
    for pixel in 0..=255_u8 {
        assert_eq!(single.pixels(&[(f32::from(pixel) / 255.0 - 0.1307) / 0.3081]), [pixel]);
    }
}
