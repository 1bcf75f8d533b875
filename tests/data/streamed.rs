//! Streamed data sets: the same images as in memory, errors that name changed pictures, and reading ahead.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use cnn_cuda::data::{Dataset, Residency, Split};
use cnn_cuda::images::{ImageSource, Prefetch};
use image::ExtendedColorType::{L8, Rgb8};

use super::archive::tar;
use super::folder::load_with;
use super::{assert_contains, message};

/// Writes gray and colour pictures, one of them corrupt, split into train and val.
fn write_mixed_set(root: &Path) {
    for (index, part) in ["train", "train", "train", "val"].into_iter().enumerate() {
        for class in ["cat", "dog"] {
            let folder = root.join(part).join(class);
            fs::create_dir_all(&folder).unwrap();
            let bytes: Vec<u8> = (0..3 * 5 * 4).map(|at| (at * 7 + index * 50 + class.len()) as u8).collect();
            let path = folder.join(format!("{index}.png"));
            match index {
                0 | 3 => image::save_buffer(path, &bytes[..20], 5, 4, L8).unwrap(),
                _ => image::save_buffer(path, &bytes, 5, 4, Rgb8).unwrap(),
            }
        }
    }
    fs::write(root.join("train/cat/9.png"), b"no picture").unwrap();
}

fn load(path: &Path, residency: Residency) -> Dataset {
    load_with(path, |options| (options.residency, options.pictures.max_bad) = (residency, 1)).unwrap()
}

/// All images of a split, read at once. Reading them one by one, backwards, must give the same.
fn images(split: &Split, len: usize) -> Vec<u8> {
    assert!(split.images.is_empty());
    let source = &split.streamed.as_ref().expect("a source").source;
    let count = split.count() as u32;
    let mut all = vec![0; count as usize * len];
    source.read(&(0..count).collect::<Vec<u32>>(), &mut all).unwrap();
    for number in (0..count).rev() {
        let mut one = vec![0; len];
        source.read(&[number], &mut one).unwrap();
        assert_eq!(one, all[number as usize * len..][..len]);
    }
    all
}

#[track_caller]
fn assert_same(resident: &Dataset, streamed: &Dataset) {
    assert_eq!((resident.shape, &resident.classes), (streamed.shape, &streamed.classes));
    assert_eq!((&resident.mean, &resident.std), (&streamed.mean, &streamed.std));
    assert_eq!(resident.fingerprint(), streamed.fingerprint());
    for (resident_split, split) in [(&resident.train, &streamed.train), (&resident.test, &streamed.test)] {
        assert_eq!(resident_split.labels, split.labels);
        assert_eq!(resident_split.images, images(split, resident.shape.len()));
    }
}

#[test]
fn superpixels_of_streamed_pictures_are_those_of_pictures_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    write_mixed_set(folder.path());
    let archive = folder.path().join("pictures.tar");
    fs::write(&archive, tar(folder.path())).unwrap();
    let load = |path: &Path, residency, segments| {
        load_with(path, |options| {
            (options.residency, options.pictures.max_bad, options.segments) = (residency, 1, segments);
        })
        .unwrap()
    };
    let resident = load(folder.path(), Residency::Resident, Some(4));
    assert_same(&resident, &load(folder.path(), Residency::Stream, Some(4)));
    assert_same(&resident, &load(&archive, Residency::Stream, Some(4)));
    let plain = load(folder.path(), Residency::Resident, None);
    assert!(plain.train.images != resident.train.images && plain.test.images != resident.test.images);
}

#[test]
fn a_streamed_folder_or_archive_gives_the_same_set() {
    let folder = tempfile::tempdir().unwrap();
    write_mixed_set(folder.path());
    let resident = load(folder.path(), Residency::Resident);
    assert_eq!((resident.train.count(), resident.shape.channels), (6, 3));
    assert_same(&resident, &load(folder.path(), Residency::Stream));
    let archive = folder.path().join("pictures.tar");
    fs::write(&archive, tar(folder.path())).unwrap();
    assert_same(&resident, &load(&archive, Residency::Stream));
    // Without its colour pictures, the set is gray.
    for index in [1, 2] {
        for class in ["cat", "dog"] {
            fs::remove_file(folder.path().join(format!("train/{class}/{index}.png"))).unwrap();
        }
    }
    let resident = load(folder.path(), Residency::Resident);
    assert_eq!(resident.shape.channels, 1);
    assert_same(&resident, &load(folder.path(), Residency::Stream));
    fs::write(&archive, tar(folder.path())).unwrap();
    assert_same(&resident, &load(&archive, Residency::Stream));
    // By default, a small set stays in memory.
    assert!(load(folder.path(), Residency::Auto).train.streamed.is_none());
    // Corrupt pictures are counted as for a resident set.
    let refused = load_with(folder.path(), |options| options.residency = Residency::Stream);
    assert_contains(&message(refused), &["cat/9.png", "--max-bad"]);
}

#[test]
fn a_resident_set_can_be_streamed_from_memory_or_a_file() {
    let folder = tempfile::tempdir().unwrap();
    write_mixed_set(folder.path());
    let resident = load(folder.path(), Residency::Resident);
    for stream in [Dataset::stream_from_memory, Dataset::stream_from_file] {
        let mut streamed = resident.clone();
        stream(&mut streamed).unwrap();
        assert_eq!(streamed.resident_bytes(), 0);
        assert_same(&resident, &streamed);
        streamed.validate().unwrap();
    }
}

#[test]
fn errors_name_a_picture_that_vanished_or_changed() {
    let folder = tempfile::tempdir().unwrap();
    write_mixed_set(folder.path());
    let set = load(folder.path(), Residency::Stream);
    let source = set.train.streamed.expect("a source").source;
    let victim = folder.path().join("train/dog/1.png");
    let mut bytes = vec![0; 2 * 60];
    let mut read = || source.read(&[0, 4], &mut bytes);
    assert_eq!(set.train.labels[4], 1);
    read().unwrap();
    fs::write(&victim, b"no picture").unwrap();
    assert_contains(&message(read()), &["train/dog/1.png", "has changed or disappeared"]);
    image::save_buffer(&victim, &[1; 16], 4, 4, L8).unwrap();
    assert_contains(&message(read()), &["train/dog/1.png", "a different size"]);
    fs::remove_file(&victim).unwrap();
    assert_contains(&message(read()), &["train/dog/1.png"]);
}

/// Images whose bytes are their number; reading image `bad` fails.
struct Numbers {
    bad: u32,
    reads: AtomicUsize,
}

impl ImageSource for Numbers {
    fn read(&self, numbers: &[u32], bytes: &mut [u8]) -> Result<()> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        for (number, target) in numbers.iter().zip(bytes.chunks_mut(3)) {
            if *number == self.bad {
                bail!("image {number} is bad");
            }
            target.fill(*number as u8);
        }
        Ok(())
    }
}

#[test]
fn batches_come_in_order_and_only_a_few_are_read_ahead() {
    let source = Arc::new(Numbers { bad: 99, reads: AtomicUsize::new(0) });
    let order = vec![5, 3, 3, 1, 0, 2, 4];
    let mut ahead = Prefetch::new(Arc::clone(&source) as Arc<dyn ImageSource>, order.clone(), 1, 3).unwrap();
    let begin = Instant::now();
    while source.reads.load(Ordering::SeqCst) < 2 && begin.elapsed() < Duration::from_secs(10) {
        std::thread::yield_now();
    }
    // However long the wait, no more is read before a batch is taken.
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(source.reads.load(Ordering::SeqCst), 2);
    for number in &order {
        let batch = ahead.next(1, 3).unwrap();
        assert_eq!(batch, [*number as u8; 3]);
        ahead.reuse(batch);
    }
    assert_contains(&message(ahead.next(1, 3)), &["no images are left"]);
    // The last batch is smaller, and requesting more images than it has is an error.
    let mut ahead = Prefetch::new(source, order, 5, 3).unwrap();
    assert_eq!(ahead.next(5, 3).unwrap().len(), 15);
    assert!(ahead.next(5, 3).is_err());
}

#[test]
fn a_read_error_is_returned_with_its_batch_and_dropping_does_not_wait_for_the_rest() {
    let source = || Arc::new(Numbers { bad: 2, reads: AtomicUsize::new(0) });
    let mut ahead = Prefetch::new(source(), vec![0, 1, 2, 3, 4, 5], 1, 3).unwrap();
    ahead.next(1, 3).unwrap();
    ahead.next(1, 3).unwrap();
    assert_contains(&message(ahead.next(1, 3)), &["image 2 is bad"]);
    drop(Prefetch::new(source(), vec![0; 1000], 1, 3).unwrap());
}
