//! Downloads data sets and pretrained weights: tries one mirror after another, verifies checksums and writes files atomically.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, write::GzEncoder};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest, Sha256};

use super::idx::{self, Decoded};
use super::partial::Partial;
use crate::files::printable;

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

/// SHA-256 in lower-case hexadecimal, or its beginning.
#[derive(Clone, Copy, Debug)]
pub enum Checksum {
    /// The checksum of the uncompressed content; the file may be gzipped or not.
    Content(&'static str),
    /// The checksum of the gzipped file as published.
    Archive(&'static str),
    /// The first digits of the checksum of the file as published, in which no other form is accepted.
    FirstDigits(&'static str),
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit for one file. It also ends a download whose server sends only a byte now and then.
const FILE_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// The time limit for all files of a set from all mirrors together.
const SET_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Mirrors, timeout and progress display of downloads.
#[derive(Clone, Debug, Default)]
pub struct Download {
    /// URLs of folders, tried in order, which replace the files' own mirrors.
    pub mirrors: Option<Vec<String>>,
    /// The longest time to wait for data from a server.
    pub stall_timeout: Duration,
    /// The longest time for all files together. It also ends downloads whose servers send only a byte now and then.
    pub total_timeout: Duration,
    /// Draw a progress bar on stderr if it is a terminal.
    pub progress: bool,
}

/// The environment variable with comma-separated URLs that replace a set's mirrors, such as `CNN_CUDA_MNIST_MIRROR`.
fn mirror_variable(set: &str) -> String {
    format!("CNN_CUDA_{}_MIRROR", set.to_uppercase().replace('-', "_"))
}

/// Tells users to download the data set `set` into `folder`.
pub(crate) fn command(set: &str, folder: &Path) -> String {
    format!("run `cnn-cuda fetch {set} --data {}`", folder.display())
}

impl Download {
    /// Uses the mirrors in the set's environment variable, or the built-in ones if it is not set.
    pub fn new(set: &str, progress: bool) -> Self {
        let variable = std::env::var(mirror_variable(set)).unwrap_or_default();
        let mirrors: Vec<String> =
            variable.split(',').map(str::trim).filter(|mirror| !mirror.is_empty()).map(String::from).collect();
        let mirrors = (!mirrors.is_empty()).then_some(mirrors);
        Self { mirrors, stall_timeout: Duration::from_secs(30), total_timeout: SET_TIMEOUT, progress }
    }
}

/// Downloads the missing files of the data set `set`, as published, into the subfolder of `folder` named like the set.
///
/// # Errors
/// Like [`fetch_from`].
pub fn fetch(set: &str, folder: &Path, progress: bool) -> Result<()> {
    fetch_from(&Download::new(set, progress), set, folder)
}

/// Like [`fetch`], with given mirrors. Replaces a previously downloaded file if its checksum is wrong. What was downloaded
/// of a file before the connection failed, or the program was ended, is kept and continued by the next call.
///
/// # Errors
/// If no mirror has a file with the right checksum (the message has the last mirror's failure and says how to obtain the
/// file without a download), if a file cannot be written, or if another file would be read instead of the download.
pub fn fetch_from(download: &Download, set: &str, folder: &Path) -> Result<()> {
    let remotes = super::find(set)?.remotes.with_context(|| format!("{set} has nothing to download"))?(folder);
    fetch_files(download, set, remotes)
}

/// Like [`fetch_from`], for given files.
pub(super) fn fetch_files(download: &Download, set: &str, remotes: Vec<Remote>) -> Result<()> {
    let mut mirrors = download.mirrors.clone();
    let deadline = Instant::now() + download.total_timeout;
    for file in remotes {
        if is_present(&file, set)? {
            continue;
        }
        mirrors.iter().flatten().try_for_each(|mirror| check_mirror(mirror, set))?;
        let mirrors = mirrors.get_or_insert_with(|| file.mirrors.iter().map(|mirror| (*mirror).to_string()).collect());
        let mut partial = Partial::open(&file.path)?;
        if let Err(error) = download_file(download, set, mirrors, &file, &mut partial, deadline) {
            let kept = partial.keep();
            return Err(match kept {
                0 => error,
                _ => error.context(format!("{} of {} are kept; fetch again to continue", kilobytes(kept), file.name)),
            });
        }
        partial.finish()?;
        tracing::info!("wrote {}", file.path.display());
    }
    Ok(())
}

fn kilobytes(bytes: u64) -> String {
    format!("{:.1} kB", bytes as f64 / 1e3)
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
fn download_file(
    download: &Download,
    set: &str,
    mirrors: &mut [String],
    file: &Remote,
    partial: &mut Partial,
    deadline: Instant,
) -> Result<()> {
    // The program may have been ended after it downloaded everything.
    if partial.len()? > 0 && verify(partial.start()?, file).is_ok() {
        return Ok(());
    }
    let mut failure = "there is no mirror".to_string();
    for index in 0..mirrors.len() {
        let address = format!("{}/{}", mirrors[index].trim_end_matches('/'), file.name);
        match download_verified(download, &address, file, partial, deadline) {
            Ok(()) => {
                mirrors.rotate_left(index);
                return Ok(());
            }
            Err(error) => {
                failure = without_password(&format!("{address}: {error:#}"), &address);
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

/// The part of a URL after `http://`.
fn without_scheme(address: &str) -> &str {
    address.split_once("://").map_or(address, |(_, rest)| rest)
}

/// # Errors
/// If the URL of a folder has a query or a fragment, to which no file's name can be added, or a slash in its user or
/// password. Secrets may be in all of them, so the URL is not printed.
fn check_mirror(mirror: &str, set: &str) -> Result<()> {
    let variable = mirror_variable(set);
    ensure!(
        !mirror.contains(['?', '#']),
        "a URL in {variable} contains ? or #; give the URL of a folder, and write ? in a password as %3F, # as %23"
    );
    let (authority, path) = without_scheme(mirror).split_once('/').unwrap_or((without_scheme(mirror), ""));
    ensure!(
        !path.contains('@') || !authority.contains([':', '@']),
        "a URL in {variable} contains / before @; write / in a password as %2F, and @ in a path as %40"
    );
    Ok(())
}

/// The text with the user and password of the URL `address` replaced by `***`, wherever they occur in it.
fn without_password(text: &str, address: &str) -> String {
    let authority = without_scheme(address).split('/').next();
    match authority.and_then(|authority| authority.rsplit_once('@')) {
        Some((user, _)) if !user.is_empty() => printable(&text.replace(user, "***")).into_owned(),
        _ => printable(text).into_owned(),
    }
}

fn download_verified(
    download: &Download,
    address: &str,
    file: &Remote,
    partial: &mut Partial,
    deadline: Instant,
) -> Result<()> {
    loop {
        let resumed = download_rest(download, address, file, partial, deadline)?;
        match verify(partial.start()?, file) {
            Ok(content) => return compress(&content, file, partial),
            // What was downloaded earlier may be of another file.
            Err(_) if resumed => partial.restart()?,
            Err(error) => {
                partial.restart()?;
                return Err(error);
            }
        }
    }
}

/// Compresses a file that some proxy has decompressed, because its name ends in .gz.
fn compress(content: &[u8], file: &Remote, partial: &mut Partial) -> Result<()> {
    let is_content = matches!(file.checksum, Checksum::Content(_));
    if !is_content || matches!(idx::decode(partial.start()?)?, Decoded::Gzip(_)) {
        return Ok(());
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content)?;
    partial.replace(&encoder.finish()?)
}

/// Reads `source` to its end and returns its bytes if the checksum matches. They are decompressed if the checksum is of
/// the content.
fn verify(source: impl Read, file: &Remote) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let limit = file.max_bytes + 1;
    let expected = match file.checksum {
        Checksum::Archive(expected) | Checksum::FirstDigits(expected) => {
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
    let is_expected = match file.checksum {
        Checksum::FirstDigits(digits) => found.starts_with(digits),
        _ => found == expected,
    };
    ensure!(is_expected, "the checksum is wrong: SHA-256 is {found}, expected {expected}");
    Ok(content)
}

fn check_size(length: u64, max_bytes: u64) -> Result<()> {
    ensure!(length <= max_bytes, "the file is larger than {} MiB", max_bytes >> 20);
    Ok(())
}

/// Downloads what is missing of the file. Of one that is too large, nothing is kept. Returns whether there was a part of
/// it before.
fn download_rest(
    download: &Download,
    address: &str,
    file: &Remote,
    partial: &mut Partial,
    deadline: Instant,
) -> Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    ensure!(!left.is_zero(), "the download takes longer than {:.1} s", download.total_timeout.as_secs_f64());
    let agent = agent(download, address, left);
    let request = |from: u64| match from {
        0 => agent.get(address).call(),
        _ => agent.get(address).header("Range", format!("bytes={from}-")).call(),
    };
    let mut response = match request(partial.len()?) {
        Err(ureq::Error::StatusCode(416)) => {
            // There is nothing after what was downloaded, so it is of another file.
            partial.restart()?;
            request(0)?
        }
        response => response?,
    };
    let range = response.headers().get("content-range").and_then(|range| range.to_str().ok());
    let continues = range.is_some_and(|range| range.starts_with(&format!("bytes {}-", partial.len().unwrap_or(0))));
    if response.status() != 206 || !continues {
        partial.restart()?;
    }
    let before = partial.len()?;
    let length = response.body().content_length().map(|length| length.saturating_add(before));
    let mut read = || -> Result<()> {
        check_size(length.unwrap_or(0), file.max_bytes)?;
        let bar = progress_bar(download.progress, address, length);
        bar.set_position(before);
        // The client's own limit is disabled. Reading one byte past the limit here gives a clearer message.
        let body = response.body_mut().with_config().limit(u64::MAX).reader();
        let body = body.take((file.max_bytes + 1).saturating_sub(before));
        let copied = io::copy(&mut bar.wrap_read(body), partial.end()?);
        bar.finish_and_clear();
        copied?;
        Ok(())
    };
    let read = read();
    if length.unwrap_or(0).max(partial.len()?) > file.max_bytes {
        partial.restart()?;
        check_size(file.max_bytes + 1, file.max_bytes)?;
    }
    read?;
    Ok(before > 0)
}

fn agent(download: &Download, address: &str, left: Duration) -> ureq::Agent {
    let mut config = ureq::Agent::config_builder()
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(download.stall_timeout))
        .timeout_per_read(Some(download.stall_timeout))
        .timeout_global(Some(FILE_TIMEOUT.min(left)))
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
    if !progress || !io::stderr().is_terminal() {
        tracing::info!("downloading {}", without_password(address, address));
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
