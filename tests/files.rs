//! Writing files in the background: one at a time, no error lost, and nothing left unwritten.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use cnn_cuda::files::BackgroundWriter;

#[test]
fn a_write_runs_while_its_submitter_goes_on() {
    let mut writer = BackgroundWriter::default();
    let (go, wait) = mpsc::channel();
    // A submit that waited for its own write would not come to send.
    writer.submit(move || Ok(wait.recv_timeout(Duration::from_secs(20))?)).unwrap();
    go.send(()).unwrap();
    writer.finish().unwrap();
}

#[test]
fn one_write_is_done_before_the_next_begins() {
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

/// A failure shows while the program goes on, before anybody waits for the write.
fn wait_for_failure(writer: &BackgroundWriter) {
    let start = Instant::now();
    while !writer.has_failed() {
        assert!(start.elapsed() < Duration::from_secs(60), "the failure never shows");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_error_is_returned_once_and_keeps_the_next_write_from_beginning() {
    let mut writer = BackgroundWriter::default();
    assert!(!writer.has_failed());
    writer.submit(|| bail!("the disk is full")).unwrap();
    wait_for_failure(&writer);
    let error = writer.submit(|| panic!("it began")).unwrap_err();
    assert_eq!(error.to_string(), "the disk is full");
    writer.finish().unwrap();
    writer.submit(|| bail!("still full")).unwrap();
    assert_eq!(writer.finish().unwrap_err().to_string(), "still full");
}

#[test]
fn a_panic_of_a_write_is_an_error() {
    let mut writer = BackgroundWriter::default();
    writer.submit(|| panic!("a fault")).unwrap();
    wait_for_failure(&writer);
    assert!(writer.finish().unwrap_err().to_string().contains("panicked"));
}

#[test]
fn a_write_in_flight_is_finished_when_its_writer_goes() {
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
