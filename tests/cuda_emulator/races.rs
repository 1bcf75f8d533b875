//! The data race check finds every planted race and reports nothing else.

use cudarc::driver::LaunchConfig;
use cudarc::driver::sys::CUresult;

use super::device::{Device, blocks, launch_planted};
use crate::support::emulator::{RACES, on_emulator};

/// A kernel, its number of blocks, and the report of each racy variant. Variants are numbered as in planted_races.cu;
/// variant 0 has no race.
type Planted = (&'static str, u32, &'static [(&'static str, &'static str)]);
const PLANTED: &[Planted] = &[
    ("planted_block_exchange_f32", 2, &[("1", "a race in shared memory"), ("2", "a race in shared memory")]),
    ("planted_warp_exchange_f32", 1, &[("1", "a race in shared memory"), ("2", "a race in shared memory")]),
    ("planted_overwritten_f32", 1, &[("1", "a race in shared memory")]),
    ("planted_overwritten_in_warp_f32", 1, &[("1", "a race in byte ")]),
    ("planted_block_words_f32", 3, &[("1", "a race in byte 0 of allocation #1: it writes (planted_races.cu:")]),
    ("planted_block_reads_f32", 3, &[("1", "a race in byte 0 of allocation #1: it ")]),
    ("planted_parts_f32", 1, &[("1", "it writes (")]),
    ("planted_parts_f16", 1, &[("1", "it writes (")]),
    ("planted_bytes_f32", 1, &[("1", "it writes (")]),
    ("planted_vectors_f32", 1, &[("1", "a race in byte ")]),
    ("planted_flag_f32", 2, &[("1", "it writes (")]),
    ("planted_count_f32", 1, &[("1", "by an atomic")]),
    (
        "planted_last_block_f32",
        3,
        &[
            ("1", "a race in byte"),
            ("2", "a race in byte"),
            ("3", "a race in byte"),
            ("4", "a race in shared memory"),
            ("5", "a race in byte 0 of allocation #2"),
        ],
    ),
    ("planted_relayed_f32", 6, &[("2", "a race in byte")]),
];

/// Runs a kernel with 256 threads in each block and returns its result.
fn run(device: &Device, kernel: &str, block_count: u32, variant: u32) -> Result<(), CUresult> {
    let values = device.upload(&[0.0f32; 1024]);
    let block_counters = device.upload(&[0u32; 16]);
    let config = LaunchConfig { shared_mem_bytes: 4, ..blocks(block_count) };
    let counts = ["planted_last_block_f32", "planted_relayed_f32"].contains(&kernel);
    let result = if counts {
        launch_planted!(device, kernel, config, &values, &block_counters, &variant)
    } else {
        launch_planted!(device, kernel, config, &values, &variant)
    };
    std::mem::forget((values, block_counters));
    result.map_err(|error| error.0)
}

const ORDERS: [&str; 2] = ["forward", "reverse"];

#[test]
#[ignore = "long; CI runs it"]
fn finds_none_in_the_correct_variants() {
    for order in ORDERS {
        on_emulator(&[RACES, ("CUDA_EMULATOR_ORDER", order)], || {
            let device = Device::new();
            for &(kernel, block_count, _) in PLANTED {
                assert_eq!(run(&device, kernel, block_count, 0), Ok(()), "{kernel}");
                // Accesses of an earlier launch do not race.
                assert_eq!(run(&device, kernel, block_count, 0), Ok(()), "{kernel}, again");
            }
        });
    }
}

/// In both orders of threads and blocks. A fault ends its process, so every variant runs in its own.
#[test]
#[ignore = "long; CI runs it"]
fn finds_every_planted_race() {
    for order in ORDERS {
        for (kernel, block_count, variants) in PLANTED {
            for (variant, message) in *variants {
                let count = block_count.to_string();
                let order_setting = ("CUDA_EMULATOR_ORDER", order);
                let settings = [RACES, ("KERNEL", *kernel), ("BLOCKS", &count), ("VARIANT", variant), order_setting];
                let stderr = on_emulator(&settings, || {
                    let setting = |name| std::env::var(name).expect("set above");
                    let number = |name| setting(name).parse().expect("a number");
                    let device = Device::new();
                    let result = run(&device, &setting("KERNEL"), number("BLOCKS"), number("VARIANT"));
                    assert_eq!(result, Err(CUresult::CUDA_ERROR_LAUNCH_FAILED));
                    std::mem::forget(device);
                });
                let Some(stderr) = stderr else { return };
                let line = stderr.lines().find(|line| line.contains("CUDA emulator: ")).unwrap_or_default();
                assert!(line.contains(message), "{kernel}, variant {variant}, {order}: no {message:?} in:\n{stderr}");
            }
        }
    }
}
