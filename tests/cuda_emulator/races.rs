//! The check for data races: it finds what is planted, and nothing beside it.

use cudarc::driver::LaunchConfig;
use cudarc::driver::sys::CUresult;

use super::device::{Device, blocks, launch_planted};
use crate::support::emulator::{RACES, on_emulator};

/// A kernel, its blocks, and what is said in which ways; the way 0 is right. Ways are numbered as in planted_races.cu.
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

/// Runs a kernel on 256 threads for each block, and says how it ended.
fn run(device: &Device, kernel: &str, block_count: u32, way: u32) -> Result<(), CUresult> {
    let values = device.upload(&[0.0f32; 1024]);
    let arrived = device.upload(&[0u32; 16]);
    let config = LaunchConfig { shared_mem_bytes: 4, ..blocks(block_count) };
    let counts = ["planted_last_block_f32", "planted_relayed_f32"].contains(&kernel);
    let ended = if counts {
        launch_planted!(device, kernel, config, &values, &arrived, &way)
    } else {
        launch_planted!(device, kernel, config, &values, &way)
    };
    std::mem::forget((values, arrived));
    ended.map_err(|error| error.0)
}

const ORDERS: [&str; 2] = ["forward", "reverse"];

#[test]
fn finds_none_where_all_is_ordered() {
    for order in ORDERS {
        on_emulator(&[RACES, ("CUDA_EMULATOR_ORDER", order)], || {
            let device = Device::new();
            for &(kernel, block_count, _) in PLANTED {
                assert_eq!(run(&device, kernel, block_count, 0), Ok(()), "{kernel}");
                // What the launch before left is of the past.
                assert_eq!(run(&device, kernel, block_count, 0), Ok(()), "{kernel}, again");
            }
        });
    }
}

/// Whatever the order in which threads and blocks happen to run. A fault ends its process: each has its own.
#[test]
fn finds_every_planted_race() {
    for order in ORDERS {
        for (kernel, block_count, ways) in PLANTED {
            for (way, message) in *ways {
                let count = block_count.to_string();
                let asked = [("KERNEL", *kernel), ("BLOCKS", &count), ("WAY", way), ("CUDA_EMULATOR_ORDER", order)];
                let said = on_emulator(&[&[RACES], &asked[..]].concat(), || {
                    let asked = |name| std::env::var(name).expect("set above");
                    let number = |name| asked(name).parse().expect("a number");
                    let device = Device::new();
                    let ended = run(&device, &asked("KERNEL"), number("BLOCKS"), number("WAY"));
                    assert_eq!(ended, Err(CUresult::CUDA_ERROR_LAUNCH_FAILED));
                    std::mem::forget(device);
                });
                let Some(said) = said else { return };
                let line = said.lines().find(|line| line.contains("CUDA emulator: ")).unwrap_or_default();
                assert!(line.contains(message), "{kernel}, way {way}, {order}: no {message:?} in:\n{said}");
            }
        }
    }
}
