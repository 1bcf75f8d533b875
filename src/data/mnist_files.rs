//! The four files of MNIST: their names, their checksums, and where in a data folder they are looked for.

use std::path::{Path, PathBuf};

/// One of the four files.
#[derive(Debug)]
pub struct MnistFile {
    /// The usual name, without `.gz`.
    pub name: &'static str,
    /// SHA-256 of the decompressed file, in lower-case hexadecimal.
    pub sha256: &'static str,
}

pub static TRAIN_IMAGES: MnistFile = MnistFile {
    name: "train-images-idx3-ubyte",
    sha256: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
};
pub static TRAIN_LABELS: MnistFile = MnistFile {
    name: "train-labels-idx1-ubyte",
    sha256: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
};
pub static TEST_IMAGES: MnistFile = MnistFile {
    name: "t10k-images-idx3-ubyte",
    sha256: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
};
pub static TEST_LABELS: MnistFile = MnistFile {
    name: "t10k-labels-idx1-ubyte",
    sha256: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
};
pub static ALL: [&MnistFile; 4] = [&TRAIN_IMAGES, &TRAIN_LABELS, &TEST_IMAGES, &TEST_LABELS];

impl MnistFile {
    /// Where a download puts the file.
    pub fn download_path(&self, folder: &Path) -> PathBuf {
        folder.join("mnist").join(self.archive_name())
    }

    /// The name under which mirrors offer the file.
    pub fn archive_name(&self) -> String {
        format!("{}.gz", self.name)
    }

    /// The file in `folder`, `folder/mnist` or `folder/MNIST/raw`, gzipped or not.
    pub fn find(&self, folder: &Path) -> Option<PathBuf> {
        let candidates = self.candidates(folder);
        // Some archives hold a folder of the file's name beside the file, so files come first. What is not a file, or
        // cannot be looked at, is returned all the same: reading it will say what is wrong with it.
        let file = candidates.iter().find(|path| path.is_file());
        file.or_else(|| candidates.iter().find(|path| path.try_exists().unwrap_or(true))).cloned()
    }

    fn candidates(&self, folder: &Path) -> Vec<PathBuf> {
        let dotted = self.name.replacen("-idx", ".idx", 1);
        let names = [self.name.to_string(), self.archive_name(), dotted.clone(), format!("{dotted}.gz")];
        let folders = [folder.to_path_buf(), folder.join("mnist"), folder.join("MNIST").join("raw")];
        folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name))).collect()
    }
}

/// What a person can do where a download is impossible or not wanted.
pub fn by_hand(folder: &Path) -> String {
    let names: Vec<_> = ALL.iter().map(|file| file.name).collect();
    format!(
        "put {}, each gzipped or not, into {} by hand; `--dataset digits` needs no files",
        names.join(", "),
        folder.join("mnist").display()
    )
}
