//! Loads CIFAR-10 and CIFAR-100 in their binary version, from the published archive or the unpacked folder.
//!
//! The format is described at <https://www.cs.toronto.edu/~kriz/cifar.html>: a file is a sequence of records. A record
//! is a label (CIFAR-100: a coarse and a fine label) and a 32×32 picture as a red, a green and a blue plane.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::archive;
use super::fetch::{Checksum, Remote};
use super::member::Kind;
use super::{Dataset, LoadOptions, Split, fetch};
use crate::shape::Shape;

const SIDE: usize = 32;
const PIXELS: usize = SIDE * SIDE;
const SAMPLE: usize = 3 * PIXELS;
const MAX_NAMES: u64 = 64 << 10;
const MAX_ARCHIVE: u64 = 256 << 20;

/// The names, sizes and checksums of CIFAR-10 or CIFAR-100.
#[derive(Debug)]
pub struct CifarSet {
    name: &'static str,
    title: &'static str,
    archive: &'static str,
    sha256: &'static str,
    mirrors: &'static [&'static str],
    /// The top-level folder in the archive.
    folder: &'static str,
    /// The archive of the Python version, and its top-level folder.
    python: [&'static str; 2],
    train: &'static [&'static str],
    test: &'static str,
    /// The number of records in each training file.
    train_records: usize,
    test_records: usize,
    /// The number of label bytes in a record; the last one is the label that is used.
    label_bytes: usize,
    class_file: &'static str,
    class_count: usize,
    /// Statistics of the training images, per channel.
    mean: [f32; 3],
    std: [f32; 3],
}

pub static CIFAR10: CifarSet = CifarSet {
    name: "cifar10",
    title: "CIFAR-10",
    archive: "cifar-10-binary.tar.gz",
    sha256: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    mirrors: &[
        "https://www.cs.toronto.edu/~kriz/",
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
    ],
    folder: "cifar-10-batches-bin",
    python: ["cifar-10-python.tar.gz", "cifar-10-batches-py"],
    train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    test: "test_batch.bin",
    train_records: 10_000,
    test_records: 10_000,
    label_bytes: 1,
    class_file: "batches.meta.txt",
    class_count: 10,
    mean: [0.4914, 0.4822, 0.4465],
    std: [0.2470, 0.2435, 0.2616],
};

pub static CIFAR100: CifarSet = CifarSet {
    name: "cifar100",
    title: "CIFAR-100",
    archive: "cifar-100-binary.tar.gz",
    sha256: "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    mirrors: &["https://www.cs.toronto.edu/~kriz/"],
    folder: "cifar-100-binary",
    python: ["cifar-100-python.tar.gz", "cifar-100-python"],
    train: &["train.bin"],
    test: "test.bin",
    train_records: 50_000,
    test_records: 10_000,
    label_bytes: 2,
    class_file: "fine_label_names.txt",
    class_count: 100,
    mean: [0.5071, 0.4865, 0.4409],
    std: [0.2673, 0.2564, 0.2762],
};

pub fn load_cifar10(options: &LoadOptions) -> Result<Dataset> {
    CIFAR10.load(options)
}

pub fn load_cifar100(options: &LoadOptions) -> Result<Dataset> {
    CIFAR100.load(options)
}

impl CifarSet {
    /// Reads the set, and first downloads its archive if it is missing and the options allow it.
    fn load(&'static self, options: &LoadOptions) -> Result<Dataset> {
        let folder = &options.folder;
        let mut loader = Loader::new(self);
        if let Some(unpacked) = self.unpacked(folder) {
            loader.read_folder(&unpacked)?;
        } else {
            if self.packed(folder).is_none() {
                // Who has the Python version may not want to download the other one.
                if let Some((_, reason)) = self.foreign(folder) {
                    bail!("{reason}, or {}", self.by_hand(folder));
                }
                if options.download {
                    tracing::info!("{} lacks {}; downloading", folder.display(), self.title);
                    fetch::fetch(self.name, folder, options.progress)?;
                }
            }
            let path = self.packed(folder).with_context(|| {
                let (title, shown, run) = (self.title, folder.display(), fetch::command(self.name, folder));
                format!("there is no {title} in {shown}; {run}, or {}", self.by_hand(folder))
            })?;
            loader.read_archive(&path)?;
        }
        loader.finish()
    }

    /// The folder with the unpacked archive, if it holds any file of the set.
    fn unpacked(&self, folder: &Path) -> Option<PathBuf> {
        let own = folder.join(self.name);
        let candidates = [own.join(self.folder), folder.join(self.folder), own];
        candidates.into_iter().find(|folder| self.files().any(|(file, _)| folder.join(file).exists()))
    }

    /// The archive, if it exists.
    fn packed(&self, folder: &Path) -> Option<PathBuf> {
        [folder.join(self.name).join(self.archive), folder.join(self.archive)].into_iter().find(|path| path.exists())
    }

    /// The archive or folder of the Python version in the data folder `folder`, if it exists, and what to do instead of
    /// reading it.
    pub fn foreign(&self, folder: &Path) -> Option<(PathBuf, String)> {
        let places = [folder.join(self.name), folder.into()];
        let mut candidates = places.iter().flat_map(|place| self.python.map(|name| place.join(name)));
        let found = candidates.find(|path| path.exists())?;
        let (shown, title, run) = (found.display(), self.title, fetch::command(self.name, folder));
        let reason = format!("{shown} is the Python version of {title}, but the binary version is read; {run}");
        Some((found, reason))
    }

    /// Any of the set's files in the data folder `folder`.
    pub fn found(&self, folder: &Path) -> Option<PathBuf> {
        self.unpacked(folder).or_else(|| self.packed(folder))
    }

    /// The data files with their numbers of records; the test file is last.
    fn files(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let train = self.train.iter().map(|file| (*file, self.train_records));
        train.chain([(self.test, self.test_records)])
    }

    /// Bytes of a record.
    fn record_len(&self) -> usize {
        self.label_bytes + SAMPLE
    }

    /// The archive as a file to download.
    pub fn remotes(&self, folder: &Path) -> Vec<Remote> {
        let unpacked = self.unpacked(folder).map(|unpacked| unpacked.join(self.test));
        vec![Remote {
            name: self.archive.into(),
            mirrors: self.mirrors,
            path: folder.join(self.name).join(self.archive),
            existing: unpacked.filter(|file| file.is_file()).or_else(|| self.packed(folder)),
            checksum: Checksum::Archive(self.sha256),
            max_bytes: MAX_ARCHIVE,
            by_hand: self.by_hand(folder),
        }]
    }

    fn by_hand(&self, folder: &Path) -> String {
        let target = folder.join(self.name);
        format!("put {} into {} by hand; `--dataset digits` needs no files", self.archive, target.display())
    }
}

/// Collects the files of a set.
struct Loader {
    set: &'static CifarSet,
    /// One per file, in the order of [`CifarSet::files`]; `None` until the file is read.
    batches: Vec<Option<Split>>,
    classes: Option<Vec<String>>,
    /// The folder or archive that is read.
    source: PathBuf,
}

impl Loader {
    fn new(set: &'static CifarSet) -> Self {
        Self { set, batches: set.files().map(|_| None).collect(), classes: None, source: PathBuf::new() }
    }

    fn read_folder(&mut self, folder: &Path) -> Result<()> {
        self.source = folder.into();
        for name in self.set.files().map(|(file, _)| file).chain([self.set.class_file]) {
            let path = folder.join(name);
            if !path.exists() {
                continue; // `finish` reports all missing files together.
            }
            let context = || format!("cannot read {}", path.display());
            // Checked before opening, because opening a named pipe would block forever.
            let metadata = path.metadata().with_context(context)?;
            ensure!(metadata.is_file(), "cannot read {}: it is not a regular file", path.display());
            let file = BufReader::new(File::open(&path).with_context(context)?);
            self.read_file(name, metadata.len(), file).with_context(context)?;
        }
        Ok(())
    }

    fn read_archive(&mut self, path: &Path) -> Result<()> {
        self.source = path.into();
        archive::for_each(path, |member, content| match member.parts.as_slice() {
            [.., file] if member.kind == Kind::File => {
                self.read_file(file, member.size, BufReader::new(content)).with_context(|| file.clone())?;
                Ok(ControlFlow::Continue(()))
            }
            [.., file] if member.kind == Kind::Sparse && self.set.files().any(|(name, _)| name == file) => {
                bail!("{file} is stored as a sparse file, which is not supported; download the archive again")
            }
            _ => Ok(ControlFlow::Continue(())),
        })
    }

    /// Reads a file of `size` bytes if it belongs to the set, and ignores it otherwise.
    fn read_file(&mut self, name: &str, size: u64, source: impl Read) -> Result<()> {
        let set = self.set;
        if name == set.class_file {
            self.classes = Some(read_classes(source, set.class_count)?);
            return Ok(());
        }
        let Some((index, (_, records))) = set.files().enumerate().find(|(_, (file, _))| *file == name) else {
            return Ok(());
        };
        // Check the size before allocating memory.
        let expected = (records * set.record_len()) as u64;
        let (title, record_len) = (set.title, set.record_len());
        ensure!(size >= expected, "it is truncated: {size} bytes, but {records} records of {title} take {expected}");
        ensure!(
            size == expected,
            "it is not a file of {title}: {size} bytes are not {records} records of {record_len} bytes"
        );
        self.batches[index] = Some(read_records(source, records, set.label_bytes, set.class_count)?);
        Ok(())
    }

    fn finish(self) -> Result<Dataset> {
        let Self { set, batches, classes, source } = self;
        let missing: Vec<_> = set.files().zip(&batches).filter(|(_, batch)| batch.is_none()).collect();
        let mut missing: Vec<&str> = missing.into_iter().map(|((file, _), _)| file).collect();
        if classes.is_none() {
            missing.push(set.class_file);
        }
        let (Some(mut batches), Some(classes)) = (batches.into_iter().collect::<Option<Vec<_>>>(), classes) else {
            bail!(
                "{} lacks {}; is it the binary version of {}? Unpack {} again",
                source.display(),
                missing.join(", "),
                set.title,
                set.archive
            )
        };
        let test = batches.pop().context("a test set")?;
        let mut batches = batches.into_iter();
        let mut train = batches.next().context("a training set")?;
        for batch in batches {
            train.images.extend(batch.images);
            train.labels.extend(batch.labels);
        }
        Ok(Dataset {
            name: set.name.into(),
            shape: Shape::new(SIDE, SIDE, 3),
            classes,
            mean: set.mean.to_vec(),
            std: set.std.to_vec(),
            train,
            val: Split::default(),
            test,
        })
    }
}

/// Reads exactly `records` records. A record is `label_bytes` bytes, the last of which is the label, and a picture.
///
/// # Errors
/// If the source ends early or cannot be read, or a label is not less than `class_count`.
pub fn read_records(mut source: impl Read, records: usize, label_bytes: usize, class_count: usize) -> Result<Split> {
    let (mut images, mut labels) = (Vec::new(), Vec::with_capacity(records));
    images.try_reserve_exact(records * SAMPLE).context("there is not enough memory for its images")?;
    let mut record = vec![0; label_bytes + SAMPLE];
    for number in 0..records {
        source.read_exact(&mut record).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => anyhow!("it is truncated within record {number} (from 0) of {records}"),
            _ => error.into(),
        })?;
        let (head, planes) = record.split_at(label_bytes);
        let label = head.last().copied().context("a record without a label")?;
        ensure!(
            usize::from(label) < class_count,
            "record {number} (from 0) has label {label}, but labels are 0 to {}; it is damaged or belongs to another data set",
            class_count - 1
        );
        labels.push(u32::from(label));
        images.extend((0..PIXELS).flat_map(|pixel| [0, 1, 2].map(|channel| planes[channel * PIXELS + pixel])));
    }
    Ok(Split { images, labels, ..Split::default() })
}

/// Reads `count` class names, one per line.
fn read_classes(source: impl Read, count: usize) -> Result<Vec<String>> {
    let mut bytes = Vec::new();
    source.take(MAX_NAMES + 1).read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 <= MAX_NAMES,
        "it is larger than {} KiB and cannot be a list of class names",
        MAX_NAMES >> 10
    );
    let text = String::from_utf8(bytes).context("it is not a list of class names")?;
    let names: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    ensure!(names.len() == count, "it names {} classes instead of {count}", names.len());
    Ok(names)
}
