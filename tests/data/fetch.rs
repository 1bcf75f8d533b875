//! Downloading: invalid files are refused and leave nothing behind, and every mirror is tried.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use cnn_cuda::data::fetch::{Download, fetch_from};

use sha2::{Digest, Sha256};

use super::idx::{gzip, idx_file};
use super::{assert_contains, data_folder, message};
use crate::support::{Need, skip};

const FIRST: &str = "train-images-idx3-ubyte";

/// Serves HTTP on a free local port and returns the URL of the folder `mnist`. `answer` gets the path of each request
/// and writes the response. The thread ends with the test process.
fn serve(answer: impl Fn(&str, &mut TcpStream) -> std::io::Result<()> + Send + 'static) -> String {
    serve_requests(move |lines, stream| {
        let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        answer(path, stream)
    })
}

/// Like [`serve`], with all lines of the request.
fn serve_requests(answer: impl Fn(&[String], &mut TcpStream) -> std::io::Result<()> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/mnist/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // The request must be read before the answer, or closing the socket resets it.
            let request = BufReader::new(stream.try_clone().unwrap());
            let lines: Vec<_> = request.lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let _ = answer(&lines, &mut stream);
        }
    });
    address
}

pub fn serve_bytes(status: &'static str, body: Vec<u8>) -> String {
    serve(move |_, stream| send(stream, status, &body))
}

fn send(stream: &mut TcpStream, status: &str, body: &[u8]) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(body)
}

/// Fetches MNIST into `folder` from `mirrors`, which must fail, and returns the message.
#[track_caller]
fn failure(folder: &Path, mirrors: &[&str]) -> String {
    failure_of("mnist", folder, mirrors)
}

#[track_caller]
fn failure_of(set: &str, folder: &Path, mirrors: &[&str]) -> String {
    message(fetch_from(&from(mirrors.iter().map(ToString::to_string).collect()), set, folder))
}

/// Downloads with short timeouts.
pub fn from(mirrors: Vec<String>) -> Download {
    Download {
        mirrors: Some(mirrors),
        stall_timeout: Duration::from_millis(300),
        total_timeout: Duration::from_secs(60),
        progress: false,
    }
}

/// Asserts that fetching from `mirror` fails with a message that contains `parts`, and leaves nothing behind.
#[track_caller]
fn assert_refused(mirror: &str, parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let message = failure(folder.path(), &[mirror]);
    assert_contains(&message, parts);
    assert_contains(&message, &[mirror, FIRST, "by hand", "--dataset digits"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "files were left behind");
}

/// Asserts that fetching from `mirror` fails with a message that contains `parts`, and keeps what was received.
#[track_caller]
fn assert_interrupted(mirror: &str, parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let message = failure(folder.path(), &[mirror]);
    assert_contains(&message, parts);
    assert_contains(&message, &[mirror, FIRST, "by hand", "0.0 kB of", "are kept; fetch again to continue"]);
    let files: Vec<_> = fs::read_dir(folder.path().join("mnist")).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(files, [format!("{FIRST}.gz.part").as_str()]);
    assert_eq!(fs::read(folder.path().join("mnist").join(&files[0])).unwrap(), b"short");
}

/// The URL of a port on which nothing listens.
pub fn dead_mirror() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/", listener.local_addr().unwrap())
}

#[test]
fn a_wrong_checksum_is_refused() {
    let body = idx_file(&[1, 1, 1], &[7]);
    assert_refused(&serve_bytes("200 OK", gzip(&body)), &["checksum is wrong", "ba891046"]);
    assert_refused(&serve_bytes("200 OK", body), &["checksum is wrong"]);
}

#[test]
fn damaged_gzip_is_refused() {
    let body = gzip(&[1; 100]);
    assert_refused(&serve_bytes("200 OK", body[..body.len() - 9].to_vec()), &["truncated"]);
}

#[test]
fn a_missing_page_is_an_error() {
    assert_refused(&serve_bytes("404 Not Found", vec![]), &["404"]);
}

#[test]
fn a_refused_connection_is_an_error() {
    assert_refused(&dead_mirror(), &["refused"]);
}

#[test]
fn an_invalid_url_is_an_error() {
    assert_refused("not an address", &["not an address"]);
    assert_refused("file:///mnist", &["file:///mnist"]);
}

#[test]
fn a_connection_that_ends_early_is_an_error() {
    let mirror = serve(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"));
    assert_interrupted(&mirror, &[]);
}

#[test]
fn a_stalled_download_times_out() {
    let start = Instant::now();
    let mirror = serve(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")?;
        std::thread::sleep(Duration::from_secs(20));
        Ok(())
    });
    assert_interrupted(&mirror, &["timeout"]);
    assert!(start.elapsed() < Duration::from_secs(10), "the stall took {:?}", start.elapsed());
}

/// A byte now and then is no stall, but a deadline ends it.
#[test]
fn a_dripping_server_is_given_up() {
    for beginning in ["HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", "HTTP/1.1 200 OK\r\nX-Slow: "] {
        let mirror = serve(move |_, stream| {
            stream.write_all(beginning.as_bytes())?;
            loop {
                std::thread::sleep(Duration::from_millis(20));
                stream.write_all(b"x")?;
            }
        });
        let (start, folder) = (Instant::now(), tempfile::tempdir().unwrap());
        let total_timeout = Duration::from_millis(900);
        let refused =
            fetch_from(&Download { total_timeout, ..from(vec![mirror.clone(), mirror]) }, "mnist", folder.path());
        assert_contains(&message(refused), &[FIRST, "cannot download"]);
        assert!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
    }
}

/// The server notes the ranges that it is asked for. A part that belongs to another file is dropped.
#[test]
fn an_interrupted_download_is_continued() {
    let body = std::sync::Arc::new(gzip(&idx_file(&[1, 1, 1], &[7])));
    let digest: String = Sha256::digest(&*body).iter().map(|byte| format!("{byte:02x}")).collect();
    let ranges = std::sync::Arc::new(std::sync::Mutex::new(Vec::<Option<usize>>::new()));
    let (served, noted) = (body.clone(), ranges.clone());
    let mirror = serve_requests(move |lines, stream| {
        let from = lines
            .iter()
            .find_map(|line| line.to_lowercase().strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
        noted.lock().unwrap().push(from);
        let length = served.len();
        match from {
            Some(from) if from < length => {
                let range = format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{length}", length - 1);
                send(stream, &range, &served[from..])
            }
            Some(_) => send(stream, "416 Range Not Satisfiable", &[]),
            None => send(stream, "200 OK", &served),
        }
    });
    let longer = [&body[..], b"more"].concat();
    let wrong = [b"wrong", &body[5..10]].concat();
    for (part, expected) in [
        (&body[..10], vec![Some(10), None]), // checksum of another file: then from the beginning
        (&wrong, vec![Some(10), None]),
        (&longer, vec![Some(longer.len()), None]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fashion-mnist").join(format!("{FIRST}.gz.part"));
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, part).unwrap();
        ranges.lock().unwrap().clear();
        // The body is not that of the real set, so the whole file is refused in the end, with its own checksum: it was
        // put together from both parts.
        assert_contains(&failure_of("fashion-mnist", folder.path(), &[&mirror]), &["checksum is wrong", &digest]);
        assert_eq!(*ranges.lock().unwrap(), expected);
        assert!(!path.exists(), "the part was kept");
    }
}

#[test]
fn two_processes_do_not_download_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mnist").join(format!("{FIRST}.gz.part"));
    fs::create_dir(path.parent().unwrap()).unwrap();
    let other = fs::File::create(&path).unwrap();
    other.lock().unwrap();
    assert_contains(&failure(folder.path(), &[&dead_mirror()]), &["another process is downloading", FIRST]);
    drop(other);
    assert_contains(&failure(folder.path(), &[&dead_mirror()]), &["refused"]);
}

#[test]
fn passwords_in_urls_are_not_printed() {
    for mirror in ["http://user:secret@127.0.0.1:1/x/", "http://user:secret@no such host/", "user:secret@127.0.0.1"] {
        let folder = tempfile::tempdir().unwrap();
        let text = failure(folder.path(), &[mirror]);
        assert!(!text.contains("secret") && text.contains("***@"), "{text}");
    }
}

/// A file's name would be added to the query, and secrets may be anywhere in such a URL.
#[test]
fn mirrors_with_a_query_or_a_slash_in_the_password_are_refused_unseen() {
    for (mirror, words) in [
        ("http://127.0.0.1:1/x/?token=secret", "CNN_CUDA_MNIST_MIRROR contains ? or #"),
        ("http://user:se?cret@127.0.0.1:1/", "%3F"),
        ("http://alice:p@ss/secret@127.0.0.1:1/", "contains / before @"),
        ("http://alice:pass/secret@127.0.0.1:1/", "%2F"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let text = failure(folder.path(), &["http://127.0.0.1:2/", mirror]);
        assert_contains(&text, &[words]);
        assert!(!text.contains("secret") && !text.contains("alice") && !text.contains("user"), "{text}");
    }
    assert_contains(&failure(tempfile::tempdir().unwrap().path(), &["http://localhost/set@1/"]), &["localhost/set@1/"]);
}

#[test]
fn a_file_with_too_large_a_content_length_is_refused() {
    let mirror = serve(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"));
    assert_refused(&mirror, &["larger than 64 MiB"]);
}

#[test]
fn an_endless_file_is_refused() {
    let mirror = serve(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
        let zeros = vec![0; 1 << 20];
        loop {
            stream.write_all(&zeros)?;
        }
    });
    assert_refused(&mirror, &["larger than 64 MiB"]);
}

#[test]
fn a_small_file_that_decompresses_to_a_large_one_is_refused() {
    assert_refused(&serve_bytes("200 OK", gzip(&vec![0; 65 << 20])), &["larger than 64 MiB"]);
}

#[test]
fn every_mirror_is_tried_and_the_last_failure_is_the_error() {
    let missing = serve_bytes("404 Not Found", vec![]);
    let wrong = serve_bytes("200 OK", gzip(b"something else"));
    let folder = tempfile::tempdir().unwrap();
    let message = failure(folder.path(), &[&missing, &dead_mirror(), &wrong]);
    assert_contains(&message, &[&wrong, "checksum is wrong"]);
    assert!(!message.contains(&missing) && !message.contains("refused"), "{message}");
}

/// The old file is kept until a valid one can replace it.
#[test]
fn an_invalid_file_is_downloaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mnist").join(format!("{FIRST}.gz"));
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, "old").unwrap();
    assert_contains(&failure(folder.path(), &[&serve_bytes("404 Not Found", vec![])]), &["404"]);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

/// A user's own files are neither replaced nor mixed with MNIST's.
#[test]
fn a_file_that_would_hide_the_download_is_refused() {
    for name in [FIRST.to_string(), format!("mnist/{FIRST}"), format!("MNIST/raw/{FIRST}.gz")] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, idx_file(&[1, 1, 1], &[7])).unwrap();
        assert_contains(&failure(folder.path(), &[&dead_mirror()]), &[&path.display().to_string(), "move it away"]);
    }
}

/// Serves the real files: all four are downloaded, valid ones are kept, and a damaged one is replaced.
#[test]
fn the_real_set_is_downloaded() {
    let names = [FIRST, "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];
    let mut files = Vec::new();
    for name in names.map(|name| format!("{name}.gz")) {
        let path = data_folder().join("mnist").join(&name);
        let Ok(bytes) = fs::read(&path) else {
            return skip(Need::Mnist, &format!("{} does not exist", path.display()));
        };
        files.push((format!("/mnist/{name}"), bytes));
    }
    let mirror = serve(move |path, stream| match files.iter().find(|(name, _)| name == path) {
        Some((_, bytes)) => send(stream, "200 OK", bytes),
        None => send(stream, "404 Not Found", &[]),
    });
    let folder = tempfile::tempdir().unwrap();
    let stall_timeout = Duration::from_secs(10);
    let fetch = |mirrors| fetch_from(&Download { stall_timeout, ..from(mirrors) }, "mnist", folder.path());

    fetch(vec![dead_mirror(), mirror.clone()]).unwrap();
    assert_eq!(fs::read_dir(folder.path().join("mnist")).unwrap().count(), names.len());
    fetch(vec![dead_mirror()]).expect("existing files are not downloaded again");

    let damaged = folder.path().join("mnist").join(format!("{}.gz", names[1]));
    let bytes = fs::read(&damaged).unwrap();
    fs::write(&damaged, &bytes[..1000]).unwrap();
    fetch(vec![mirror]).unwrap();
    assert_eq!(fs::read(&damaged).unwrap(), bytes);
}

/// Whatever ended the download before, the rest is downloaded and the whole is verified.
#[test]
fn the_real_set_is_continued() {
    let Some(source) = data_folder().join("mnist").canonicalize().ok().filter(|path| path.is_dir()) else {
        return skip(Need::Mnist, "there is no folder mnist");
    };
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("mnist")).unwrap();
    for name in [FIRST, "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"].map(|name| format!("{name}.gz")) {
        fs::copy(source.join(&name), folder.path().join("mnist").join(&name)).unwrap();
    }
    let name = "t10k-labels-idx1-ubyte.gz";
    let whole = fs::read(source.join(name)).unwrap();
    let part = folder.path().join("mnist").join(format!("{name}.part"));
    for kept in [1000, whole.len()] {
        fs::write(&part, &whole[..kept]).unwrap();
        let rest = whole[kept..].to_vec();
        let mirror = serve_requests(move |lines, stream| {
            assert!(lines.iter().any(|line| line.eq_ignore_ascii_case(&format!("range: bytes={kept}-"))), "{lines:?}");
            send(stream, &format!("206 Partial Content\r\nContent-Range: bytes {kept}-9999/9999"), &rest)
        });
        // A file that is already complete is not requested.
        let mirror = if kept == whole.len() { dead_mirror() } else { mirror };
        fetch_from(&from(vec![mirror]), "mnist", folder.path()).unwrap();
        assert!(!part.exists());
        let target = folder.path().join("mnist").join(name);
        assert_eq!(fs::read(&target).unwrap(), whole);
        fs::remove_file(target).unwrap();
    }
}

/// Checksums of archives are those of the downloaded bytes, not of the decompressed content.
#[test]
fn the_checksum_of_an_archive_is_of_the_compressed_bytes() {
    let body = gzip(&idx_file(&[1, 1, 1], &[7]));
    let folder = tempfile::tempdir().unwrap();
    let message = failure_of("fashion-mnist", folder.path(), &[&serve_bytes("200 OK", body.clone())]);
    let found: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_contains(&message, &["checksum is wrong", &found, "3aede38d", "CNN_CUDA_FASHION_MNIST_MIRROR"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "files were left behind");
}

/// Only the archives' checksums are published, so files that a user has unpacked are accepted.
#[test]
fn unpacked_files_are_not_downloaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("FashionMNIST/raw");
    fs::create_dir_all(&place).unwrap();
    for name in [FIRST, "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"] {
        fs::write(place.join(name), idx_file(&[1], &[7])).unwrap();
    }
    fetch_from(&from(vec![dead_mirror()]), "fashion-mnist", folder.path()).unwrap();
    fs::write(place.join(FIRST), gzip(b"something else")).unwrap();
    assert_contains(
        &failure_of("fashion-mnist", folder.path(), &[&dead_mirror()]),
        &["checksum is wrong", "move it away"],
    );
}

#[test]
fn fetching_an_embedded_or_unknown_set_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert_contains(&failure_of("digits", folder.path(), &[]), &["digits", "nothing to download"]);
    assert_contains(&failure_of("mnits", folder.path(), &[]), &["mnits", "fashion-mnist"]);
}
