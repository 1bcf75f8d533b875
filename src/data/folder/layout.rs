//! Which of the pictures train, which test, and of what class each is: from the names of their folders.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};

use super::PictureOptions;
use super::listing::{Listing, Place};
use crate::rng::{Philox, Purpose};

const TRAIN: &str = "train";
/// Names of the folder to test with; the first that is there is taken.
const TESTS: [&str; 4] = ["test", "val", "valid", "validation"];

/// A picture with its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    pub label: u32,
    /// For people: the path below the root.
    pub name: String,
    pub place: Place,
}

/// What [`arrange`] made of a listing; both splits are in the order of classes and then names.
#[derive(Debug)]
pub struct Layout {
    pub classes: Vec<String>,
    pub train: Vec<Labelled>,
    pub test: Vec<Labelled>,
}

/// Pictures of a split by their classes.
type ByClass = BTreeMap<String, Vec<(String, Place)>>;

/// Arranges `[train|test/]class/…/picture`, at any depth. Classes are numbered in the order of their names, as
/// torchvision's `ImageFolder` does, or as `classes` lists them. Without a folder to test with, some pictures of every
/// class are set aside for that, which depend on the split's seed alone.
///
/// # Errors
/// Where there are no two classes, no pictures to train or test with, or a class that `classes` does not list.
pub fn arrange(listing: Listing, options: &PictureOptions, classes: Option<&[String]>) -> Result<Layout> {
    let pictures = without_common_root(listing.pictures);
    let tops: BTreeSet<&str> =
        pictures.iter().filter(|(parts, _)| parts.len() > 1).map(|(p, _)| p[0].as_str()).collect();
    let test = TESTS.into_iter().find(|name| tops.contains(name));
    let split = tops.contains(TRAIN) || (test.is_some() && tops.iter().all(|top| TESTS.contains(top)));
    let (mut trains, mut tests, mut strays) = (ByClass::new(), ByClass::new(), Vec::new());
    for (parts, place) in pictures {
        let name = parts.join("/");
        let (set, class) = match parts.as_slice() {
            [top, class, _, ..] if split && top == TRAIN => (&mut trains, class),
            [top, class, _, ..] if split && Some(top.as_str()) == test => (&mut tests, class),
            [class, _, ..] if !split => (&mut trains, class),
            _ => {
                strays.push(name);
                continue;
            }
        };
        set.entry(class.clone()).or_default().push((name, place));
    }
    if let Some(first) = strays.first() {
        tracing::warn!("{} pictures belong to no class or split and are left out, such as {first}", strays.len());
    }
    let known: Vec<String> = match classes {
        Some(classes) => classes.to_vec(),
        None => trains.keys().cloned().collect(),
    };
    ensure!(!known.is_empty(), "there is no folder train/ with pictures to train with");
    if tests.is_empty() {
        tests = set_aside(&mut trains, options);
    }
    let layout = Layout { train: labelled(trains, &known)?, test: labelled(tests, &known)?, classes: known };
    ensure!(
        layout.classes.len() > 1,
        "there are not two folders of pictures, one for each class: {:?}",
        layout.classes
    );
    Ok(layout)
}

/// Archives hold all under one folder: it says nothing.
fn without_common_root(pictures: BTreeMap<Vec<String>, Place>) -> Vec<(Vec<String>, Place)> {
    let mut pictures: Vec<(Vec<String>, Place)> = pictures.into_iter().collect();
    loop {
        let first = pictures.first().map(|(parts, _)| parts[0].clone()).unwrap_or_default();
        let is_root = pictures.iter().all(|(parts, _)| parts.len() > 1 && parts[0] == first)
            && pictures.iter().any(|(parts, _)| parts.len() > 2);
        if !is_root || first == TRAIN || TESTS.contains(&first.as_str()) {
            return pictures;
        }
        pictures.iter_mut().for_each(|(parts, _)| drop(parts.remove(0)));
    }
}

/// Takes the part of every class that is to test with; at least one picture stays and one goes, where there are two.
fn set_aside(trains: &mut ByClass, options: &PictureOptions) -> ByClass {
    let mut tests = ByClass::new();
    for (number, (class, pictures)) in trains.iter_mut().enumerate() {
        let count = pictures.len();
        let wanted = (count as f64 * options.test_fraction).round() as usize;
        let wanted = wanted.clamp(1, count.saturating_sub(1).max(1)).min(count - 1);
        // The first of a random order, as Fisher and Yates begin it.
        let mut order: Vec<usize> = (0..count).collect();
        let mut random = Philox::new(options.split_seed, Purpose::Split, number as u32);
        for position in 0..wanted {
            let left = u32::try_from(count - position).unwrap_or(u32::MAX);
            order.swap(position, position + random.below(left) as usize);
        }
        let chosen: BTreeSet<usize> = order[..wanted].iter().copied().collect();
        let (test, train): (Vec<_>, Vec<_>) =
            std::mem::take(pictures).into_iter().enumerate().partition(|(index, _)| chosen.contains(index));
        *pictures = train.into_iter().map(|(_, picture)| picture).collect();
        if !test.is_empty() {
            tests.insert(class.clone(), test.into_iter().map(|(_, picture)| picture).collect());
        }
    }
    tests
}

fn labelled(set: ByClass, classes: &[String]) -> Result<Vec<Labelled>> {
    let mut all = Vec::new();
    for (class, pictures) in set {
        let Some(label) = classes.iter().position(|known| *known == class) else {
            bail!("the folder {class} is none of the classes to train with: {}", shown(classes));
        };
        let label = label as u32;
        all.extend(pictures.into_iter().map(|(name, place)| Labelled { label, name, place }));
    }
    all.sort_by_key(|picture| picture.label); // stable: names stay in order
    Ok(all)
}

fn shown(classes: &[String]) -> String {
    let first: Vec<&str> = classes.iter().take(10).map(String::as_str).collect();
    first.join(", ") + if classes.len() > 10 { ", …" } else { "" }
}
