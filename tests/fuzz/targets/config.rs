//! Fuzzes the reader of recipes and config.toml.
#![no_main]

use cnn_cuda::settings::{FILE, RunConfig, SettingsFile};
use cnn_cuda_fuzz::with_file;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = SettingsFile::parse(text);
    }
    with_file(FILE, data, |path| {
        let _ = RunConfig::read(path.parent().expect("a folder"));
    });
});
