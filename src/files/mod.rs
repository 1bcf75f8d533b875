//! Writes files atomically, so that readers never see a partial file and a failure leaves the old one intact; and in
//! the background. Makes their names printable.

mod background;
mod names;

pub use background::BackgroundWriter;
pub use names::{is_escaped, name_of, printable};

#[cfg(unix)]
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Writes `path` through a temporary file in the same folder, which is fsynced and then renamed over it. On any failure
/// (a full disk, a read-only folder), `path` is unchanged and the temporary file is removed.
///
/// # Errors
/// The errors of `write` and of the file system, with the path.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    ensure!(!path.is_dir(), "cannot write {}: it is a folder", path.display());
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().with_context(context)?.to_string_lossy();
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
    temporary.persist(path).with_context(context)?;
    sync_folder(folder).with_context(context)
}

/// Makes the rename itself durable.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> std::io::Result<()> {
    Ok(())
}
