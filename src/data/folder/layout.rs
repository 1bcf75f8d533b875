//! Assigns every picture to the training or the test set and to a class, by the names of its folders.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};

use super::PictureOptions;
use super::listing::{Listing, Location};
use crate::data::counted;
use crate::rng::{Philox, Purpose};

const TRAIN: &str = "train";
/// Names of the folder with the test pictures; the first that exists is used.
const TESTS: [&str; 4] = ["test", "val", "valid", "validation"];

/// A picture and its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledPicture {
    pub label: u32,
    /// The path below the root, for messages.
    pub name: String,
    pub location: Location,
}

/// The result of [`arrange`]. Both splits are sorted by class, then by name.
#[derive(Debug)]
pub struct Layout {
    pub classes: Vec<String>,
    pub train: Vec<LabelledPicture>,
    pub test: Vec<LabelledPicture>,
}

/// The names and locations of a split's pictures, by class.
type ByClass = BTreeMap<String, Vec<(String, Location)>>;

/// Arranges pictures at paths `[train|test/]class/…/picture` of any depth. Classes are numbered in the order of their
/// names, as in torchvision's `ImageFolder`, or in the order of `classes`. Without a test folder, some pictures of every
/// class are held out for testing; which ones depends only on the split seed.
///
/// # Errors
/// If there are fewer than two classes, no training pictures to derive them from, or a class that is not in `classes`.
pub fn arrange(listing: Listing, options: &PictureOptions, classes: Option<&[String]>) -> Result<Layout> {
    let (pictures, root) = strip_common_root(listing.pictures);
    let tops: BTreeSet<&str> =
        pictures.iter().filter(|(parts, _)| parts.len() > 1).map(|(p, _)| p[0].as_str()).collect();
    let test = TESTS.into_iter().find(|name| tops.contains(name));
    let split = tops.contains(TRAIN) || (test.is_some() && tops.iter().all(|top| TESTS.contains(top)));
    let (mut trains, mut tests, mut unassigned) = (ByClass::new(), ByClass::new(), Vec::new());
    for (parts, location) in pictures {
        let name = parts.join("/");
        let (set, class) = match parts.as_slice() {
            [top, class, _, ..] if split && top == TRAIN => (&mut trains, class),
            [top, class, _, ..] if split && Some(top.as_str()) == test => (&mut tests, class),
            [class, _, ..] if !split => (&mut trains, class),
            _ => {
                unassigned.push(name);
                continue;
            }
        };
        set.entry(class.clone()).or_default().push((name, location));
    }
    ensure!(
        !(trains.is_empty() && tests.is_empty()),
        "there are no class folders; put the pictures of each class into a folder of its own"
    );
    if let Some(first) = unassigned.first() {
        let count = counted(unassigned.len(), "picture");
        tracing::warn!("skipping {count} outside the folders of classes and splits, such as {first}");
    }
    let empty = empty_classes(&listing.folders, &root, split, &trains);
    if !empty.is_empty() {
        tracing::warn!("skipping class folders without PNG or JPEG pictures: {}", class_list(&empty));
    }
    let class_names: Vec<String> = match classes {
        Some(classes) => classes.to_vec(),
        None => trains.keys().cloned().collect(),
    };
    ensure!(!class_names.is_empty(), "there is no folder train/ with training pictures");
    if tests.is_empty() {
        tests = hold_out_test_set(&mut trains, options);
    }
    let expected: Vec<&String> = if trains.is_empty() { class_names.iter().collect() } else { trains.keys().collect() };
    let untested: Vec<String> = expected.into_iter().filter(|class| !tests.contains_key(*class)).cloned().collect();
    let layout =
        Layout { train: labelled(trains, &class_names)?, test: labelled(tests, &class_names)?, classes: class_names };
    ensure!(
        layout.classes.len() > 1,
        "at least two class folders with pictures are needed, but found {:?}",
        layout.classes
    );
    match untested.as_slice() {
        [] => {}
        [class] => tracing::warn!("class {class} has no test pictures"),
        _ => tracing::warn!("classes without test pictures: {}", class_list(&untested)),
    }
    Ok(layout)
}

/// The training classes whose folders hold no pictures. The classes are below `root`, or below its folder `train/` if
/// `split` is set.
fn empty_classes(folders: &BTreeSet<Vec<String>>, root: &[String], split: bool, trains: &ByClass) -> Vec<String> {
    let class = |parts: &Vec<String>| match parts.strip_prefix(root)? {
        [top, class] if split && top == TRAIN => Some(class.clone()),
        [class] if !split => Some(class.clone()),
        _ => None,
    };
    let is_empty = |class: &String| !class.starts_with('.') && !trains.contains_key(class);
    folders.iter().filter_map(class).filter(is_empty).collect()
}

/// Removes folders that contain all pictures, such as the top-level folder of an archive. Also returns what it removed
/// from each path.
fn strip_common_root(pictures: BTreeMap<Vec<String>, Location>) -> (Vec<(Vec<String>, Location)>, Vec<String>) {
    let mut pictures: Vec<(Vec<String>, Location)> = pictures.into_iter().collect();
    let mut root = Vec::new();
    loop {
        let first = pictures.first().map(|(parts, _)| parts[0].clone()).unwrap_or_default();
        let is_root = pictures.iter().all(|(parts, _)| parts.len() > 1 && parts[0] == first)
            && pictures.iter().any(|(parts, _)| parts.len() > 2);
        if !is_root || first == TRAIN || TESTS.contains(&first.as_str()) {
            return (pictures, root);
        }
        root.push(first);
        pictures.iter_mut().for_each(|(parts, _)| drop(parts.remove(0)));
    }
}

/// Moves the test fraction of every class to a test set. A class with two or more pictures keeps at least one picture and
/// gives up at least one.
fn hold_out_test_set(trains: &mut ByClass, options: &PictureOptions) -> ByClass {
    let mut tests = ByClass::new();
    for (number, (class, pictures)) in trains.iter_mut().enumerate() {
        let count = pictures.len();
        let test_count = (count as f64 * options.test_fraction).round() as usize;
        let test_count = test_count.clamp(1, count.saturating_sub(1).max(1)).min(count - 1);
        // A partial Fisher–Yates shuffle chooses the test pictures.
        let mut order: Vec<usize> = (0..count).collect();
        let mut random = Philox::new(options.split_seed, Purpose::Split, number as u32);
        for position in 0..test_count {
            let remaining = u32::try_from(count - position).unwrap_or(u32::MAX);
            order.swap(position, position + random.below(remaining) as usize);
        }
        let chosen: BTreeSet<usize> = order[..test_count].iter().copied().collect();
        let (test, train): (Vec<_>, Vec<_>) =
            std::mem::take(pictures).into_iter().enumerate().partition(|(index, _)| chosen.contains(index));
        *pictures = train.into_iter().map(|(_, picture)| picture).collect();
        if !test.is_empty() {
            tests.insert(class.clone(), test.into_iter().map(|(_, picture)| picture).collect());
        }
    }
    tests
}

fn labelled(set: ByClass, classes: &[String]) -> Result<Vec<LabelledPicture>> {
    let mut all = Vec::new();
    for (class, pictures) in set {
        let Some(label) = classes.iter().position(|name| *name == class) else {
            bail!("the folder {class} is not one of the training classes: {}", class_list(classes));
        };
        let label = label as u32;
        all.extend(pictures.into_iter().map(|(name, location)| LabelledPicture { label, name, location }));
    }
    all.sort_by_key(|picture| picture.label); // stable: names stay in order
    Ok(all)
}

fn class_list(classes: &[String]) -> String {
    let first: Vec<&str> = classes.iter().take(10).map(String::as_str).collect();
    first.join(", ") + if classes.len() > 10 { ", …" } else { "" }
}
