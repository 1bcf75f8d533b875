//! Writing files atomically and in the background: one at a time, no error lost, and nothing left unwritten.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use cnn_cuda::files::{BackgroundWriter, create_folder, write_atomically};

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

/// Replacing a device or a pipe by a file would break it for other programs.
#[cfg(unix)]
#[test]
fn what_is_not_a_regular_file_is_written_to_and_not_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    let write = |path: &Path| write_atomically(path, |writer| Ok(writer.write_all(b"new")?));
    assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    let mut pipe = fs::OpenOptions::new().read(true).write(true).open(path("pipe")).unwrap();
    write(&path("pipe")).unwrap();
    assert!(path("pipe").metadata().unwrap().file_type().is_fifo());
    let mut received = [0; 3];
    pipe.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"new");
    write(Path::new("/dev/null")).unwrap();
    assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
    let error = format!("{:#}", write(Path::new("/dev/full")).unwrap_err());
    assert!(error.contains("cannot write /dev/full"), "{error}");
    // A link stays a link, and its target is written.
    fs::write(path("target"), "old").unwrap();
    std::os::unix::fs::symlink("target", path("link")).unwrap();
    std::os::unix::fs::symlink("nothing", path("dangling")).unwrap();
    write(&path("link")).unwrap();
    assert!(path("link").is_symlink() && fs::read(path("target")).unwrap() == b"new");
    let error = format!("{:#}", write(&path("dangling")).unwrap_err());
    assert!(error.contains("link to a file that does not exist"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "temporary files were left behind");
}

#[test]
fn folders_are_created_with_those_above_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/c");
    create_folder(&path).unwrap();
    create_folder(&path).unwrap();
    assert!(path.is_dir());
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(create_folder(&folder.path().join("file/d")).is_err());
}
