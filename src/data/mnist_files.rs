//! The four files of MNIST and of Fashion-MNIST: names, checksums, classes, and where in a data folder they belong.

use std::path::{Path, PathBuf};

use super::fetch::{Checksum, Remote};

/// A set in MNIST's four files.
#[derive(Debug)]
pub struct IdxSet {
    /// As `--dataset` names it, and the folder that a download makes.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// Where in a data folder the files are looked for, in this order.
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

/// The largest file has 45 MiB when decompressed.
const MAX_BYTES: u64 = 64 << 20;

/// The four files, by the checksums of training images and labels, test images and labels.
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

/// Zalando's articles of clothing. Its files are not looked for directly in the data folder, where MNIST's may lie
/// under the same names.
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

    /// The file in one of the set's places in `folder`, gzipped or not.
    pub fn find(&self, file: &IdxFile, folder: &Path) -> Option<PathBuf> {
        let candidates = self.candidates(file, folder);
        // Some archives hold a folder of the file's name beside the file, so files come first. What is not a file, or
        // cannot be looked at, is returned all the same: reading it will say what is wrong with it.
        let found = candidates.iter().find(|path| path.is_file());
        found.or_else(|| candidates.iter().find(|path| path.try_exists().unwrap_or(true))).cloned()
    }

    fn candidates(&self, file: &IdxFile, folder: &Path) -> Vec<PathBuf> {
        let dotted = file.name.replacen("-idx", ".idx", 1);
        let names = [file.name.to_string(), format!("{}.gz", file.name), dotted.clone(), format!("{dotted}.gz")];
        let place = |place: &&str| if place.is_empty() { folder.to_path_buf() } else { folder.join(place) };
        let folders: Vec<PathBuf> = self.folders.iter().map(place).collect();
        folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name))).collect()
    }

    /// The four files as a download sees them.
    pub fn remotes(&self, folder: &Path) -> Vec<Remote> {
        let remote = |file: &&IdxFile| Remote {
            name: format!("{}.gz", file.name),
            mirrors: self.mirrors,
            path: folder.join(self.name).join(format!("{}.gz", file.name)),
            found: self.find(file, folder),
            checksum: file.checksum,
            max_bytes: MAX_BYTES,
            by_hand: self.by_hand(folder),
        };
        self.all().iter().map(remote).collect()
    }

    /// What a person can do where a download is impossible or not wanted.
    pub fn by_hand(&self, folder: &Path) -> String {
        let names: Vec<_> = self.all().iter().map(|file| file.name).collect();
        format!(
            "put {}, each gzipped or not, into {} by hand; `--dataset digits` needs no files",
            names.join(", "),
            folder.join(self.name).display()
        )
    }
}
