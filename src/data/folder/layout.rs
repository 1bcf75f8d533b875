//! Assigns every picture to the training or the test set and to a class, by the names of its folders.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Result, bail, ensure};
use unicode_normalization::UnicodeNormalization;

use super::PictureOptions;
use super::listing::{Listing, Parts};
use super::names::{Split, list_of, split_of};
use super::splits::Splits;
use super::tree::Location;
use crate::data::counted;
use crate::data::held_out::held_out;
use crate::files::{is_escaped, printable};
use crate::rng::{Philox, Purpose};

/// The most classes. Every one is an output of the network.
const MAX_CLASSES: usize = 100_000;

/// A picture and its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledPicture {
    pub label: u32,
    /// The path below the root, for messages.
    pub name: String,
    pub location: Location,
}

/// The result of [`arrange`]. The splits are sorted by class, then by name.
#[derive(Debug)]
pub struct Layout {
    pub classes: Vec<String>,
    pub train: Vec<LabelledPicture>,
    /// Empty without a folder for validation beside one for testing.
    pub val: Vec<LabelledPicture>,
    pub test: Vec<LabelledPicture>,
}

/// The names and locations of a split's pictures, by class.
type ByClass = BTreeMap<String, Vec<(String, Location)>>;

/// Arranges pictures at paths `[train|val|test/]class/…/picture` of any depth. Classes are numbered in the order of their
/// names, as in torchvision's `ImageFolder`, or in the order of `classes`. Without a test folder, some pictures of every
/// class are held out for testing; which ones depends only on the split seed.
///
/// # Errors
/// If there are fewer than two classes, no training pictures to derive them from, a class that is not in `classes`, a
/// class without pictures, or folders that could be splits but are not named like them.
pub fn arrange(mut listing: Listing, options: &PictureOptions, classes: Option<&[String]>) -> Result<Layout> {
    let (pictures, root) = strip_common_root(std::mem::take(&mut listing.pictures), &listing.folders);
    let splits = Splits::find(&pictures)?;
    splits.check(&listing, &root)?;
    let [mut trains, mut vals, mut tests] = [(); 3].map(|()| ByClass::new());
    let mut unassigned = Vec::new();
    for (parts, location) in pictures {
        let name = printable(&parts.join("/")).into_owned();
        let (set, class) = match splits.place(&parts) {
            Some((Split::Train, class)) => (&mut trains, class),
            Some((Split::Validation, class)) => (&mut vals, class),
            Some((Split::Test, class)) => (&mut tests, class),
            None => {
                unassigned.push(name);
                continue;
            }
        };
        set.entry(class.into()).or_default().push((name, location));
    }
    ensure!(
        !(trains.is_empty() && tests.is_empty()),
        "there are no class folders; put the pictures of each class into a folder of its own"
    );
    if let Some(first) = unassigned.first() {
        let count = counted(unassigned.len(), "picture");
        tracing::warn!("skipping {count} outside the folders of classes and splits, such as {first}");
    }
    let is_empty = |split: Split, class: &String| match split {
        // Given classes may come without training pictures.
        Split::Train => classes.is_none() && !trains.is_empty() && !trains.contains_key(class),
        Split::Validation => !vals.contains_key(class),
        Split::Test => !tests.contains_key(class),
    };
    check_empty_classes(&listing, &root, &splits, is_empty)?;
    check_names(trains.keys().chain(vals.keys()).chain(tests.keys()).chain(classes.unwrap_or_default()))?;
    let class_names: Vec<String> = match classes {
        Some(classes) => classes.to_vec(),
        None => trains.keys().cloned().collect(),
    };
    ensure!(!class_names.is_empty(), "there is no folder train/ with training pictures");
    if tests.is_empty() {
        tests = hold_out_test_set(&mut trains, options);
    }
    warn_of_untested(&class_names, &trains, &tests);
    let (train, val, test) =
        (labelled(trains, &class_names)?, labelled(vals, &class_names)?, labelled(tests, &class_names)?);
    check_count(&class_names)?;
    Ok(Layout { train, val, test, classes: class_names })
}

fn check_count(classes: &[String]) -> Result<()> {
    ensure!(
        classes.len() > 1,
        "at least two class folders with pictures are needed, but found only {}",
        list_of(classes)
    );
    ensure!(
        classes.len() <= MAX_CLASSES,
        "{} classes are too many; at most {MAX_CLASSES} are supported",
        classes.len()
    );
    Ok(())
}

fn warn_of_untested(class_names: &[String], trains: &ByClass, tests: &ByClass) {
    let expected: Vec<&String> = if trains.is_empty() { class_names.iter().collect() } else { trains.keys().collect() };
    let untested: Vec<String> = expected.into_iter().filter(|class| !tests.contains_key(*class)).cloned().collect();
    match untested.as_slice() {
        [] => {}
        [class] => tracing::warn!("class {} has no test pictures", printable(class)),
        _ => tracing::warn!("classes without test pictures: {}", list_of(&untested)),
    }
}

/// # Errors
/// If a class folder has no pictures. Leaving it out would number the classes after it in another way, or test on fewer
/// classes than there are.
fn check_empty_classes(
    listing: &Listing,
    root: &[String],
    splits: &Splits,
    is_empty: impl Fn(Split, &String) -> bool,
) -> Result<()> {
    let is_empty = |path: &&Parts| {
        let class = path.strip_prefix(root).and_then(|parts| splits.class(parts));
        class.is_some_and(|(split, class)| is_empty(split, class))
    };
    let empty: Vec<Parts> = listing.folders.iter().filter(is_empty).cloned().collect();
    ensure!(empty.is_empty(), listing.without_pictures(&empty));
    Ok(())
}

/// # Errors
/// If a class's name is not UTF-8, or two names differ only in how Unicode composes their letters: they look the same, but
/// would be two classes.
fn check_names<'a>(names: impl Iterator<Item = &'a String>) -> Result<()> {
    let mut composed = HashMap::<String, &String>::new();
    for name in names {
        ensure!(!is_escaped(name), "the name of the class folder {} is not UTF-8; rename it", printable(name));
        let other = composed.entry(name.nfc().collect()).or_insert(name);
        ensure!(
            *other == name,
            "the class folders {} and {} have the same name in two Unicode spellings (NFC and NFD); rename one like the other",
            spelled_out(other),
            spelled_out(name)
        );
    }
    Ok(())
}

/// The name with all characters but those of ASCII as numbers, which shows how it is composed.
fn spelled_out(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii() { c.to_string() } else { c.escape_unicode().to_string() }).collect()
}

/// Removes folders that contain everything, such as the top-level folder of an archive. Also returns what it removed from
/// each path.
fn strip_common_root(
    pictures: BTreeMap<Parts, Location>,
    folders: &BTreeSet<Parts>,
) -> (Vec<(Parts, Location)>, Parts) {
    let mut pictures: Vec<(Parts, Location)> = pictures.into_iter().collect();
    let mut root = Vec::new();
    loop {
        let first = pictures.first().map(|(parts, _)| parts[0].clone()).unwrap_or_default();
        let is_root = pictures.iter().all(|(parts, _)| parts.len() > 1 && parts[0] == first)
            && pictures.iter().any(|(parts, _)| parts.len() > 2);
        // A folder without pictures next to it may be a class whose pictures are missing.
        let mut siblings = folders.iter().filter_map(|path| path.strip_prefix(root.as_slice()));
        let is_alone = siblings.all(|parts| parts.first().is_none_or(|name| *name == first));
        if !is_root || !is_alone || split_of(&first).is_some() {
            return (pictures, root);
        }
        root.push(first);
        pictures.iter_mut().for_each(|(parts, _)| drop(parts.remove(0)));
    }
}

/// Moves the test fraction of every class to a test set.
fn hold_out_test_set(trains: &mut ByClass, options: &PictureOptions) -> ByClass {
    let mut tests = ByClass::new();
    for (number, (class, pictures)) in trains.iter_mut().enumerate() {
        let random = Philox::new(options.split_seed, Purpose::Split, number as u32);
        let chosen = held_out(pictures.len(), options.test_fraction, random);
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
    let labels: HashMap<&String, u32> = classes.iter().zip(0..).collect();
    let mut all = Vec::new();
    for (class, pictures) in set {
        let Some(&label) = labels.get(&class) else {
            bail!("the folder {} is not one of the training classes: {}", printable(&class), list_of(classes));
        };
        all.extend(pictures.into_iter().map(|(name, location)| LabelledPicture { label, name, location }));
    }
    all.sort_by_key(|picture| picture.label); // stable: names stay in order
    Ok(all)
}
