//! Folders of pictures, one per class, as they are or in a tar archive: read in parallel into memory.

mod layout;
mod listing;
mod redecoded;
mod store;

use std::collections::HashMap;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rayon::prelude::*;

use self::layout::{Labelled, Layout};
use self::listing::Place;
use self::redecoded::Redecoded;
use self::store::{Finished, Pixels, Store};
use super::{Dataset, LoadOptions, archive, crop, picture, statistics};

/// Pictures of an archive that are held undecoded: so many, or of so many bytes.
const CHUNK: usize = 512;
const CHUNK_BYTES: usize = 64 << 20;
/// Corrupt pictures that are listed one by one.
const SHOWN: usize = 20;

/// How a folder of pictures is read.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureOptions {
    /// Height and width to bring all pictures to; without it they must be of one size.
    pub image_size: Option<(usize, usize)>,
    /// The part of every class to test with, where no folder is there for that.
    pub test_fraction: f64,
    pub split_seed: u64,
    /// Corrupt pictures to put up with.
    pub max_bad: usize,
}

impl Default for PictureOptions {
    fn default() -> Self {
        Self { image_size: None, test_fraction: 0.1, split_seed: 0, max_bad: 0 }
    }
}

/// Reads the folder or archive at `path`. Where the options want the test split alone, the other is empty.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Dataset> {
    let context = || format!("cannot use the pictures in {}", path.display());
    let arranged = layout::arrange(listing::list(path)?, &options.pictures, options.classes.as_deref());
    let Layout { classes, mut train, test } = arranged.with_context(context)?;
    if options.test_only && options.normalisation.is_some() {
        train.clear();
    } else if train.is_empty() {
        bail!("{} has no folder train/ with pictures to train with", path.display());
    }
    let training = if train.is_empty() { String::new() } else { format!("{} pictures to train, ", train.len()) };
    tracing::info!("{}: {} classes, {training}{} to test with", path.display(), classes.len(), test.len());
    let mut reading = Reading::new(&train, &test, options, path.is_file());
    let read = if path.is_dir() { reading.files() } else { reading.archive(path) };
    reading.bar.finish_and_clear();
    read.with_context(context)?;
    let Finished { shape, train, test, normalisation } = reading.finish();
    let (mean, std) = match (&options.normalisation, normalisation) {
        (Some(given), _) => given.clone(),
        (None, Some(found)) => found,
        (None, None) => statistics::normalisation(&train.images, shape.channels),
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(Dataset { name: name.unwrap_or_else(|| "pictures".into()), shape, classes, mean, std, train, test })
}

/// A picture that is still to be decoded.
struct Pending {
    index: usize,
    bytes: Bytes,
}

enum Bytes {
    Held(Vec<u8>),
    In(PathBuf),
    TooLarge,
}

/// The set as far as it was read.
struct Reading<'a> {
    pictures: Vec<&'a Labelled>,
    store: Store,
    /// Height and width to scale to, or that all have.
    size: Option<(usize, usize)>,
    scales: bool,
    max_bad: usize,
    bad: Vec<String>,
    bar: ProgressBar,
}

impl<'a> Reading<'a> {
    fn new(train: &'a [Labelled], test: &'a [Labelled], options: &LoadOptions, archived: bool) -> Self {
        let pictures: Vec<&Labelled> = train.iter().chain(test).collect();
        let PictureOptions { image_size, max_bad, .. } = options.pictures;
        Self {
            bar: progress_bar(options.progress, pictures.len() as u64),
            pictures,
            store: Store::new(train, test, options.residency, archived),
            size: image_size,
            scales: image_size.is_some(),
            max_bad,
            bad: Vec::new(),
        }
    }

    fn files(&mut self) -> Result<()> {
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

    fn archive(&mut self, path: &Path) -> Result<()> {
        let number = |(index, picture): (usize, &&Labelled)| match picture.place {
            Place::Member(number) => Some((number, index)),
            Place::File(_) => None,
        };
        let wanted: HashMap<u64, usize> = self.pictures.iter().enumerate().filter_map(number).collect();
        let (mut number, mut chunk, mut held) = (0, Vec::new(), 0);
        archive::for_each(path, |member, content| {
            number += 1;
            let Some(&index) = wanted.get(&(number - 1)) else { return Ok(()) };
            let bytes = if member.size > picture::MAX_FILE_BYTES {
                Bytes::TooLarge
            } else {
                let mut bytes = Vec::new();
                content.take(member.size).read_to_end(&mut bytes)?;
                held += bytes.len();
                Bytes::Held(bytes)
            };
            chunk.push(Pending { index, bytes });
            if chunk.len() == CHUNK || held > CHUNK_BYTES {
                held = 0;
                self.decode(std::mem::take(&mut chunk))?;
            }
            Ok(())
        })?;
        self.decode(chunk)
    }

    /// Decodes the pictures, in parallel as soon as their size is known, and keeps them.
    fn decode(&mut self, chunk: Vec<Pending>) -> Result<()> {
        let mut chunk = chunk.into_iter();
        while self.size.is_none() {
            let Some(first) = chunk.next() else { return self.check_bad() };
            self.bar.inc(1);
            let decoded = decode(&first.bytes, None, false);
            if let Ok(pixels) = &decoded {
                self.size = Some((pixels.height, pixels.width));
                self.store.reserve(pixels.height, pixels.width)?;
            }
            self.keep(first.index, decoded)?;
        }
        let (size, scales, bar) = (self.size, self.scales, self.bar.clone());
        let (height, width) = size.context("a size")?;
        self.store.reserve(height, width)?;
        // Large pictures in small groups: all of a group are held beside the store.
        let group = (CHUNK_BYTES / (3 * height * width)).max(rayon::current_num_threads());
        let mut rest: Vec<Pending> = chunk.collect();
        while !rest.is_empty() {
            let later = rest.split_off(group.min(rest.len()));
            let one = |pending: Pending| {
                let pixels = decode(&pending.bytes, size, scales);
                bar.inc(1);
                (pending.index, pixels)
            };
            let decoded: Vec<(usize, Result<Pixels>)> = rest.into_par_iter().map(one).collect();
            decoded.into_iter().try_for_each(|(index, pixels)| self.keep(index, pixels))?;
            rest = later;
        }
        self.check_bad()
    }

    fn keep(&mut self, index: usize, pixels: Result<Pixels>) -> Result<()> {
        let name = &self.pictures[index].name;
        match pixels {
            Ok(pixels) => self.store.put(index, name, &pixels)?,
            Err(error) => {
                if self.bad.len() < SHOWN {
                    self.bar.suspend(|| tracing::warn!("{name}: {error:#}"));
                }
                self.bad.push(format!("{name}: {error:#}"));
            }
        }
        Ok(())
    }

    fn check_bad(&self) -> Result<()> {
        let (bad, most) = (self.bad.len(), self.max_bad);
        if bad <= most {
            return Ok(());
        }
        let shown = self.bad.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
        let dots = if bad > 3 { "; …" } else { "" };
        bail!(
            "{bad} pictures are corrupt ({shown}{dots}), more than --max-bad {most} allows: mend or remove them, or raise it"
        )
    }

    fn finish(self) -> Finished {
        let Self { pictures, store, scales, bad, .. } = self;
        if !bad.is_empty() {
            tracing::warn!("skipped {} corrupt pictures", bad.len());
        }
        let file = |index: usize| match &pictures[index].place {
            Place::File(path) => Some(path.clone()),
            Place::Member(_) => None,
        };
        store.finish(|indices, shape| {
            Arc::new(Redecoded { files: indices.into_iter().filter_map(file).collect(), shape, scales })
        })
    }
}

fn pending(index: usize, picture: &Labelled) -> Option<Pending> {
    match &picture.place {
        Place::File(path) => Some(Pending { index, bytes: Bytes::In(path.clone()) }),
        Place::Member(_) => None,
    }
}

/// The picture, gray or in colours as it is, scaled to `size` or, where it is not of that size, without its pixels.
fn decode(bytes: &Bytes, size: Option<(usize, usize)>, scales: bool) -> Result<Pixels> {
    let upright = match bytes {
        Bytes::Held(bytes) => picture::decode_upright(bytes)?,
        Bytes::In(path) => picture::decode_upright(&picture::read_bytes(path)?)?,
        Bytes::TooLarge => bail!("the file is larger than {} MiB", picture::MAX_FILE_BYTES >> 20),
    };
    let own = (upright.height() as usize, upright.width() as usize);
    let channels = if upright.color().has_color() { 3 } else { 1 };
    let (height, width) = if scales { size.unwrap_or(own) } else { own };
    let values = match (scales || size.is_none_or(|size| size == own), channels) {
        (false, _) => Vec::new(),
        (true, 1) => crop::resize_crop(upright.into_luma8(), height, width)?,
        (true, _) => crop::resize_crop(upright.into_rgb8(), height, width)?,
    };
    Ok(Pixels { channels, height, width, values })
}

/// A bar on a terminal, else one that is never drawn.
fn progress_bar(progress: bool, count: u64) -> ProgressBar {
    if !progress || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("reading pictures {wide_bar} {human_pos}/{human_len} {eta}") {
        bar.set_style(style);
    }
    bar
}
