//! Downloads data sets: tries one mirror after another, verifies checksums and writes files atomically.

use std::fs::{self, File};
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, write::GzEncoder};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest, Sha256};

use super::idx::{self, Decoded};
use crate::files::write_atomically;

/// A downloadable file of a data set.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The file's name on the mirrors.
    pub name: String,
    /// URLs of folders, tried in order.
    pub mirrors: &'static [&'static str],
    /// The path to download to.
    pub path: PathBuf,
    /// The path of an existing copy, which may be at another place or unpacked.
    pub existing: Option<PathBuf>,
    pub checksum: Checksum,
    /// The largest size that is accepted. It limits the memory that a faulty server can make the program use.
    pub max_bytes: u64,
    /// Instructions for obtaining the file without a download.
    pub by_hand: String,
}

/// SHA-256 in lower-case hexadecimal.
#[derive(Clone, Copy, Debug)]
pub enum Checksum {
    /// The checksum of the uncompressed content; the file may be gzipped or not.
    Content(&'static str),
    /// The checksum of the gzipped file as published.
    Archive(&'static str),
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit for one file. It also ends a download whose server sends only a byte now and then.
const FILE_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Mirrors, timeout and progress display of downloads.
#[derive(Clone, Debug, Default)]
pub struct Download {
    /// URLs of folders, tried in order, which replace the files' own mirrors.
    pub mirrors: Option<Vec<String>>,
    /// The longest time to wait for data from a server.
    pub stall_timeout: Duration,
    /// Draw a progress bar on stderr if it is a terminal.
    pub progress: bool,
}

/// The environment variable with comma-separated URLs that replace a set's mirrors, such as `CNN_CUDA_MNIST_MIRROR`.
fn mirror_variable(set: &str) -> String {
    format!("CNN_CUDA_{}_MIRROR", set.to_uppercase().replace('-', "_"))
}

impl Download {
    /// Uses the mirrors in the set's environment variable, or the built-in ones if it is not set.
    pub fn new(set: &str, progress: bool) -> Self {
        let variable = std::env::var(mirror_variable(set)).unwrap_or_default();
        let mirrors: Vec<String> =
            variable.split(',').map(str::trim).filter(|mirror| !mirror.is_empty()).map(String::from).collect();
        let mirrors = (!mirrors.is_empty()).then_some(mirrors);
        Self { mirrors, stall_timeout: Duration::from_secs(30), progress }
    }
}

/// Downloads the missing files of the data set `set`, as published, into the subfolder of `folder` named like the set.
///
/// # Errors
/// Like [`fetch_from`].
pub fn fetch(set: &str, folder: &Path, progress: bool) -> Result<()> {
    fetch_from(&Download::new(set, progress), set, folder)
}

/// Like [`fetch`], with given mirrors. Replaces a previously downloaded file if its checksum is wrong.
///
/// # Errors
/// If no mirror has a file with the right checksum (the message has the last mirror's failure and says how to obtain the
/// file without a download), if a file cannot be written, or if another file would be read instead of the download.
pub fn fetch_from(download: &Download, set: &str, folder: &Path) -> Result<()> {
    let remotes = super::find(set)?.remotes.with_context(|| format!("{set} has nothing to download"))?(folder);
    let mut mirrors = download.mirrors.clone();
    for file in remotes {
        if is_present(&file, set)? {
            continue;
        }
        let mirrors = mirrors.get_or_insert_with(|| file.mirrors.iter().map(|mirror| (*mirror).to_string()).collect());
        let archive = download_file(download, set, mirrors, &file)?;
        let parent = file.path.parent().context("the path has no parent folder")?;
        fs::create_dir_all(parent).with_context(|| format!("cannot create the folder {}", parent.display()))?;
        write_atomically(&file.path, |writer| Ok(writer.write_all(&archive)?))?;
        tracing::info!("wrote {}", file.path.display());
    }
    Ok(())
}

/// Whether the folder already contains the file with the right content.
fn is_present(file: &Remote, set: &str) -> Result<bool> {
    let Some(path) = &file.existing else {
        return Ok(false);
    };
    ensure!(!path.is_dir(), "{} is a folder where a file is expected; move it away", path.display());
    let open = || File::open(path).with_context(|| format!("cannot read {}", path.display()));
    let unpacked = *path != file.path && matches!(idx::decode(open()?)?, Decoded::Plain(_));
    if unpacked && matches!(file.checksum, Checksum::Archive(_)) {
        tracing::info!(
            "{} exists and is unpacked; it is not verified, because only the checksum of the archive is known",
            path.display()
        );
        return Ok(true);
    }
    let source = open()?;
    let Err(error) = verify(source, file) else {
        tracing::info!("{} exists and is valid", path.display());
        return Ok(true);
    };
    // A file outside the download folder may be the user's, and it would still take precedence over the download.
    ensure!(
        *path == file.path,
        "{} is not the file of {set} ({error:#}), but would be read instead of it; move it away or choose another folder",
        path.display()
    );
    tracing::warn!("{} is invalid ({error:#}); downloading it again", path.display());
    Ok(false)
}

/// Downloads the file from the first mirror that has it. That mirror moves to the front, so that the timeout of a dead
/// mirror is paid only once. The failures of all mirrors but the last are logged; the error has that of the last.
fn download_file(download: &Download, set: &str, mirrors: &mut [String], file: &Remote) -> Result<Vec<u8>> {
    let mut failure = "there is no mirror".to_string();
    for index in 0..mirrors.len() {
        let address = format!("{}/{}", mirrors[index].trim_end_matches('/'), file.name);
        match download_verified(download, &address, file) {
            Ok(archive) => {
                mirrors.rotate_left(index);
                return Ok(archive);
            }
            Err(error) => {
                failure = format!("{address}: {error:#}");
                if index + 1 < mirrors.len() {
                    tracing::warn!("{failure}; trying the next mirror");
                }
            }
        }
    }
    bail!(
        "cannot download {} ({failure}); check the network, set {} to other mirrors, or {}",
        file.name,
        mirror_variable(set),
        file.by_hand
    )
}

fn download_verified(download: &Download, address: &str, file: &Remote) -> Result<Vec<u8>> {
    let bytes = download_bytes(download, address, file.max_bytes)?;
    let content = verify(bytes.as_slice(), file)?;
    if matches!(file.checksum, Checksum::Archive(_)) || matches!(idx::decode(bytes.as_slice())?, Decoded::Gzip(_)) {
        return Ok(bytes);
    }
    // Some proxies decompress the file. Its name ends in .gz, so compress it again.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&content)?;
    Ok(encoder.finish()?)
}

/// Reads `source` to its end and returns its bytes if the checksum matches. They are decompressed if the checksum is of
/// the content.
fn verify(source: impl Read, file: &Remote) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let limit = file.max_bytes + 1;
    let expected = match file.checksum {
        Checksum::Archive(expected) => {
            source.take(limit).read_to_end(&mut content)?;
            expected
        }
        Checksum::Content(expected) => {
            match idx::decode(source)? {
                Decoded::Plain(plain) => plain.take(limit).read_to_end(&mut content),
                Decoded::Gzip(unzipped) => unzipped.take(limit).read_to_end(&mut content),
            }
            .map_err(idx::explain_gzip_error)?;
            expected
        }
    };
    check_size(content.len() as u64, file.max_bytes)?;
    let found: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(found == expected, "the checksum is wrong: SHA-256 is {found}, expected {expected}");
    Ok(content)
}

fn check_size(length: u64, max_bytes: u64) -> Result<()> {
    ensure!(length <= max_bytes, "the file is larger than {} MiB", max_bytes >> 20);
    Ok(())
}

fn download_bytes(download: &Download, address: &str, max_bytes: u64) -> Result<Vec<u8>> {
    let mut response = agent(download, address).get(address).call()?;
    let length = response.body().content_length();
    check_size(length.unwrap_or(0), max_bytes)?;
    let bar = progress_bar(download.progress, address, length);
    let mut bytes = Vec::new();
    // The client's own limit is disabled. Reading one byte past the limit here gives a clearer message.
    let body = response.body_mut().with_config().limit(u64::MAX).reader();
    let result = bar.wrap_read(body.take(max_bytes + 1)).read_to_end(&mut bytes);
    bar.finish_and_clear();
    result?;
    check_size(bytes.len() as u64, max_bytes)?;
    Ok(bytes)
}

fn agent(download: &Download, address: &str) -> ureq::Agent {
    let mut config = ureq::Agent::config_builder()
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(download.stall_timeout))
        .timeout_per_read(Some(download.stall_timeout))
        .timeout_global(Some(FILE_TIMEOUT))
        // The files are already gzipped; they must be sent without a further encoding.
        .accept_encoding("identity");
    // A local mirror is accessed without a proxy.
    if ["http://127.", "http://localhost"].iter().any(|local| address.starts_with(local)) {
        config = config.proxy(None);
    }
    config.build().into()
}

/// A progress bar if stderr is a terminal; otherwise a log message and a hidden bar.
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
