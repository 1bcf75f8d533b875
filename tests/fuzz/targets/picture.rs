//! Fuzzes the reader of PNG and JPEG pictures, as `predict` reads them.
#![no_main]

use cnn_cuda::data::picture::decode_picture;
use cnn_cuda::shape::Shape;
use libfuzzer_sys::fuzz_target;

// The first byte chooses the network's channels.
fuzz_target!(|data: &[u8]| {
    let Some((choice, file)) = data.split_first() else { return };
    let _ = decode_picture(file, Shape::new(28, 28, if choice & 1 == 0 { 1 } else { 3 }));
});
