//! The folder of a run: its name, its lock, and what may be overwritten.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tracing::warn;

use crate::files::{create_folder, sync_parent};
use crate::settings::{RunConfig, short_name};

/// A folder that no other process may train in until this value is dropped.
#[derive(Debug)]
pub struct FolderLock {
    folder: PathBuf,
    /// The locked folder; `None` if the system cannot open folders.
    handle: Option<File>,
}

impl FolderLock {
    /// # Errors
    /// Another process has locked the folder. A file system without locks causes a warning only.
    pub fn acquire(folder: &Path) -> Result<Self> {
        let handle = File::open(folder).ok();
        match handle.as_ref().map(File::try_lock) {
            Some(Err(TryLockError::WouldBlock)) => bail!("another process is training in {}", folder.display()),
            Some(Err(TryLockError::Error(error))) => {
                warn!("cannot lock {} against other processes: {error}", folder.display());
            }
            Some(Ok(())) | None => {}
        }
        let lock = Self { folder: folder.to_path_buf(), handle };
        lock.check()?;
        Ok(lock)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Fails if the path no longer leads to the locked folder, because the folder was removed or renamed. Another run may
    /// then train in a new folder of that name.
    pub fn check(&self) -> Result<()> {
        let Some(handle) = &self.handle else { return Ok(()) };
        let is_same = same_file(handle, &self.folder);
        let shown = self.folder.display();
        let is_same =
            is_same.with_context(|| format!("the folder {shown} was removed while this run trained in it"))?;
        ensure!(is_same, "the folder {shown} was replaced while this run trained in it; it is left as it is");
        Ok(())
    }
}

#[cfg(unix)]
fn same_file(handle: &File, path: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (ours, there) = (handle.metadata()?, fs::metadata(path)?);
    Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

#[cfg(not(unix))]
fn same_file(_handle: &File, path: &Path) -> Result<bool> {
    Ok(path.exists())
}

/// The folder that `--resume` means: a folder itself, or that of a run's file.
pub fn folder_to_resume(given: &Path) -> Result<PathBuf> {
    if !given.is_file() {
        return Ok(given.to_path_buf());
    }
    let parent = given.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_run = parent.join(crate::settings::FILE).is_file();
    ensure!(is_run, "--resume {} is a file, and not in the folder of a run", given.display());
    Ok(parent.to_path_buf())
}

/// Creates the folder `--out`, or `runs/<model>-<dataset>-<seed>`, with a suffix `-2`, `-3`, … if that name is taken.
pub fn create_run_folder(out: Option<&Path>, config: &RunConfig) -> Result<PathBuf> {
    if let Some(folder) = out {
        let context = || format!("cannot create the folder --out {}", folder.display());
        create_folder(folder).with_context(context)?;
        return Ok(folder.to_path_buf());
    }
    let parent = Path::new("runs");
    create_folder(parent).context("cannot create the folder runs; choose another folder with --out")?;
    let name = format!("{}-{}-{}", config.model(), short_name(config.dataset()), config.seed());
    for number in 1_u32.. {
        let folder = match number {
            1 => parent.join(&name),
            _ => parent.join(format!("{name}-{number}")),
        };
        let cannot_create = || format!("cannot create the folder {}", folder.display());
        match fs::create_dir(&folder) {
            Ok(()) => {
                sync_parent(&folder).with_context(cannot_create)?;
                return Ok(folder);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(cannot_create),
        }
    }
    Err(anyhow!("all names for {name} in the folder runs are taken"))
}

/// Removes the temporary files of `names` that a killed process left in a folder.
pub fn remove_leftovers(folder: &Path, names: &[&str]) {
    let leftover =
        |name: &str| names.iter().any(|file| name.starts_with(&format!(".{file}"))) && name.ends_with(".tmp");
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        if leftover(&entry.file_name().to_string_lossy())
            && let Err(error) = fs::remove_file(entry.path())
        {
            warn!("cannot remove {}: {error}", entry.path().display());
        }
    }
}
