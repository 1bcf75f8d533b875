//! Loads a folder or tar archive with one subfolder of pictures per class, and decodes the pictures in parallel.

mod apart;
mod layout;
mod listing;
mod members;
mod names;
mod redecoded;
mod splits;
mod store;
mod tree;

use std::collections::{BTreeSet, HashMap};
use std::io::{self, IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rayon::prelude::*;

use self::layout::{LabelledPicture, Layout};
use self::redecoded::Redecoded;
use self::store::{Finished, Pixels, Store};
use self::tree::Location;
use super::crop::Target;
use super::decode::{self as decoder, BACKDROP, Cropped, cropped};
use super::{Dataset, LoadOptions, MAX_SIDE, Split, archive, counted, statistics};
use crate::files::printable;
use crate::shape::Shape;

/// The most pictures to hold before they are decoded.
const CHUNK: usize = 512;
/// The most bytes to hold, of undecoded pictures of an archive or of pictures that are being decoded.
const CHUNK_BYTES: usize = 64 << 20;
/// The most corrupt pictures that are logged one by one.
const SHOWN: usize = 20;

/// Options for reading a folder of pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureOptions {
    /// The height and width to scale and crop all pictures to. Without it, they must all have the same size.
    pub image_size: Option<(usize, usize)>,
    /// The part of a scaled picture's shorter side that is cropped, in `(0, 1]`.
    pub crop: f64,
    /// How pictures to train with are scaled and cropped.
    pub train: TrainPictures,
    /// The fraction of every class to test with if there is no test folder.
    pub test_fraction: f64,
    /// Seed of the random choice of test pictures.
    pub split_seed: u64,
    /// The largest number of corrupt pictures to skip; more are an error.
    pub max_bad: usize,
}

impl PictureOptions {
    fn size(&self) -> Option<(usize, usize)> {
        self.image_size
    }

    /// The same for pictures to evaluate: all scaled to the size of `trained`, the shape of a network's input, if it is known.
    pub fn evaluated(self, trained: Option<Shape>) -> Self {
        let size = trained.map(|trained| (trained.height, trained.width));
        Self { image_size: size.or(self.image_size), train: TrainPictures::Evaluated, ..self }
    }
}

/// How pictures to train with are scaled and cropped, if all are scaled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum TrainPictures {
    /// As if [`PictureOptions::crop`] were 1.
    #[default]
    Whole,
    /// In the same way, but to sides divided by this.
    Larger(f64),
    /// In the same way, but to this height and width.
    Sized(usize, usize),
    /// Like the others, because they are evaluated, too.
    Evaluated,
}

impl Default for PictureOptions {
    fn default() -> Self {
        Self { image_size: None, crop: 1.0, train: TrainPictures::Whole, test_fraction: 0.1, split_seed: 0, max_bad: 0 }
    }
}

/// Reads the folder or archive at `path`. With `test_only` and a given normalisation, the training split stays empty.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Dataset> {
    let context = || format!("cannot use the pictures in {}", path.display());
    let arranged = layout::arrange(listing::list(path)?, &options.pictures, options.classes.as_deref());
    let Layout { classes, mut train, mut val, test } = arranged.with_context(context)?;
    if options.test_only {
        val.clear();
    }
    if options.test_only && options.normalisation.is_some() {
        train.clear();
    } else if train.is_empty() {
        bail!("{} has no folder train/ with training pictures", path.display());
    }
    let counts = split_counts([train.len(), val.len(), test.len()]);
    tracing::info!("{}: {} classes, {counts}", path.display(), classes.len());
    let [train_target, target] = apart::targets(options).with_context(context)?;
    let (source, splits) = (Source { path, options, classes: &classes }, [&*train, &val, &test]);
    let read = match train.is_empty() || train_target == target {
        true => source.read(splits, target, 0),
        false => apart::read(&source, splits, [train_target, target]),
    };
    let Finished { shape, splits: [train, val, test], normalisation, .. } = read.with_context(context)?;
    let (mean, std) = match (&options.normalisation, normalisation) {
        (Some(given), _) => given.clone(),
        (None, Some(found)) => found,
        (None, None) => statistics::normalisation(&train.images, shape.channels),
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(Dataset { name: name.unwrap_or_else(|| "pictures".into()), shape, classes, mean, std, train, val, test })
}

/// A folder or archive of pictures, and how it is read.
struct Source<'a> {
    path: &'a Path,
    options: &'a LoadOptions,
    classes: &'a [String],
}

impl Source<'_> {
    /// Reads splits, scaled to `target`. `earlier` corrupt pictures were skipped before.
    fn read(&self, splits: [&[LabelledPicture]; 3], target: Option<Target>, earlier: usize) -> Result<Finished> {
        let mut loader = Loader::new(splits, self.options, target, self.path.is_file());
        loader.earlier = earlier;
        let read = if self.path.is_dir() { loader.read_files() } else { loader.read_archive(self.path) };
        loader.bar.finish_and_clear();
        read?;
        let labels: BTreeSet<u32> = loader.training_labels();
        let finished = loader.finish();
        if let Some(&lost) = labels.difference(&finished.splits[0].labels.iter().copied().collect()).next() {
            let class = printable(&self.classes[lost as usize]);
            bail!("all training pictures of class {class} are corrupt or unreadable");
        }
        Ok(finished)
    }
}

/// The sizes of the splits, for messages.
fn split_counts([train, val, test]: [usize; 3]) -> String {
    let of = |count: usize, noun: &str| if count == 0 { String::new() } else { counted(count, noun) + ", " };
    of(train, "training picture") + &of(val, "validation picture") + &counted(test, "test picture")
}

/// A picture that has yet to be decoded.
struct Pending {
    index: usize,
    encoded: Encoded,
}

/// The encoded bytes of a picture.
enum Encoded {
    Memory(Vec<u8>),
    File(PathBuf),
    /// A member of an archive that exceeds the size limit.
    TooLarge,
    /// A link that leads nowhere, with the reason.
    Broken(String),
}

/// The state of loading a data set.
struct Loader<'a> {
    pictures: Vec<&'a LabelledPicture>,
    store: Store,
    /// The height and width to scale to, or that all pictures must have; unknown before the first picture.
    size: Option<(usize, usize)>,
    /// How to scale the pictures to `size`, if they are scaled.
    target: Option<Target>,
    /// The channels to convert all pictures to, if they are given.
    channels: Option<usize>,
    max_bad: usize,
    /// The number of corrupt pictures that were skipped before.
    earlier: usize,
    /// The names of the corrupt pictures, and of those that cannot be read with the reason.
    bad: Vec<String>,
    bar: ProgressBar,
}

impl<'a> Loader<'a> {
    fn new(splits: [&'a [LabelledPicture]; 3], options: &LoadOptions, target: Option<Target>, archived: bool) -> Self {
        let pictures: Vec<&LabelledPicture> = splits.into_iter().flatten().collect();
        Self {
            bar: progress_bar(options.progress, pictures.len() as u64),
            pictures,
            store: Store::new(splits, options.residency, archived),
            size: target.map(|target| (target.height, target.width)),
            target,
            channels: options.channels,
            max_bad: options.pictures.max_bad,
            earlier: 0,
            bad: Vec::new(),
        }
    }

    fn read_files(&mut self) -> Result<()> {
        let files: Vec<Pending> =
            self.pictures.iter().enumerate().filter_map(|(index, picture)| pending(index, picture)).collect();
        let mut files = files.into_iter();
        loop {
            let chunk: Vec<Pending> = files.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return Ok(());
            }
            self.decode(chunk)?;
        }
    }

    fn read_archive(&mut self, path: &Path) -> Result<()> {
        // Hard links are pictures with the same member.
        let mut wanted = HashMap::<u64, Vec<usize>>::new();
        let mut chunk = Vec::new();
        for (index, picture) in self.pictures.iter().enumerate() {
            match picture.location {
                Location::Member(number) => wanted.entry(number).or_default().push(index),
                _ => chunk.extend(pending(index, picture)),
            }
        }
        let (mut number, mut held) = (0, 0);
        archive::for_each(path, |member, content| {
            number += 1;
            let Some(indices) = wanted.remove(&(number - 1)) else { return Ok(ControlFlow::Continue(())) };
            let mut bytes = Vec::new();
            let too_large = member.size > decoder::MAX_FILE_BYTES;
            if !too_large {
                content.take(member.size).read_to_end(&mut bytes)?;
            }
            for index in indices {
                held += bytes.len();
                let encoded = if too_large { Encoded::TooLarge } else { Encoded::Memory(bytes.clone()) };
                chunk.push(Pending { index, encoded });
                if chunk.len() >= CHUNK || held > CHUNK_BYTES {
                    held = 0;
                    self.decode(std::mem::take(&mut chunk))?;
                }
            }
            // What follows the last picture was checked when the archive was listed.
            Ok(if wanted.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        ensure!(wanted.is_empty(), "{} has changed while it was read", path.display());
        self.decode(chunk)
    }

    /// The labels of the pictures to train on.
    fn training_labels(&self) -> BTreeSet<u32> {
        self.pictures[..self.store.train_count()].iter().map(|picture| picture.label).collect()
    }

    /// Decodes the pictures, in parallel as soon as their size is known, and stores them.
    fn decode(&mut self, chunk: Vec<Pending>) -> Result<()> {
        let mut chunk = chunk.into_iter();
        while self.size.is_none() {
            let Some(first) = chunk.next() else { return self.check_bad() };
            self.bar.inc(1);
            let decoded = decode(&first.encoded, None, None, self.channels);
            if let Ok(pixels) = &decoded {
                ensure!(
                    pixels.height <= MAX_SIDE && pixels.width <= MAX_SIDE,
                    "{} is {}×{} (height×width), but images may have at most {MAX_SIDE}×{MAX_SIDE}; scale them with --image-size",
                    self.pictures[first.index].name,
                    pixels.height,
                    pixels.width
                );
                self.size = Some((pixels.height, pixels.width));
                self.store.reserve(pixels.height, pixels.width)?;
            }
            self.store_picture(first.index, decoded)?;
        }
        let (size, target, channels, bar) = (self.size, self.target, self.channels, self.bar.clone());
        let (height, width) = size.context("a size")?;
        self.store.reserve(height, width)?;
        // A group of decoded pictures takes memory in addition to the store, so groups of large pictures are small.
        let group = (CHUNK_BYTES / (3 * height * width)).max(rayon::current_num_threads());
        let mut rest: Vec<Pending> = chunk.collect();
        while !rest.is_empty() {
            let later = rest.split_off(group.min(rest.len()));
            let one = |pending: Pending| {
                let pixels = decode(&pending.encoded, size, target, channels);
                bar.inc(1);
                (pending.index, pixels)
            };
            let decoded: Vec<(usize, Result<Pixels>)> = rest.into_par_iter().map(one).collect();
            decoded.into_iter().try_for_each(|(index, pixels)| self.store_picture(index, pixels))?;
            rest = later;
        }
        self.check_bad()
    }

    /// Stores a decoded picture, or records that it is corrupt.
    fn store_picture(&mut self, index: usize, pixels: Result<Pixels>) -> Result<()> {
        let name = &self.pictures[index].name;
        match pixels {
            Ok(pixels) => self.store.put(index, name, &pixels)?,
            Err(error) => {
                if self.bad.len() < SHOWN {
                    self.bar.suspend(|| tracing::warn!("{name}: {error:#}"));
                }
                // The log says what is wrong with a picture. The system's reason may ask for another remedy.
                self.bad.push(if error.is::<io::Error>() { format!("{name}: {error}") } else { name.clone() });
            }
        }
        Ok(())
    }

    fn check_bad(&self) -> Result<()> {
        let (bad, limit) = (self.earlier + self.bad.len(), self.max_bad);
        if bad <= limit {
            return Ok(());
        }
        let shown = self.bad.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
        let dots = if bad > 3 { "; …" } else { "" };
        let (are, them) = if bad == 1 { ("is", "it") } else { ("are", "them") };
        let count = counted(bad, "picture");
        bail!(
            "{count} {are} corrupt or unreadable ({shown}{dots}), more than --max-bad {limit} allows; \
             repair or remove {them}, or raise --max-bad"
        )
    }

    fn finish(self) -> Finished {
        let Self { pictures, store, target, earlier, bad, .. } = self;
        let file = |index: usize| match &pictures[index].location {
            Location::File(path) => Some(path.clone()),
            Location::Member(_) | Location::Sparse | Location::Broken(_) => None,
        };
        let mut finished = store.finish(|indices, shape| {
            Arc::new(Redecoded { files: indices.into_iter().filter_map(file).collect(), shape, target })
        });
        if !bad.is_empty() {
            let skipped = counted(bad.len(), "corrupt or unreadable picture");
            let left = split_counts(finished.splits.each_ref().map(Split::count));
            tracing::warn!("skipped {skipped}, which leaves {left}");
        }
        finished.bad = earlier + bad.len();
        finished
    }
}

fn pending(index: usize, picture: &LabelledPicture) -> Option<Pending> {
    let encoded = match &picture.location {
        Location::File(path) => Encoded::File(path.clone()),
        Location::Broken(why) => Encoded::Broken(why.clone()),
        Location::Member(_) | Location::Sparse => return None,
    };
    Some(Pending { index, encoded })
}

/// Decodes a picture to `channels`, by default one if it is gray and three otherwise. It is scaled to `target`; without
/// one, a picture of another size than `size` is returned without pixels.
fn decode(
    encoded: &Encoded,
    size: Option<(usize, usize)>,
    target: Option<Target>,
    channels: Option<usize>,
) -> Result<Pixels> {
    let file;
    let bytes = match encoded {
        Encoded::Memory(bytes) => bytes,
        Encoded::File(path) => {
            file = decoder::read_bytes(path)?;
            &file.bytes
        }
        Encoded::TooLarge => bail!("the file is larger than {} MiB", decoder::MAX_FILE_BYTES >> 20),
        Encoded::Broken(why) => return Err(io::Error::other(why.clone()).into()),
    };
    let upright = decoder::decode(bytes, BACKDROP, target)?;
    let own = (upright.picture.height() as usize, upright.picture.width() as usize);
    let target = match target {
        Some(target) => target,
        None if size.is_none_or(|size| size == own) => Target::whole(own),
        None => return Ok(Pixels { channels: 1, height: own.0, width: own.1, values: Vec::new() }),
    };
    let Cropped { channels, values } = cropped(upright, target, channels)?;
    let Target { height, width, .. } = target;
    Ok(Pixels { channels, height, width, values })
}

/// A progress bar if stderr is a terminal, otherwise a hidden bar.
fn progress_bar(progress: bool, count: u64) -> ProgressBar {
    if !progress || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("reading pictures {wide_bar} {human_pos}/{human_len} {eta}") {
        bar.set_style(style);
    }
    bar
}
