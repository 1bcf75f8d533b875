//! Recognises which folders at the top of a set are its splits.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Result, bail, ensure};

use super::listing::{Listing, Parts};
use super::names::{Split, list_of, split_of};
use super::tree::Location;
use crate::files::printable;

/// The folders at the top that are splits.
#[derive(Debug, Default)]
pub struct Splits {
    /// Whether there are splits; if not, the folders at the top are classes.
    exist: bool,
    train: Option<String>,
    test: Option<String>,
    /// All folders at the top that contain pictures.
    tops: BTreeMap<String, Top>,
}

/// What a folder at the top contains.
#[derive(Debug, Default)]
struct Top {
    /// Whether there are pictures directly in it.
    has_pictures: bool,
    /// The folders in it that contain pictures.
    folders: BTreeSet<String>,
}

impl Splits {
    /// # Errors
    /// If several folders could be the same split, or folders with the same class folders are not named like splits.
    pub fn find(pictures: &[(Parts, Location)]) -> Result<Self> {
        let mut tops = BTreeMap::<String, Top>::new();
        for (parts, _) in pictures {
            match parts.as_slice() {
                [top, folder, _, ..] => {
                    let folders = &mut tops.entry(top.clone()).or_default().folders;
                    if !folders.contains(folder) {
                        folders.insert(folder.clone());
                    }
                }
                [top, _] => tops.entry(top.clone()).or_default().has_pictures = true,
                _ => {}
            }
        }
        let named = |tops: &BTreeMap<String, Top>, split: Split| {
            let is_split =
                move |(name, top): &(&String, &Top)| split_of(name) == Some(split) && !top.folders.is_empty();
            tops.iter().filter(is_split).map(|(name, _)| name.clone()).collect::<Vec<String>>()
        };
        let train = named(&tops, Split::Train);
        let exist = !train.is_empty() || !tops.is_empty() && tops.keys().all(|name| split_of(name).is_some());
        let mut splits = Self { exist, ..Self::default() };
        if exist {
            splits.train = only(train)?;
            splits.test = only(named(&tops, Split::Test))?.or(only(named(&tops, Split::Validation))?);
        }
        splits.tops = tops;
        splits.check_unnamed()?;
        Ok(splits)
    }

    /// # Errors
    /// If two folders at the top hold the same class folders, but are not the training and the test set.
    fn check_unnamed(&self) -> Result<()> {
        let tops = &self.tops;
        let unnamed = |name: &String| !self.exist || split_of(name).is_none();
        // Beside a training and a test set, a third folder may hold whatever it likes.
        if self.train.is_some() && self.test.is_some() {
            return Ok(());
        }
        // A folder is compared with the others that share its first folders, so that many classes take no time.
        let mut seen = HashMap::<&str, Vec<&String>>::new();
        for (name, top) in tops.iter().filter(|(_, top)| !top.has_pictures) {
            let mut shared = HashMap::<&String, usize>::new();
            for folder in top.folders.iter().take(16) {
                let others = seen.entry(folder).or_default();
                others.iter().for_each(|other| *shared.entry(other).or_default() += 1);
                if others.len() < 4 {
                    others.push(name);
                }
            }
            let double = shared.into_iter().find(|(other, count)| *count > 1 && (unnamed(name) || unnamed(other)));
            if let Some((other, _)) = double {
                let common = tops[other].folders.intersection(&top.folders).cloned().collect::<Vec<String>>();
                bail!(
                    "the folders {} and {} hold the same folders ({}); if they are the training and the test set, name them \
                     train and test; if they are classes, put the pictures directly into them",
                    printable(other),
                    printable(name),
                    list_of(&common)
                );
            }
        }
        Ok(())
    }

    /// # Errors
    /// If a split has no pictures, or is a link that leads nowhere.
    pub fn check(&self, listing: &Listing, root: &[String]) -> Result<()> {
        for (path, why) in &listing.broken {
            let is_top = match path.strip_prefix(root) {
                Some([name]) => !self.exist || split_of(name).is_some(),
                Some([top, _]) => self.is_split(top),
                _ => false,
            };
            ensure!(!is_top, "{} leads nowhere ({why}); repair or remove it", printable(&path.join("/")));
        }
        if !self.exist {
            return Ok(());
        }
        let is_test = |name: &String| matches!(split_of(name), Some(Split::Test | Split::Validation));
        let is_empty = |path: &&Parts| {
            let Some([name]) = path.strip_prefix(root) else { return false };
            is_test(name) && !self.tops.contains_key(name)
        };
        match listing.folders.iter().find(is_empty) {
            Some(path) => bail!(listing.without_pictures(std::slice::from_ref(path))),
            None => Ok(()),
        }
    }

    /// The training class at this path, if it is the path of one.
    pub fn training_class<'a>(&self, parts: &'a [String]) -> Option<&'a String> {
        match parts {
            [top, class] if self.exist && self.train.as_ref() == Some(top) => Some(class),
            [class] if !self.exist => Some(class),
            _ => None,
        }
    }

    fn is_split(&self, top: &String) -> bool {
        self.exist && (self.train.as_ref() == Some(top) || self.test.as_ref() == Some(top))
    }

    /// The split and the class of a picture.
    pub fn place<'a>(&self, parts: &'a [String]) -> Option<(Split, &'a String)> {
        match parts {
            [top, class, _, ..] if self.exist && self.train.as_ref() == Some(top) => Some((Split::Train, class)),
            [top, class, _, ..] if self.exist && self.test.as_ref() == Some(top) => Some((Split::Test, class)),
            [class, _, ..] if !self.exist => Some((Split::Train, class)),
            _ => None,
        }
    }
}

/// The only name, if any.
///
/// # Errors
/// If there are several.
fn only(mut names: Vec<String>) -> Result<Option<String>> {
    if let [first, second, ..] = names.as_slice() {
        bail!(
            "the folders {} and {} could be the same split; rename or remove one of them",
            printable(first),
            printable(second)
        );
    }
    Ok(names.pop())
}
