//! Fuzzes the reader of metrics.jsonl.
#![no_main]

use cnn_cuda::report::MetricsLog;
use cnn_cuda_fuzz::with_file;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    with_file("metrics.jsonl", data, |path| {
        let _ = MetricsLog::is_complete(path, 3);
        if let Ok(log) = MetricsLog::resume(path, 1000, 3) {
            log.epochs();
            let _ = log.save();
        }
    });
});
