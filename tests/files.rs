//! Writing files in the background: one at a time, no error lost, and nothing left unwritten.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use cnn_cuda::files::BackgroundWriter;

#[test]
fn submit_does_not_wait_for_the_write() {
    let mut writer = BackgroundWriter::default();
    let (go, wait) = mpsc::channel();
    // If `submit` waited for its own write, `send` would never be reached.
    writer.submit(move || Ok(wait.recv_timeout(Duration::from_secs(20))?)).unwrap();
    go.send(()).unwrap();
    writer.finish().unwrap();
}

#[test]
fn writes_run_in_order_and_one_at_a_time() {
    let mut writer = BackgroundWriter::default();
    let running = Arc::new(AtomicU32::new(0));
    let done = Arc::new(AtomicU32::new(0));
    for number in 0..5 {
        let (running, done) = (Arc::clone(&running), Arc::clone(&done));
        let write = move || {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two writes at once");
            thread::sleep(Duration::from_millis(20));
            assert_eq!(done.fetch_add(1, Ordering::SeqCst), number, "out of order");
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        };
        writer.submit(write).unwrap();
    }
    writer.finish().unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 5);
}

/// Waits until the writer reports a failure on its own, without a call that joins the write.
fn wait_for_failure(writer: &BackgroundWriter) {
    let start = Instant::now();
    while !writer.has_failed() {
        assert!(start.elapsed() < Duration::from_secs(60), "the failure was never reported");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_error_is_returned_once_and_the_next_write_is_not_started() {
    let mut writer = BackgroundWriter::default();
    assert!(!writer.has_failed());
    writer.submit(|| bail!("the disk is full")).unwrap();
    wait_for_failure(&writer);
    let error = writer.submit(|| panic!("the write was started")).unwrap_err();
    assert_eq!(error.to_string(), "the disk is full");
    writer.finish().unwrap();
    writer.submit(|| bail!("still full")).unwrap();
    assert_eq!(writer.finish().unwrap_err().to_string(), "still full");
}

#[test]
fn a_panic_in_a_write_becomes_an_error() {
    let mut writer = BackgroundWriter::default();
    writer.submit(|| panic!("a fault")).unwrap();
    wait_for_failure(&writer);
    assert!(writer.finish().unwrap_err().to_string().contains("panicked"));
}

#[test]
fn dropping_the_writer_waits_for_the_write_in_flight() {
    let done = Arc::new(AtomicU32::new(0));
    let mut writer = BackgroundWriter::default();
    let counter = Arc::clone(&done);
    let write = move || {
        thread::sleep(Duration::from_millis(50));
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    writer.submit(write).unwrap();
    drop(writer);
    assert_eq!(done.load(Ordering::SeqCst), 1);
}
