//! Two CUDA backends in one process: one captures programs while the other is created, computes and is dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::ops::{
    Activation, Algorithm, Backend, Linear, LinearBackwardWeight, LinearForward, MemorySizes, Op, Precision, Region,
    Step,
};

use super::cuda::options;
use super::lab::{Lab, random, sizes_with_columns};
use crate::support::cuda::on_cuda;

/// The number of programs that are captured one after another.
const PROGRAMS: usize = 6;
/// How often a program repeats its operators, so that its capture lasts as long as the other backend's lifetime.
const REPEATS: usize = 300;

fn lab(algorithm: Algorithm) -> Lab<Cuda> {
    let backend = Cuda::new(Options { graphs: true, algorithm: Some(algorithm), ..options(Precision::Fp32) })
        .expect("a CUDA device");
    let size = 1 << 13;
    let sizes = MemorySizes {
        arena: size,
        parameters: size,
        gradients: size,
        gradient_sum: 0,
        momentum: 0,
        second_moment: 0,
        average: 0,
        statistics: 0,
        indices: size,
        ..sizes_with_columns(0, 0)
    };
    Lab::with_sizes(backend, &sizes)
}

/// The bits of a linear layer's output and weight gradient, for batch sizes of 1 to `programs`: run eagerly, captured,
/// and replayed.
fn run_programs(lab: &mut Lab<Cuda>, programs: usize, repeats: usize) -> Vec<u32> {
    let op = Linear { in_features: 40, out_features: 24 };
    let mut results = Vec::new();
    for batch in 1..=programs {
        lab.clear();
        let input = lab.put(Region::Arena, &random(batch * op.in_features, 1));
        let weight = lab.put(Region::Parameters, &random(op.weight_len(), 2));
        let output = lab.empty(Region::Arena, batch * op.out_features);
        let d_weight = lab.empty(Region::Gradients, op.weight_len());
        let activation = Activation::Identity;
        let forward: Op = LinearForward { op, activation, input, weight, bias: None, output, relu_mask: None }.into();
        let backward: Op = LinearBackwardWeight { op, input, d_output: output, d_weight, d_bias: None }.into();
        let pair = [forward, backward].map(|op| Step { label: op.operands().describe(), op });
        let steps = vec![pair; repeats].concat();
        let mut program = lab.backend.compile(steps).expect("a program");
        for _ in 0..3 {
            lab.backend.run(&mut program).expect("a run");
            results.extend([output, d_weight].map(|span| lab.get(span)).concat().iter().map(|value| value.to_bits()));
        }
    }
    results
}

#[test]
fn another_backend_does_not_disturb_a_capture() {
    on_cuda(|| {
        for algorithm in [Algorithm::Direct, Algorithm::CublasLt] {
            let alone = run_programs(&mut lab(algorithm), PROGRAMS, 1);
            let done = AtomicBool::new(false);
            let together = thread::scope(|scope| {
                let other = scope.spawn(|| {
                    let mut rounds = 0;
                    while !done.load(Ordering::Relaxed) {
                        let results = run_programs(&mut lab(algorithm), 1, 1);
                        assert!(results[..] == alone[..results.len()], "round {rounds} of the other backend");
                        rounds += 1;
                    }
                    rounds
                });
                let mut lab = lab(algorithm);
                let results = catch_unwind(AssertUnwindSafe(|| run_programs(&mut lab, PROGRAMS, REPEATS)));
                done.store(true, Ordering::Relaxed);
                assert!(other.join().expect("the other backend works") > 0);
                results.expect("captures next to another backend")
            });
            assert!(together == alone, "{algorithm:?}");
        }
    });
}
