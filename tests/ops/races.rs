//! Runs every kernel on the emulator with checks for data races: all operators, precisions and algorithms on the newest
//! device, and the products in fp16 on the oldest.

use std::collections::BTreeSet;
use std::fs;

use cnn_cuda::cuda::{self, Cuda};
use cnn_cuda::ops::{Add, Algorithm, Precision, Region};
use half::f16;

use super::case::{self, Case};
use super::cuda::{lab_by, lab_by_tile};
use super::lab::{Lab, random};
use super::{
    Tolerance, accumulate, activation, cuda_augment, cuda_implicit, dropout, epilogue, gather, join, loss, lrn, mix,
    muon, norm, optimizer, pointwise, pool, reference, views,
};
use crate::support::emulator::{RACES, on_emulator};
use crate::support::sources::MODULES;

/// Other tests check the results.
const ANY: Tolerance = Tolerance { absolute: f64::MAX, relative: 0.0 };

fn run(lab: &mut Lab<Cuda>, cases: &[Case]) {
    for case in cases {
        let inputs = case.random_inputs();
        let zeros: Vec<Vec<f64>> = inputs.iter().map(|values| vec![0.0; values.len()]).collect();
        let outputs = reference::forward(case, &zeros).len();
        case.run(lab, &inputs, &random(outputs, 99));
    }
}

fn run_products(precision: Precision) {
    for algorithm in Algorithm::ALL {
        let lab = &mut lab_by(precision, algorithm);
        if algorithm == Algorithm::Cudnn {
            // The kernels are cuDNN's, except one that converts weight gradients.
            run(lab, &[case::conv([6, 5, 8], 16, [3, 1, 1], 3)]);
            continue;
        }
        run(lab, &cuda_implicit::implicit_cases());
        epilogue::check_epilogues(lab, ANY);
    }
}

fn run_tiles(precision: Precision, capability: u32) {
    for tile in cuda::tiles(precision, capability) {
        let lab = &mut lab_by_tile(precision, tile);
        run(lab, &cuda_implicit::tile_cases());
        cuda_implicit::check_epilogues_of(lab, tile, ANY);
    }
}

fn run_others(precision: Precision) {
    let lab = &mut lab_by(precision, Algorithm::Direct);
    run(
        lab,
        &[pool::cases(), lrn::cases(), pointwise::cases(), activation::cases(), join::cases(), norm::cases()].concat(),
    );
    let whole_vectors = Case::Concat { pixels: 6, channels: vec![8, 16], batch: 3 };
    run(lab, &[whole_vectors]);
    let [a, b] = [1, 2].map(|stream| lab.put(Region::Arena, &random(1001, stream)));
    lab.run(Add { a, b, output: a });
    let rounded: fn(f32) -> f32 =
        if precision == Precision::Fp16 { |value| f16::from_f32(value).to_f32() } else { |value| value };
    epilogue::check_residuals(lab, ANY);
    gather::check_gather(lab, 1.0);
    gather::check_augmentation(lab, rounded);
    views::check_views(lab, rounded);
    views::check_average(lab, rounded);
    mix::check_images(lab, ANY);
    mix::check_losses(lab, ANY);
    loss::check_loss(lab, ANY);
    loss::check_bias(lab, ANY);
    pool::check_edge_cases(lab);
    norm::check_statistics(lab, ANY);
    norm::check_in_place(lab);
    norm::check_running(lab, ANY);
    dropout::check_mask(lab);
    accumulate::check_accumulation(lab);
    cuda_augment::run_transforms(precision);
    muon::check_directions(lab, ANY);
    muon::check_normalised_direction(lab, ANY);
    muon::check_muon_update(lab);
    // These checks need a new backend.
    for check in [optimizer::check_rules, optimizer::check_averaging, optimizer::check_frozen] {
        check(&mut lab_by(precision, Algorithm::Direct));
    }
}

/// The entry point names of all kernels.
fn all_kernels() -> BTreeSet<String> {
    let kernels = MODULES.iter().flat_map(|module| {
        let source = fs::read_to_string(format!("kernels/{}.cu", module.name)).expect("a source");
        let declared = source.lines().filter_map(|line| line.strip_prefix("KERNEL(")?.split_once(','));
        let names: Vec<String> = declared.map(|(name, _)| name.to_string()).collect();
        // The build that checks for races has no kernels in bf16.
        let storages = module.storages.iter().filter(|&&storage| storage != "bf16");
        names.into_iter().flat_map(move |name| storages.clone().map(move |storage| format!("{name}_{storage}")))
    });
    kernels.collect()
}

#[test]
#[ignore = "long; CI runs it"]
fn no_kernel_has_a_data_race() {
    let folder = tempfile::tempdir().expect("a folder");
    let launched = folder.path().join("launched");
    for capability in ["9.0", "7.5"] {
        let path = launched.to_str().expect("plain");
        let settings = [RACES, ("CUDA_EMULATOR_LAUNCHED", path), ("CUDA_EMULATOR_CC", capability)];
        let done = on_emulator(&settings, || {
            if std::env::var("CUDA_EMULATOR_CC").as_deref() == Ok("7.5") {
                return run_tiles(Precision::Fp16, 75);
            }
            for precision in [Precision::Fp32, Precision::Tf32, Precision::Fp16] {
                run_products(precision);
                run_tiles(precision, 90);
                run_others(precision);
            }
        });
        if done.is_none() {
            return;
        }
    }
    let launched: BTreeSet<String> =
        fs::read_to_string(launched).expect("the names").lines().map(String::from).collect();
    // Only fp16 has a loss scale, checks for overflows, and has gradients of cuDNN to widen.
    let missed: Vec<String> = all_kernels().difference(&launched).cloned().collect();
    assert_eq!(missed, ["check_overflow_f32", "widen_f32"], "kernels that were not launched");
}
