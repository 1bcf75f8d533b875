//! Fuzzes the reader of files of torch.save, whose members have checksums: so also a pickle alone, in a sound archive.
#![no_main]

use cnn_cuda::checkpoint::{load_pretrained, load_weights};
use cnn_cuda_fuzz::{archive, network, with_file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let read = |content: &[u8]| {
        with_file("weights.pth", content, |path| {
            let _ = load_weights(path, network());
            let _ = load_pretrained(path, network(), 0);
        });
    };
    match data.split_first() {
        Some((b'P', _)) => read(data),
        Some((_, pickle)) => read(&archive(&[("data.pkl", pickle), ("data/0", &[0; 144])])),
        None => {}
    }
});
