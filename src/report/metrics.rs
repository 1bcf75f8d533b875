//! `metrics.jsonl`: the records of a run, in a file that is always complete and resumes where a checkpoint does.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tracing::warn;

use super::records::{EpochRecord, Record};
use crate::files;

/// The records of a run and the file that receives them.
#[derive(Clone, Debug)]
pub struct MetricsLog {
    path: PathBuf,
    records: Vec<Record>,
}

impl MetricsLog {
    /// Creates an empty log and its file, so that a folder that is not writable fails now and not after an epoch.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let log = Self { path: path.to_path_buf(), records: Vec::new() };
        log.save()?;
        Ok(log)
    }

    /// Opens the log of a run that resumes after `steps_done` steps and `epochs_done` complete epochs. Later records
    /// and that of a partial epoch are dropped, because the run repeats what they describe. A damaged file is kept under
    /// another name; a warning says which epochs it lacks.
    ///
    /// # Errors
    /// The file cannot be read, kept or written.
    pub fn resume(path: &Path, steps_done: u64, epochs_done: u32) -> Result<Self> {
        let content = read_if_exists(path)?;
        let (mut records, bad_line) = parse(content.as_deref().unwrap_or_default());
        let lost = missing_epochs(&records, epochs_done);
        let damage = match (&content, bad_line) {
            (None, _) => (steps_done > 0).then(|| "is missing".to_string()),
            (_, Some(line)) => Some(format!("is damaged in line {line}")),
            (_, None) => (!lost.is_empty()).then(|| "is incomplete".into()),
        };
        if let Some(damage) = damage {
            let kept = match bad_line {
                None => String::new(),
                Some(_) => format!(" and is kept as {}", keep_aside(path)?.display()),
            };
            let lost = match lost.len() {
                0 => "no epoch's record is lost".into(),
                1 => format!("the record of {} is lost", numbered(&lost)),
                _ => format!("the records of {} are lost", numbered(&lost)),
            };
            warn!("{} {damage}{kept}; {lost}", path.display());
        }
        records.retain(|record| match record {
            Record::Epoch(epoch) => epoch.epoch <= epochs_done,
            Record::Step(step) => step.step < steps_done,
        });
        let log = Self { path: path.to_path_buf(), records };
        log.save()?;
        Ok(log)
    }

    /// The records of a file that another process may be writing, and the number of the first line that is not one.
    ///
    /// # Errors
    /// The file is missing or cannot be read.
    pub fn read(path: &Path) -> Result<(Vec<Record>, Option<usize>)> {
        let content = read_if_exists(path)?;
        Ok(parse(&content.with_context(|| format!("{} is missing", path.display()))?))
    }

    /// The records of all epochs in the file at `path`.
    ///
    /// # Errors
    /// The file is missing, cannot be read, or is damaged.
    pub fn read_epochs(path: &Path) -> Result<Vec<EpochRecord>> {
        let (records, bad_line) = Self::read(path)?;
        let line = bad_line.unwrap_or_default();
        ensure!(bad_line.is_none(), "{} is damaged in line {line}", path.display());
        Ok(Self { path: path.to_path_buf(), records }.epochs())
    }

    /// Whether the file at `path` is undamaged and has the records of all epochs up to `epochs_done`.
    pub fn is_complete(path: &Path, epochs_done: u32) -> bool {
        Self::check(path, epochs_done).is_ok()
    }

    /// Fails with what the file at `path` lacks: itself, records that can be read, or epochs up to `epochs_done`.
    pub fn check(path: &Path, epochs_done: u32) -> Result<()> {
        let content = read_if_exists(path)?.context("it is missing")?;
        let (records, bad_line) = parse(&content);
        ensure!(bad_line.is_none(), "it is damaged in line {}", bad_line.unwrap_or_default());
        let lost = missing_epochs(&records, epochs_done);
        ensure!(lost.is_empty(), "it lacks {}", numbered(&lost));
        Ok(())
    }

    pub fn push(&mut self, record: Record) {
        self.records.push(record);
    }

    /// Rewrites the file with all records.
    ///
    /// # Errors
    /// The file cannot be written; its old content is then kept.
    pub fn save(&self) -> Result<()> {
        files::write_atomically(&self.path, |writer| {
            for record in &self.records {
                serde_json::to_writer(&mut *writer, record)?;
                writer.write_all(b"\n")?;
            }
            Ok(())
        })
    }

    /// The number of the last epoch with a record; 0 if there is none.
    pub fn last_epoch(&self) -> u32 {
        self.epochs().last().map_or(0, |epoch| epoch.epoch)
    }

    /// The records of all epochs so far, in order.
    pub fn epochs(&self) -> Vec<EpochRecord> {
        let epoch = |record: &Record| match record {
            Record::Epoch(epoch) => Some(epoch.clone()),
            Record::Step(_) => None,
        };
        self.records.iter().filter_map(epoch).collect()
    }
}

/// The epochs up to `epochs_done` that have no record.
fn missing_epochs(records: &[Record], epochs_done: u32) -> Vec<u32> {
    let has = |number: &u32| records.iter().any(|it| matches!(it, Record::Epoch(epoch) if epoch.epoch == *number));
    (1..=epochs_done).filter(|number| !has(number)).collect()
}

/// Epochs by their numbers, for messages.
fn numbered(epochs: &[u32]) -> String {
    let numbers = epochs.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    format!("{} {numbers}", if epochs.len() == 1 { "epoch" } else { "epochs" })
}

/// Renames a damaged file to the first free name, which it returns.
fn keep_aside(path: &Path) -> Result<PathBuf> {
    let name = |number: u32| {
        let mut name = path.as_os_str().to_os_string();
        name.push(if number == 1 { ".damaged".into() } else { format!(".damaged-{number}") });
        PathBuf::from(name)
    };
    let free = (1..=u32::MAX).map(name).find(|name| name.symlink_metadata().is_err()).context("no free name")?;
    fs::rename(path, &free).with_context(|| format!("cannot rename {} to {}", path.display(), free.display()))?;
    Ok(free)
}

/// Reads the file at `path`; `None` if there is none.
fn read_if_exists(path: &Path) -> Result<Option<Vec<u8>>> {
    let read = || {
        // Checked before opening, because opening a named pipe would block forever.
        ensure!(path.metadata()?.is_file(), "this is not a regular file");
        Ok(Some(fs::read(path)?))
    };
    match read() {
        Err(error) if is_missing(&error) => Ok(None),
        result => result.with_context(|| format!("cannot read {}", path.display())),
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

/// The records, and the number of the first line that is not one.
fn parse(bytes: &[u8]) -> (Vec<Record>, Option<usize>) {
    let (mut records, mut bad_line) = (Vec::new(), None);
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        match serde_json::from_slice(line) {
            Ok(record) => records.push(record),
            Err(_) if line.trim_ascii().is_empty() => {}
            Err(_) => bad_line = bad_line.or(Some(index + 1)),
        }
    }
    (records, bad_line)
}
