//! `metrics.jsonl`: the records of a run, in a file that is always complete and resumes where a checkpoint does.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

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
    /// and that of a partial epoch are dropped, because the run repeats what they describe. A missing file counts as an
    /// empty log. An incomplete last line is dropped.
    ///
    /// # Errors
    /// The file cannot be read or written, or a line before the last is not a record.
    pub fn resume(path: &Path, steps_done: u64, epochs_done: u32) -> Result<Self> {
        let mut records = parse(&read_if_exists(path)?)
            .with_context(|| format!("{} is damaged: delete it to resume without its records", path.display()))?;
        records.retain(|record| match record {
            Record::Epoch(epoch) => epoch.epoch <= epochs_done,
            Record::Step(step) => step.step < steps_done,
        });
        let log = Self { path: path.to_path_buf(), records };
        log.save()?;
        Ok(log)
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

    /// The records of all epochs so far, in order.
    pub fn epochs(&self) -> Vec<EpochRecord> {
        let epoch = |record: &Record| match record {
            Record::Epoch(epoch) => Some(epoch.clone()),
            Record::Step(_) => None,
        };
        self.records.iter().filter_map(epoch).collect()
    }
}

/// Reads the file at `path`; a missing file is empty.
fn read_if_exists(path: &Path) -> Result<Vec<u8>> {
    let read = || {
        // Checked before opening, because opening a named pipe would block forever.
        ensure!(path.metadata()?.is_file(), "this is not a regular file");
        Ok(fs::read(path)?)
    };
    match read() {
        Err(error) if is_missing(&error) => Ok(Vec::new()),
        result => result.with_context(|| format!("cannot read {}", path.display())),
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

fn parse(bytes: &[u8]) -> Result<Vec<Record>> {
    let lines: Vec<(usize, &[u8])> = bytes
        .split(|&byte| byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(index, line)| (index + 1, line))
        .collect();
    let mut records = Vec::with_capacity(lines.len());
    for (position, (number, line)) in lines.iter().enumerate() {
        match serde_json::from_slice(line) {
            Ok(record) => records.push(record),
            Err(_) if position + 1 == lines.len() => {}
            Err(error) => return Err(error).with_context(|| format!("line {number} is not a record")),
        }
    }
    Ok(records)
}
