//! What the fuzz targets share.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use cnn_cuda::network::{Builder, Conv2dOptions, Network};
use cnn_cuda::shape::{Shape, Window};

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
///
/// # Panics
/// Never: the network is valid.
pub fn network() -> &'static Network {
    static NETWORK: OnceLock<Network> = OnceLock::new();
    NETWORK.get_or_init(|| {
        let mut net = Builder::new("tiny", Shape::new(6, 6, 1));
        let options = Conv2dOptions { out_channels: 2, kernel: 3, ..Conv2dOptions::default() };
        let mut x = net.conv2d("conv", 0, options).expect("a convolution");
        x = net.batch_norm2d("norm", x).expect("a batch normalisation");
        x = net.relu(x).expect("an activation");
        x = net.max_pool2d(x, Window { kernel: 2, stride: 2, padding: 0 }).expect("a pooling");
        x = net.flatten(x);
        net.linear("fc", x, 3).expect("a linear layer");
        net.finish().expect("a network")
    })
}
