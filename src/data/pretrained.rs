//! Known pretrained weights, by name: torchvision's, for networks of this program.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Normalisation;
use super::fetch::{Checksum, Download, Remote, fetch_files};

/// The subfolder of the data folder, and the part of the name of the variable for other servers.
const FOLDER: &str = "weights";
const MIRRORS: &[&str] = &["https://download.pytorch.org/models"];

/// Pretrained weights that can be downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownWeights {
    pub name: &'static str,
    /// The network that they are of.
    pub model: &'static str,
    /// The file's name up to the digits.
    pub stem: &'static str,
    /// The first digits of its SHA-256, with which its name ends.
    pub digits: &'static str,
    /// Its size in MB, rounded up.
    pub megabytes: u64,
}

const fn known(
    name: &'static str,
    model: &'static str,
    stem: &'static str,
    digits: &'static str,
    megabytes: u64,
) -> KnownWeights {
    KnownWeights { name, model, stem, digits, megabytes }
}

/// torchvision's weights `IMAGENET1K_V1`, and `IMAGENET1K_V2` as `-v2`. Those that it still serves in the format before
/// PyTorch 1.6, such as `vgg16`, are not among them, because that format is not read.
pub const TABLE: &[KnownWeights] = &[
    known("alexnet", "alexnet", "alexnet-owt", "7be5be79", 245),
    known("resnet18", "resnet18", "resnet18", "f37072fd", 47),
    known("resnet34", "resnet34", "resnet34", "b627a593", 88),
    known("resnet50", "resnet50", "resnet50", "0676ba61", 103),
    known("resnet50-v2", "resnet50", "resnet50", "11ad3fa6", 103),
    known("resnet101", "resnet101", "resnet101", "63fe2227", 179),
    known("resnet101-v2", "resnet101", "resnet101", "cd907fc2", 179),
    known("resnet152", "resnet152", "resnet152", "394f9c45", 242),
    known("resnet152-v2", "resnet152", "resnet152", "f82ba261", 242),
    known("vgg11", "vgg11", "vgg11", "8a719046", 532),
    known("vgg13", "vgg13", "vgg13", "19584684", 533),
];

/// The weights of that name.
pub fn find(name: &str) -> Option<&'static KnownWeights> {
    TABLE.iter().find(|known| known.name == name)
}

/// The names of all known weights.
pub fn names() -> Vec<&'static str> {
    TABLE.iter().map(|known| known.name).collect()
}

impl KnownWeights {
    /// The file in the data folder `folder`, which need not exist.
    pub fn path(&self, folder: &Path) -> PathBuf {
        folder.join(FOLDER).join(format!("{}-{}.pth", self.stem, self.digits))
    }

    /// Mean and standard deviation of ImageNet's channels, by which the images were normalised.
    pub fn normalisation(&self) -> Normalisation {
        (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225])
    }

    /// Downloads the file into the data folder `folder`, unless it is there and valid.
    ///
    /// # Errors
    /// No server has a file with that checksum, or it cannot be written; the message says where to put a copy.
    pub fn fetch(&self, folder: &Path, progress: bool) -> Result<PathBuf> {
        self.fetch_from(&Download::new(FOLDER, progress), folder)
    }

    /// Like [`Self::fetch`], with given servers.
    pub fn fetch_from(&self, download: &Download, folder: &Path) -> Result<PathBuf> {
        let path = self.path(folder);
        let remote = Remote {
            name: format!("{}-{}.pth", self.stem, self.digits),
            mirrors: MIRRORS,
            existing: path.exists().then(|| path.clone()),
            path: path.clone(),
            checksum: Checksum::FirstDigits(self.digits),
            max_bytes: self.megabytes * 1_000_000,
            by_hand: format!("put the file at {} by hand", path.display()),
        };
        fetch_files(download, FOLDER, vec![remote])?;
        Ok(path)
    }
}
