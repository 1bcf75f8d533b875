//! Fuzzes the reader of archives of pictures: the tar format, its compressions, the layout of classes, and the pictures in it.
#![no_main]

use cnn_cuda::data::{LoadOptions, load};
use cnn_cuda_fuzz::with_file;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    with_file("pictures.tar", data, |path| {
        let options = LoadOptions { download: false, ..LoadOptions::default() };
        let _ = load(path.to_str().expect("UTF-8"), &options);
    });
});
