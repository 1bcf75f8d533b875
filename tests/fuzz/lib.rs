//! What the fuzz targets share.

#[path = "../support/stored_zip.rs"]
mod stored_zip;
#[path = "../support/tiny.rs"]
mod tiny;

pub use stored_zip::archive;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use cnn_cuda::network::Network;

/// Calls `read` with the path of a file of this name that holds `data`, alone in its folder.
///
/// # Panics
/// If the file cannot be written.
pub fn with_file(name: &str, data: &[u8], read: impl FnOnce(&Path)) {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder")).path();
    for entry in fs::read_dir(folder).expect("readable").flatten() {
        fs::remove_file(entry.path()).expect("removed");
    }
    let path = folder.join(name);
    fs::write(&path, data).expect("written");
    read(&path);
}

/// The network of the checkpoints and weights in `tests/reference`.
pub fn network() -> &'static Network {
    static NETWORK: OnceLock<Network> = OnceLock::new();
    NETWORK.get_or_init(tiny::tiny)
}
