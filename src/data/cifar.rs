//! CIFAR-10 and CIFAR-100 in their binary version: from the published archive, or from the folder it unpacks to.
//!
//! The format is described at <https://www.cs.toronto.edu/~kriz/cifar.html>: a file is a row of records, each a label
//! (CIFAR-100: a coarse and a fine one) and a 32×32 picture as three planes, red, green and blue.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::archive::{self, Kind};
use super::fetch::{Checksum, Remote};
use super::{Dataset, LoadOptions, Split, fetch};
use crate::shape::Shape;

const SIDE: usize = 32;
const PIXELS: usize = SIDE * SIDE;
const SAMPLE: usize = 3 * PIXELS;
const MAX_NAMES: u64 = 64 << 10;
const MAX_ARCHIVE: u64 = 256 << 20;

/// One of both sets.
#[derive(Debug)]
pub struct CifarSet {
    name: &'static str,
    title: &'static str,
    archive: &'static str,
    sha256: &'static str,
    mirrors: &'static [&'static str],
    /// The folder in the archive.
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    /// Records in each training file.
    train_records: usize,
    test_records: usize,
    /// The last of them is the label.
    label_bytes: usize,
    class_file: &'static str,
    class_count: usize,
    /// Of the training images.
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
    /// Reads the set, downloading its archive where there is none if the options say so.
    fn load(&'static self, options: &LoadOptions) -> Result<Dataset> {
        let folder = &options.folder;
        let mut reading = Reading::new(self);
        if let Some(unpacked) = self.unpacked(folder) {
            reading.folder(&unpacked)?;
        } else {
            let place = folder.display();
            if self.packed(folder).is_none() && options.download {
                tracing::info!("{place} lacks {}; downloading", self.title);
                fetch::fetch(self.name, folder, options.progress)?;
            }
            let Some(path) = self.packed(folder) else {
                let (title, by_hand) = (self.title, self.by_hand(folder));
                bail!("there is no {title} in {place}; run `cnn-cuda fetch {}`, or {by_hand}", self.name)
            };
            reading.archive(&path)?;
        }
        reading.finish()
    }

    /// The folder that the archive unpacks to, where it holds any of the set's files.
    fn unpacked(&self, folder: &Path) -> Option<PathBuf> {
        let own = folder.join(self.name);
        let places = [own.join(self.folder), folder.join(self.folder), own];
        places.into_iter().find(|place| self.files().any(|(file, _)| place.join(file).exists()))
    }

    fn packed(&self, folder: &Path) -> Option<PathBuf> {
        [folder.join(self.name).join(self.archive), folder.join(self.archive)].into_iter().find(|path| path.exists())
    }

    /// The files of pictures with their numbers of records, that of the test set last.
    fn files(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let train = self.train.iter().map(|file| (*file, self.train_records));
        train.chain([(self.test, self.test_records)])
    }

    fn record(&self) -> usize {
        self.label_bytes + SAMPLE
    }

    /// The archive as a download sees it.
    pub fn remotes(&self, folder: &Path) -> Vec<Remote> {
        let unpacked = self.unpacked(folder).map(|place| place.join(self.test));
        vec![Remote {
            name: self.archive.into(),
            mirrors: self.mirrors,
            path: folder.join(self.name).join(self.archive),
            found: unpacked.filter(|file| file.is_file()).or_else(|| self.packed(folder)),
            checksum: Checksum::Archive(self.sha256),
            max_bytes: MAX_ARCHIVE,
            by_hand: self.by_hand(folder),
        }]
    }

    fn by_hand(&self, folder: &Path) -> String {
        let place = folder.join(self.name);
        format!("put {} into {} by hand; `--dataset digits` needs no files", self.archive, place.display())
    }
}

/// The set as far as it was read.
struct Reading {
    set: &'static CifarSet,
    /// One per file of [`CifarSet::files`].
    batches: Vec<Option<Split>>,
    classes: Option<Vec<String>>,
    /// Where the set is read from.
    place: PathBuf,
}

impl Reading {
    fn new(set: &'static CifarSet) -> Self {
        Self { set, batches: set.files().map(|_| None).collect(), classes: None, place: PathBuf::new() }
    }

    fn folder(&mut self, place: &Path) -> Result<()> {
        self.place = place.into();
        for name in self.set.files().map(|(file, _)| file).chain([self.set.class_file]) {
            let path = place.join(name);
            if !path.exists() {
                continue; // reported at the end, with all others
            }
            let context = || format!("cannot read {}", path.display());
            // Before opening: that alone would wait forever on a named pipe.
            let metadata = path.metadata().with_context(context)?;
            ensure!(metadata.is_file(), "cannot read {}: it is not a regular file", path.display());
            let file = BufReader::new(File::open(&path).with_context(context)?);
            self.file(name, metadata.len(), file).with_context(context)?;
        }
        Ok(())
    }

    fn archive(&mut self, path: &Path) -> Result<()> {
        self.place = path.into();
        archive::for_each(path, |member, content| match member.parts.as_slice() {
            [.., file] if member.kind == Kind::File => {
                self.file(file, member.size, BufReader::new(content)).with_context(|| file.clone())
            }
            _ => Ok(()),
        })
    }

    /// Reads one of the set's files of `size` bytes; any other is passed over.
    fn file(&mut self, name: &str, size: u64, source: impl Read) -> Result<()> {
        let set = self.set;
        if name == set.class_file {
            self.classes = Some(read_classes(source, set.class_count)?);
            return Ok(());
        }
        let Some((index, (_, records))) = set.files().enumerate().find(|(_, (file, _))| *file == name) else {
            return Ok(());
        };
        // Before anything is allocated.
        let expected = (records * set.record()) as u64;
        let (title, record) = (set.title, set.record());
        ensure!(size >= expected, "it is truncated: {size} bytes, but {records} records of {title} have {expected}");
        ensure!(size == expected, "it is not {title}'s: {size} bytes are not {records} records of {record}");
        self.batches[index] = Some(read_records(source, records, set.label_bytes, set.class_count)?);
        Ok(())
    }

    fn finish(self) -> Result<Dataset> {
        let Self { set, batches, classes, place } = self;
        let lacking: Vec<_> = set.files().zip(&batches).filter(|(_, batch)| batch.is_none()).collect();
        let mut lacking: Vec<&str> = lacking.into_iter().map(|((file, _), _)| file).collect();
        if classes.is_none() {
            lacking.push(set.class_file);
        }
        let (Some(mut batches), Some(classes)) = (batches.into_iter().collect::<Option<Vec<_>>>(), classes) else {
            bail!(
                "{} lacks {}; is it the binary version of {}? Unpack {} again",
                place.display(),
                lacking.join(", "),
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
            test,
        })
    }
}

/// Reads exactly `records` records, each of `label_bytes` bytes, of which the last is the label, and a picture.
///
/// # Errors
/// Where the source ends early or cannot be read, or a label has no class.
pub fn read_records(mut source: impl Read, records: usize, label_bytes: usize, class_count: usize) -> Result<Split> {
    let (mut images, mut labels) = (Vec::new(), Vec::with_capacity(records));
    images.try_reserve_exact(records * SAMPLE).context("there is not enough memory for it")?;
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
            "record {number} (from 0) has label {label}, but labels are 0 to {}; it is damaged, or another set's",
            class_count - 1
        );
        labels.push(u32::from(label));
        images.extend((0..PIXELS).flat_map(|pixel| [0, 1, 2].map(|channel| planes[channel * PIXELS + pixel])));
    }
    Ok(Split { images, labels, ..Split::default() })
}

/// One name a line, as many as there are classes.
fn read_classes(source: impl Read, count: usize) -> Result<Vec<String>> {
    let mut bytes = Vec::new();
    source.take(MAX_NAMES + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= MAX_NAMES, "it has more than {} KiB; it is no list of class names", MAX_NAMES >> 10);
    let text = String::from_utf8(bytes).context("it is no list of class names")?;
    let names: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    ensure!(names.len() == count, "it names {} classes instead of {count}", names.len());
    Ok(names)
}
