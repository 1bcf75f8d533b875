//! Fuzzes the reader of IDX files, plain and gzipped.
#![no_main]

use cnn_cuda::data::idx;
use libfuzzer_sys::fuzz_target;

// The first byte chooses the number of dimensions, and whether the length of the file is known.
fuzz_target!(|data: &[u8]| {
    let Some((choice, file)) = data.split_first() else { return };
    let length = (choice & 2 == 0).then_some(file.len() as u64);
    let _ = idx::parse(file, length, if choice & 1 == 0 { 1 } else { 3 });
});
