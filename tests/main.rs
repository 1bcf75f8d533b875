//! The only test binary. Each module tests the part of the program that it is named after.

mod benches;
mod checkpoint;
mod classics;
mod cli;
#[expect(clippy::undocumented_unsafe_blocks, reason = "what is unsafe here is what the emulator must catch")]
mod cuda_emulator;
mod data;
mod digits;
mod explain;
mod files;
mod models;
mod ops;
mod pictures;
mod report;
mod run;
mod serve;
mod settings;
mod support;
mod tidy;
mod train;
mod wavelets;
