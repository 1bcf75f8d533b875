//! Fuzzes the reader of CIFAR's binary records.
#![no_main]

use cnn_cuda::data::cifar;
use libfuzzer_sys::fuzz_target;

// The first byte chooses the number of records and the format: CIFAR-10 or CIFAR-100.
fuzz_target!(|data: &[u8]| {
    let Some((choice, file)) = data.split_first() else { return };
    let (label_bytes, classes) = if choice & 1 == 0 { (1, 10) } else { (2, 100) };
    let _ = cifar::read_records(file, usize::from(choice >> 5), label_bytes, classes);
});
