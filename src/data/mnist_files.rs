//! The four files of MNIST and Fashion-MNIST: names, checksums, classes and locations in a data folder.

use std::path::{Path, PathBuf};

use super::fetch::{Checksum, Remote};

/// A data set that consists of four IDX files, like MNIST.
#[derive(Debug)]
pub struct IdxSet {
    /// The name for `--dataset`, and the folder that downloads go to.
    pub name: &'static str,
    /// The name in messages.
    pub title: &'static str,
    /// The subfolders of a data folder in which to look for the files, in this order.
    folders: &'static [&'static str],
    mirrors: &'static [&'static str],
    pub classes: [&'static str; 10],
    pub files: IdxFiles,
}

/// The four files of a set.
#[derive(Debug)]
pub struct IdxFiles {
    pub train_images: IdxFile,
    pub train_labels: IdxFile,
    pub test_images: IdxFile,
    pub test_labels: IdxFile,
}

/// One of the four files.
#[derive(Debug)]
pub struct IdxFile {
    /// The usual name, without `.gz`.
    pub name: &'static str,
    checksum: Checksum,
}

const TRAIN_IMAGES: &str = "train-images-idx3-ubyte";
const TRAIN_LABELS: &str = "train-labels-idx1-ubyte";
const TEST_IMAGES: &str = "t10k-images-idx3-ubyte";
const TEST_LABELS: &str = "t10k-labels-idx1-ubyte";

/// The largest size of a decompressed file that is accepted. The largest of the files has 45 MiB.
const MAX_BYTES: u64 = 64 << 20;

/// The four files, given the checksums of training images, training labels, test images and test labels.
const fn files([train_images, train_labels, test_images, test_labels]: [Checksum; 4]) -> IdxFiles {
    IdxFiles {
        train_images: IdxFile { name: TRAIN_IMAGES, checksum: train_images },
        train_labels: IdxFile { name: TRAIN_LABELS, checksum: train_labels },
        test_images: IdxFile { name: TEST_IMAGES, checksum: test_images },
        test_labels: IdxFile { name: TEST_LABELS, checksum: test_labels },
    }
}

pub static MNIST: IdxSet = IdxSet {
    name: "mnist",
    title: "MNIST",
    folders: &["", "mnist", "MNIST/raw"],
    mirrors: &["https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"],
    classes: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
    files: files([
        Checksum::Content("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        Checksum::Content("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        Checksum::Content("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        Checksum::Content("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ]),
};

/// Zalando's articles of clothing. `folders` does not contain the data folder itself, where files of MNIST with the same
/// names may be.
pub static FASHION_MNIST: IdxSet = IdxSet {
    name: "fashion-mnist",
    title: "Fashion-MNIST",
    folders: &["fashion-mnist", "FashionMNIST/raw"],
    mirrors: &[
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ],
    classes: ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
    files: files([
        Checksum::Archive("3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        Checksum::Archive("a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        Checksum::Archive("346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        Checksum::Archive("67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ]),
};

impl IdxSet {
    pub fn all(&self) -> [&IdxFile; 4] {
        let IdxFiles { train_images, train_labels, test_images, test_labels } = &self.files;
        [train_images, train_labels, test_images, test_labels]
    }

    /// The training images, if they are in the data folder `folder`.
    pub fn found(&self, folder: &Path) -> Option<PathBuf> {
        self.find(&self.files.train_images, folder).filter(|path| path.is_file())
    }

    /// The path of the file in the data folder `folder`, gzipped or not, if it exists.
    pub fn find(&self, file: &IdxFile, folder: &Path) -> Option<PathBuf> {
        let candidates = self.candidates(file, folder);
        // Some archives contain a folder with the file's name next to the file, so regular files come first. Anything
        // else, or a path without access, is also returned: reading it reports what is wrong.
        let found = candidates.iter().find(|path| path.is_file());
        found.or_else(|| candidates.iter().find(|path| path.try_exists().unwrap_or(true))).cloned()
    }

    fn candidates(&self, file: &IdxFile, folder: &Path) -> Vec<PathBuf> {
        let dotted = file.name.replacen("-idx", ".idx", 1);
        let names = [file.name.to_string(), format!("{}.gz", file.name), dotted.clone(), format!("{dotted}.gz")];
        let below = |name: &&str| if name.is_empty() { folder.to_path_buf() } else { folder.join(name) };
        let folders: Vec<PathBuf> = self.folders.iter().map(below).collect();
        folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name))).collect()
    }

    /// The four files as files to download.
    pub fn remotes(&self, folder: &Path) -> Vec<Remote> {
        let remote = |file: &&IdxFile| Remote {
            name: format!("{}.gz", file.name),
            mirrors: self.mirrors,
            path: folder.join(self.name).join(format!("{}.gz", file.name)),
            existing: self.find(file, folder),
            checksum: file.checksum,
            max_bytes: MAX_BYTES,
            by_hand: self.by_hand(folder),
        };
        self.all().iter().map(remote).collect()
    }

    /// Instructions for users who cannot or do not want to download the files with the program.
    pub fn by_hand(&self, folder: &Path) -> String {
        let names: Vec<_> = self.all().iter().map(|file| file.name).collect();
        format!(
            "put {}, each gzipped or not, into {} by hand; `--dataset digits` needs no files",
            names.join(", "),
            folder.join(self.name).display()
        )
    }
}
