//! Downloading data sets: mirrors in turn, checksums verified, nothing half-written.

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

/// A file of a data set as mirrors offer it.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Its name on the mirrors.
    pub name: String,
    /// Addresses of folders, tried in turn.
    pub mirrors: &'static [&'static str],
    /// Where the download goes.
    pub path: PathBuf,
    /// Where the file, or another in its place, is already.
    pub found: Option<PathBuf>,
    pub checksum: Checksum,
    /// More is not the file; this bounds what a wrong server can make us hold.
    pub max_bytes: u64,
    /// What a person can do instead.
    pub by_hand: String,
}

/// SHA-256 in lower-case hexadecimal.
#[derive(Clone, Copy, Debug)]
pub enum Checksum {
    /// Of the decompressed content; the file may be gzipped or not.
    Content(&'static str),
    /// Of the gzipped file as it is published.
    Archive(&'static str),
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time for one whole file, so that a server sending a byte now and then ends too.
const FILE_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Where to download from, and how.
#[derive(Clone, Debug, Default)]
pub struct Download {
    /// Addresses of folders, tried in turn, in place of the files' own.
    pub mirrors: Option<Vec<String>>,
    /// How long a server may send nothing.
    pub stall_timeout: Duration,
    /// Draw the progress on stderr, where that is a terminal.
    pub progress: bool,
}

/// The variable whose comma-separated addresses replace the built-in mirrors of a set: `CNN_CUDA_MNIST_MIRROR`.
fn mirror_variable(set: &str) -> String {
    format!("CNN_CUDA_{}_MIRROR", set.to_uppercase().replace('-', "_"))
}

impl Download {
    /// The built-in mirrors of the set, or those that its variable lists.
    pub fn new(set: &str, progress: bool) -> Self {
        let listed = std::env::var(mirror_variable(set)).unwrap_or_default();
        let mirrors: Vec<String> =
            listed.split(',').map(str::trim).filter(|mirror| !mirror.is_empty()).map(String::from).collect();
        let mirrors = (!mirrors.is_empty()).then_some(mirrors);
        Self { mirrors, stall_timeout: Duration::from_secs(30), progress }
    }
}

/// Downloads those files of the set of that name that `folder` lacks, as they are published, into a folder of the
/// set's name.
///
/// # Errors
/// As [`fetch_from`].
pub fn fetch(set: &str, folder: &Path, progress: bool) -> Result<()> {
    fetch_from(&Download::new(set, progress), set, folder)
}

/// [`fetch`] with the mirrors given. A file that an earlier download left with a wrong checksum is replaced.
///
/// # Errors
/// Where no mirror has a file with the right checksum (the message lists each mirror's failure and what to do by
/// hand), where a file cannot be written, or where another file of the same name would be read in the download's place.
pub fn fetch_from(download: &Download, set: &str, folder: &Path) -> Result<()> {
    let remotes = super::find(set)?.remotes.with_context(|| format!("{set} has nothing to download"))?(folder);
    let mut mirrors = download.mirrors.clone();
    for file in remotes {
        if is_there(&file, set)? {
            continue;
        }
        let mirrors = mirrors.get_or_insert_with(|| file.mirrors.iter().map(|mirror| (*mirror).to_string()).collect());
        let archive = download_file(download, set, mirrors, &file)?;
        let parent = file.path.parent().context("a file's folder")?;
        fs::create_dir_all(parent).with_context(|| format!("cannot create the folder {}", parent.display()))?;
        write_atomically(&file.path, |writer| Ok(writer.write_all(&archive)?))?;
        tracing::info!("wrote {}", file.path.display());
    }
    Ok(())
}

/// Whether the folder has the file, with the right content.
fn is_there(file: &Remote, set: &str) -> Result<bool> {
    let Some(path) = &file.found else {
        return Ok(false);
    };
    ensure!(!path.is_dir(), "{} is a folder; move it away, a file belongs there", path.display());
    let open = || File::open(path).with_context(|| format!("cannot read {}", path.display()));
    let unpacked = *path != file.path && matches!(idx::decode(open()?)?, Decoded::Plain(_));
    if unpacked && matches!(file.checksum, Checksum::Archive(_)) {
        tracing::info!("{} is there; it is unpacked, and only the archive's checksum is known", path.display());
        return Ok(true);
    }
    let source = open()?;
    let Err(error) = verify(source, file) else {
        tracing::info!("{} is there and valid", path.display());
        return Ok(true);
    };
    // A file elsewhere is not ours to replace, and would go on being found before the downloaded one.
    ensure!(
        *path == file.path,
        "{} is not the file of {set} ({error:#}), and would be read in its place; move it away or choose another folder",
        path.display()
    );
    tracing::warn!("{} is not valid ({error:#}); downloading it again", path.display());
    Ok(false)
}

/// The file from the first mirror that has it. That mirror moves to the front, so that a dead one costs its timeout
/// only once.
fn download_file(download: &Download, set: &str, mirrors: &mut [String], file: &Remote) -> Result<Vec<u8>> {
    let mut failures = Vec::new();
    for index in 0..mirrors.len() {
        let address = format!("{}/{}", mirrors[index].trim_end_matches('/'), file.name);
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
        "cannot download {} ({}); check the network, name other mirrors in {}, or {}",
        file.name,
        failures.join("; "),
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
    // Some proxies decompress on the way; the name says gzip, so the file must be.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&content)?;
    Ok(encoder.finish()?)
}

/// Reads `source` to its end, decompressed where the checksum is of the content, which is returned if it is right.
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
            .map_err(idx::explain)?;
            expected
        }
    };
    check_size(content.len() as u64, file.max_bytes)?;
    let found: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(found == expected, "the checksum is wrong: SHA-256 is {found} instead of {expected}");
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
    // The limit is ours to check, one byte past it, for a message that says so.
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
        // The files are gzip already, and must arrive unchanged.
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
