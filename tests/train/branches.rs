//! Weight gradients beside what follows them: the plan keeps what they read, the numbers stay the same, and a join that is
//! missing shows.

use anyhow::Result;
use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::models::TABLE;
use cnn_cuda::ops::{
    Activation, Algorithm, Backend, Branches, Conv2d, Conv2dBackwardWeight, ConvOps, JoinOps, Recording, Region, Span,
};
use cnn_cuda::plan::{Mode, Plan};
use cnn_cuda::shape::{Shape, Window};
use cnn_cuda::train::{Hyperparameters, Trainer};

use super::dag::branching;
use super::harness::{Listener, bits, digits, lenet5, two_epochs};
use super::norm::normalised;
use crate::ops::cuda::options;
use crate::ops::lab::{Lab, random};
use crate::support::cuda::{on_cuda, on_the_emulator};

fn overlap(a: Span, b: Span) -> bool {
    a.region == b.region && a.offset < b.offset + b.len && b.offset < a.offset + a.len
}

#[test]
fn nothing_overwrites_what_a_weight_gradient_reads_before_the_next_one() {
    let models = TABLE.iter().map(|model| (model.build)(model.input, model.classes).expect("a network"));
    let shape = Shape::new(12, 10, 3);
    let more = [branching(shape, 8, 0.1), normalised(shape, 8, Activation::Relu)];
    for network in models.chain(more) {
        let plan = Plan::new(&network, Mode::Training, 4).expect("a plan");
        let mut beside = 0;
        for (index, step) in plan.backward.iter().enumerate().filter(|(_, step)| step.kind.is_weight_gradient()) {
            let (reads, _) = step.kind.buffers();
            for later in plan.backward[index + 1..].iter().take_while(|step| !step.kind.is_weight_gradient()) {
                beside += 1;
                let (_, writes) = later.kind.buffers();
                let clear = |&read: &usize| !writes.iter().any(|&write| overlap(plan.span(read), plan.span(write)));
                let clear = reads.iter().all(clear);
                assert!(clear, "{}: {} overwrites what {} reads", network.name, later.label, step.label);
            }
        }
        assert!(beside > 0, "{} has no branches", network.name);
    }
}

fn cuda(precision: &'static str, algorithm: Option<Algorithm>, branches: Branches) -> Cuda {
    Cuda::new(Options { graphs: true, algorithm, branches, ..options(precision) }).expect("a CUDA device")
}

/// Weights and step losses of a few steps, as bits, and whether they had branches.
fn few_steps(backend: Cuda) -> (Vec<u32>, Vec<u32>, Option<bool>) {
    let hyper = Hyperparameters { epochs: 1, batch_size: 16, max_steps: Some(5), ..two_epochs() };
    let mut trainer = Trainer::new(backend, lenet5(), digits(80, 16), hyper).expect("a trainer");
    let mut listener = Listener::default();
    trainer.run(&mut listener).expect("a run");
    let branches = trainer.backend.has_branches(Recording::train_step(16));
    (bits(&trainer.parameters().expect("read")), bits(&listener.losses), branches)
}

#[test]
fn branches_change_no_bit() {
    on_cuda(|| {
        let in_fp32 = [Algorithm::Direct, Algorithm::Im2col].map(|algorithm| ("fp32", algorithm));
        let in_fp16 = [Algorithm::Implicit, Algorithm::CublasLt].map(|algorithm| ("fp16", algorithm));
        for (precision, algorithm) in in_fp32.into_iter().chain(in_fp16) {
            let [without, with] = [Branches::Off, Branches::On].map(|branches| {
                let (weights, losses, has_branches) = few_steps(cuda(precision, Some(algorithm), branches));
                assert_eq!(has_branches, Some(branches == Branches::On));
                (weights, losses)
            });
            assert!(without == with, "{precision}, {algorithm:?}");
        }
    });
}

/// By a clock that counts work, branches save nothing.
#[test]
fn branches_are_tried_where_nothing_is_asked_for() {
    on_cuda(|| {
        let (weights, losses, branches) = few_steps(cuda("fp32", Some(Algorithm::Direct), Branches::Auto));
        let expected = few_steps(cuda("fp32", Some(Algorithm::Direct), Branches::Off));
        assert!((weights, losses) == (expected.0, expected.1));
        assert!(branches == Some(false) || !on_the_emulator(), "{branches:?}");
    });
}

/// The weight gradient of a convolution whose output gradient is overwritten after it, from an element on, with and without
/// a join between: run as it comes, captured, and replayed twice.
fn overwritten(algorithm: Algorithm, joined: bool, from: usize) -> Result<Vec<Vec<f32>>> {
    let window = Window { kernel: 3, stride: 1, padding: 0 };
    let op = Conv2d::new(Shape::new(5, 5, 1), 4, window);
    let mut lab = Lab::new(cuda("fp32", Some(algorithm), Branches::On));
    let (input, d_output) = (lab.put(Region::Arena, &random(25, 0)), random(36, 1));
    let (kept, gradient) = (lab.put(Region::Arena, &d_output), lab.put(Region::Arena, &d_output));
    let (zeros, d_weight) = (lab.put(Region::Arena, &[0.0; 36]), lab.empty(Region::Gradients, 36));
    let rest = Span::new(gradient.region, gradient.offset + from, gradient.len - from);
    let mut step = || {
        lab.backend.run(Recording::train_step(1), |cuda| {
            cuda.copy(36, kept, gradient)?;
            cuda.conv2d_backward_weight(&op, 1, Conv2dBackwardWeight { input, d_output: gradient, d_weight })?;
            if joined {
                cuda.join()?;
            }
            cuda.copy(rest.len, zeros, rest)?;
            cuda.join()
        })?;
        lab.backend.read(d_weight)
    };
    (0..4).map(|_| step()).collect()
}

#[test]
fn a_missing_join_shows() {
    on_cuda(|| {
        for algorithm in [Algorithm::Direct, Algorithm::Implicit] {
            let joined = overwritten(algorithm, true, 4).expect("four steps");
            assert!(joined[0].iter().any(|value| *value != 0.0), "{algorithm:?}: nothing was computed");
            assert!(joined.iter().all(|values| *values == joined[0]), "{algorithm:?}: {joined:?}");
            if on_the_emulator() {
                let hasty = overwritten(algorithm, false, 4).expect("four steps");
                assert_eq!(hasty[0], joined[0], "without a recording all comes in order");
                assert!(hasty.iter().any(|values| *values != joined[0]), "{algorithm:?}: {hasty:?}");
                // What is overwritten from its beginning on is seen before anything runs.
                let refused = format!("{:#}", overwritten(algorithm, false, 0).expect_err("two branches share memory"));
                assert!(refused.contains("CUDA_ERROR_INVALID_VALUE"), "{refused}");
            }
        }
    });
}
