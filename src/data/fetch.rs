//! Downloading MNIST: mirrors in turn, checksums verified, nothing half-written.

use std::fs::{self, File};
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, write::GzEncoder};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest, Sha256};

use super::idx::{self, Decoded};
use super::mnist_files::{self, MnistFile};
use crate::files::write_atomically;

/// A comma-separated list of addresses that replaces the built-in mirrors.
const MIRROR_VARIABLE: &str = "CNN_CUDA_MNIST_MIRROR";
const MIRRORS: [&str; 2] =
    ["https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"];
/// The largest file is 45 MiB when decompressed; this bounds what a wrong server can make us hold.
const MAX_BYTES: u64 = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time for one whole file, so that a server sending a byte now and then ends too.
const FILE_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Where to download from, and how.
#[derive(Clone, Debug)]
pub struct Download {
    /// Addresses of folders, tried in turn.
    pub mirrors: Vec<String>,
    /// How long a server may send nothing.
    pub stall_timeout: Duration,
    /// Draw the progress on stderr, where that is a terminal.
    pub progress: bool,
}

impl Download {
    /// The built-in mirrors, or those that `CNN_CUDA_MNIST_MIRROR` lists.
    pub fn new(progress: bool) -> Self {
        let listed = std::env::var(MIRROR_VARIABLE).unwrap_or_default();
        let mut mirrors: Vec<String> =
            listed.split(',').map(str::trim).filter(|mirror| !mirror.is_empty()).map(String::from).collect();
        if mirrors.is_empty() {
            mirrors = MIRRORS.map(String::from).to_vec();
        }
        Self { mirrors, stall_timeout: Duration::from_secs(30), progress }
    }
}

/// Downloads those of MNIST's four files that `folder` lacks into `folder/mnist/`, gzipped.
///
/// # Errors
/// As [`fetch_mnist_from`].
pub fn fetch_mnist(folder: &Path, progress: bool) -> Result<()> {
    fetch_mnist_from(&Download::new(progress), folder)
}

/// [`fetch_mnist`] with the mirrors given. A file that an earlier download left with a wrong checksum is replaced.
///
/// # Errors
/// Where no mirror has a file with the right checksum (the message lists each mirror's failure and what to do by
/// hand), where a file cannot be written, or where another file of the same name would be read in the download's place.
pub fn fetch_mnist_from(download: &Download, folder: &Path) -> Result<()> {
    let mut mirrors = download.mirrors.clone();
    for file in mnist_files::ALL {
        if is_there(file, folder)? {
            continue;
        }
        let archive = download_file(download, &mut mirrors, file, folder)?;
        let path = file.download_path(folder);
        let parent = folder.join("mnist");
        fs::create_dir_all(&parent).with_context(|| format!("cannot create the folder {}", parent.display()))?;
        write_atomically(&path, |writer| Ok(writer.write_all(&archive)?))?;
        tracing::info!("wrote {}", path.display());
    }
    Ok(())
}

/// Whether the folder has the file, with the right content.
fn is_there(file: &MnistFile, folder: &Path) -> Result<bool> {
    let Some(path) = file.find(folder) else {
        return Ok(false);
    };
    ensure!(!path.is_dir(), "{} is a folder; move it away, a file belongs there", path.display());
    let source = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let Err(error) = verify(source, file) else {
        tracing::info!("{} is there and valid", path.display());
        return Ok(true);
    };
    // A file elsewhere is not ours to replace, and would go on being found before the downloaded one.
    ensure!(
        path == file.download_path(folder),
        "{} is not MNIST's file ({error:#}), and would be read in its place; move it away or choose another folder",
        path.display()
    );
    tracing::warn!("{} is not valid ({error:#}); downloading it again", path.display());
    Ok(false)
}

/// The gzipped file from the first mirror that has it. That mirror moves to the front, so that a dead one costs its
/// timeout only once.
fn download_file(download: &Download, mirrors: &mut [String], file: &MnistFile, folder: &Path) -> Result<Vec<u8>> {
    let mut failures = Vec::new();
    for index in 0..mirrors.len() {
        let address = format!("{}/{}", mirrors[index].trim_end_matches('/'), file.archive_name());
        match download_verified(download, &address, file) {
            Ok(archive) => {
                mirrors.rotate_left(index);
                return Ok(archive);
            }
            Err(error) => {
                tracing::warn!("{address}: {error:#}");
                failures.push(format!("{address}: {error:#}"));
            }
        }
    }
    bail!(
        "cannot download {} ({}); check the network, name other mirrors in {MIRROR_VARIABLE}, or {}",
        file.archive_name(),
        failures.join("; "),
        mnist_files::by_hand(folder)
    )
}

fn download_verified(download: &Download, address: &str, file: &MnistFile) -> Result<Vec<u8>> {
    let bytes = download_bytes(download, address)?;
    let content = verify(bytes.as_slice(), file)?;
    if matches!(idx::decode(bytes.as_slice())?, Decoded::Gzip(_)) {
        return Ok(bytes);
    }
    // Some proxies decompress on the way; the name says gzip, so the file shall be.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&content)?;
    Ok(encoder.finish()?)
}

/// Reads `source` to its end, decompressed where it is gzip, and returns the content if its checksum is right.
fn verify(source: impl Read, file: &MnistFile) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    match idx::decode(source)? {
        Decoded::Plain(plain) => plain.take(MAX_BYTES + 1).read_to_end(&mut content),
        Decoded::Gzip(unzipped) => unzipped.take(MAX_BYTES + 1).read_to_end(&mut content),
    }
    .map_err(idx::explain)?;
    ensure!(content.len() as u64 <= MAX_BYTES, "the file is larger than 64 MiB");
    let found: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(found == file.sha256, "the checksum is wrong: SHA-256 is {found} instead of {}", file.sha256);
    Ok(content)
}

fn download_bytes(download: &Download, address: &str) -> Result<Vec<u8>> {
    let mut response = agent(download, address).get(address).call()?;
    let length = response.body().content_length();
    ensure!(length.is_none_or(|length| length <= MAX_BYTES), "the file is larger than 64 MiB");
    let bar = progress_bar(download.progress, address, length);
    let mut bytes = Vec::new();
    // The limit is ours to check, one byte past it, for a message that says so.
    let body = response.body_mut().with_config().limit(u64::MAX).reader();
    let result = bar.wrap_read(body.take(MAX_BYTES + 1)).read_to_end(&mut bytes);
    bar.finish_and_clear();
    result?;
    ensure!(bytes.len() as u64 <= MAX_BYTES, "the file is larger than 64 MiB");
    Ok(bytes)
}

fn agent(download: &Download, address: &str) -> ureq::Agent {
    let mut config = ureq::Agent::config_builder()
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(download.stall_timeout))
        .timeout_per_read(Some(download.stall_timeout))
        .timeout_global(Some(FILE_TIMEOUT))
        // The files are gzip already, and shall arrive as they are.
        .accept_encoding("identity");
    // A mirror on this machine is not reached through a proxy.
    if ["http://127.", "http://localhost"].iter().any(|local| address.starts_with(local)) {
        config = config.proxy(None);
    }
    config.build().into()
}

/// A bar on a terminal; elsewhere a line in the log and a bar that is never drawn.
fn progress_bar(progress: bool, address: &str, length: Option<u64>) -> ProgressBar {
    if !progress || !std::io::stderr().is_terminal() {
        tracing::info!("downloading {address}");
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(address.rsplit('/').next().unwrap_or(address).to_string());
    bar
}
