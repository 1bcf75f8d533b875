//! Writes files atomically, so that readers never see a partial file and a failure leaves the old one intact; and in
//! the background. Makes their names printable.

mod background;
mod names;

pub use background::BackgroundWriter;
pub use names::{is_escaped, name_of, printable};

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Writes `path` through a temporary file in the same folder, which is fsynced and then renamed over it. On any failure
/// (a full disk, a read-only folder), `path` is unchanged and the temporary file is removed. A link is followed. A device
/// or a named pipe is written to, not replaced.
///
/// # Errors
/// The errors of `write` and of the file system, with the path.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    ensure!(!path.is_dir(), "cannot write {}: it is a folder", path.display());
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        let mut writer = BufWriter::new(OpenOptions::new().write(true).open(path).with_context(context)?);
        write(&mut writer).with_context(context)?;
        return writer.flush().with_context(context);
    }
    let target = match path.is_symlink() {
        true => fs::canonicalize(path).context("it is a link to a file that does not exist").with_context(context)?,
        false => path.to_path_buf(),
    };
    let folder = parent_of(&target);
    let name = target.file_name().with_context(context)?.to_string_lossy();
    let prefix = format!(".{name}.");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666)); // minus the umask, as for any new file
    }
    let temporary = builder.tempfile_in(folder).with_context(context)?;
    let mut writer = BufWriter::new(temporary.as_file());
    write(&mut writer).with_context(context)?;
    writer.flush().with_context(context)?;
    drop(writer);
    temporary.as_file().sync_all().with_context(context)?;
    temporary.persist(&target).with_context(context)?;
    sync_folder(folder).with_context(context)
}

/// Creates a folder and those above it, durably.
pub fn create_folder(path: &Path) -> std::io::Result<()> {
    let missing: Vec<PathBuf> =
        path.ancestors().take_while(|it| !it.as_os_str().is_empty() && !it.exists()).map(PathBuf::from).collect();
    fs::create_dir_all(path)?;
    missing.iter().rev().try_for_each(|folder| sync_parent(folder))
}

/// Makes the name of a new file or folder durable.
pub fn sync_parent(path: &Path) -> std::io::Result<()> {
    sync_folder(parent_of(path))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a rename in a folder durable.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> std::io::Result<()> {
    Ok(())
}
