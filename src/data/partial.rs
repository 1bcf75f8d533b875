//! A file that is being downloaded. If the download ends early, even by a kill, the next one continues it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// The part of a file that was downloaded so far, next to the file, with `.part` added to its name. Only one process at a
/// time can have it open.
pub struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    /// The folder, if it did not exist before.
    created: Option<PathBuf>,
}

impl Partial {
    /// Opens the part of the file `target` that exists, or creates an empty one.
    ///
    /// # Errors
    /// If the file cannot be created, or another process is downloading it.
    pub fn open(target: &Path) -> Result<Self> {
        let folder = target.parent().context("the path has no parent folder")?;
        let created = (!folder.exists()).then(|| folder.to_path_buf());
        fs::create_dir_all(folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
        let mut name: OsString = target.as_os_str().into();
        name.push(".part");
        let path = PathBuf::from(name);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let file = options.open(&path).with_context(|| format!("cannot write {}", path.display()))?;
        // A file system without locks is used without them.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            bail!("another process is downloading {}", target.display());
        }
        // Another process may have finished the file since it was opened here.
        ensure!(path.exists(), "another process has just downloaded {}; try again", target.display());
        Ok(Self { file, path, target: target.into(), created })
    }

    fn context(&self) -> String {
        format!("cannot write {}", self.path.display())
    }

    /// The number of bytes so far.
    pub fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().with_context(|| self.context())?.len())
    }

    /// Drops what was downloaded.
    pub fn restart(&self) -> Result<()> {
        self.file.set_len(0).with_context(|| self.context())
    }

    /// The file, to be read from its beginning.
    pub fn start(&mut self) -> Result<&mut File> {
        self.file.seek(SeekFrom::Start(0)).with_context(|| self.context())?;
        Ok(&mut self.file)
    }

    /// The file, to be written at its end.
    pub fn end(&mut self) -> Result<&mut File> {
        self.file.seek(SeekFrom::End(0)).with_context(|| self.context())?;
        Ok(&mut self.file)
    }

    /// Replaces what was downloaded.
    pub fn replace(&mut self, bytes: &[u8]) -> Result<()> {
        self.restart()?;
        let written = self.start()?.write_all(bytes);
        written.with_context(|| self.context())
    }

    /// Gives the complete file its name.
    pub fn finish(self) -> Result<()> {
        self.file.sync_all().with_context(|| self.context())?;
        fs::rename(&self.path, &self.target).with_context(|| format!("cannot write {}", self.target.display()))
    }

    /// Keeps what was downloaded for the next time; removes an empty file, and its folder if that is new. Returns the
    /// number of bytes that are kept.
    pub fn keep(self) -> u64 {
        let length = self.len().unwrap_or(0);
        if length == 0 {
            // The reason why the download failed is reported instead.
            let _ = fs::remove_file(&self.path);
            if let Some(folder) = &self.created {
                let _ = fs::remove_dir(folder);
            }
        }
        length
    }
}
