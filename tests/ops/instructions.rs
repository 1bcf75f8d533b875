//! Tests the CPU backend with each of its instruction sets, not only the widest.

use cnn_cuda::cpu::{Cpu, Instructions};
use cnn_cuda::ops::Activation;

use super::case::{Case, conv, linear, max_pool};
use super::{FP32, SOME, Tolerance, activation, check_some_on, cpu_with, linear as linears, pool};

/// Shapes with full and partial vectors, panels and tiles of every instruction set.
fn wide_cases() -> Vec<Case> {
    vec![
        conv([4, 17, 2], 16, [3, 1, 0], 2).with(Activation::Relu),
        conv([3, 11, 2], 35, [3, 1, 1], 1).with(Activation::Relu),
        conv([5, 10, 3], 32, [3, 2, 0], 1).with(Activation::LeakyRelu { slope: 0.125 }),
        conv([3, 3, 40], 9, [2, 1, 0], 2),
        linear(140, 26, 3).with(Activation::Relu), // a narrow batch
        linear(140, 26, 9).with(Activation::Relu),
        linear(13, 50, 35),
        linear(3, 150, 33),
        linear(270, 3, 2),
        max_pool([4, 6, 21], [2, 2, 0], 2),
    ]
}

/// Winograd shapes with too many gradient elements to check them all.
fn large_cases() -> Vec<Case> {
    vec![
        conv([23, 24, 16], 16, [3, 1, 0], 1), // many pieces of one sample
        conv([18, 19, 16], 16, [3, 1, 1], 1), // tiles with and without padding
        conv([9, 7, 16], 32, [3, 1, 1], 35),  // odd sizes, several samples per piece, fewer in the last
        conv([4, 6, 16], 144, [3, 1, 0], 2),  // more panels than a piece of the weight gradient has
        conv([4, 6, 144], 16, [3, 1, 1], 1),
    ]
}

/// Outputs here are sums of up to 1,296 products of values near 1, with a standard deviation of 12.
const LARGE: Tolerance = Tolerance { absolute: 6e-5, ..FP32 };

#[test]
fn every_instruction_set_computes_every_operator() {
    for set in Instructions::available() {
        let mut lab = cpu_with(set);
        let cases = [wide_cases(), super::conv::cases(), linears::cases(), pool::cases(), activation::cases()];
        for case in cases.concat() {
            println!("{}: {case:?}", set.name());
            lab.clear();
            check_some_on(&mut lab, &case, FP32, SOME);
        }
        for case in large_cases() {
            println!("{}: {case:?}", set.name());
            lab.clear();
            check_some_on(&mut lab, &case, LARGE, 12);
        }
    }
}

/// So few elements that Miri, which checks every access of the unsafe code, computes them in minutes: products, direct
/// convolutions, Winograd and its fused pooling, with full and partial vectors and tiles.
#[test]
fn small_shapes_stay_within_their_memory() {
    for set in Instructions::available() {
        for case in [
            linear(9, 5, 3).with(Activation::Relu),
            conv([3, 4, 2], 5, [3, 2, 1], 2),
            conv([4, 5, 16], 16, [3, 1, 1], 1).with(Activation::Relu),
            max_pool([3, 4, 5], [2, 2, 0], 2),
        ] {
            let mut lab = cpu_with(set);
            check_some_on(&mut lab, &case, FP32, 2);
        }
    }
}

#[test]
fn the_widest_instruction_set_is_used_and_reported() {
    use cnn_cuda::ops::Backend;
    let name = Cpu::new(Some(1)).expect("a thread").info().name;
    assert!(name.ends_with(&format!("{})", Instructions::widest().name())), "{name}");
}
