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
    /// Only beside a test set; alone it is the test set.
    val: Option<String>,
    test: Option<String>,
    /// All folders at the top that contain pictures, with the folders in them that do.
    tops: BTreeMap<String, BTreeSet<String>>,
}

impl Splits {
    /// # Errors
    /// If several folders could be the same split, or folders with a class folder in common are not named like splits.
    pub fn find(pictures: &[(Parts, Location)]) -> Result<Self> {
        let mut tops = BTreeMap::<String, BTreeSet<String>>::new();
        for (parts, _) in pictures {
            match parts.as_slice() {
                [top, folder, _, ..] => {
                    let folders = tops.entry(top.clone()).or_default();
                    if !folders.contains(folder) {
                        folders.insert(folder.clone());
                    }
                }
                [top, _] => {
                    tops.entry(top.clone()).or_default();
                }
                _ => {}
            }
        }
        let named = |split: Split| -> Vec<String> {
            let holds_folders = tops.iter().filter(|(_, folders)| !folders.is_empty());
            holds_folders.map(|(name, _)| name).filter(|name| split_of(name) == Some(split)).cloned().collect()
        };
        let train = named(Split::Train);
        let exist = !train.is_empty() || !tops.is_empty() && tops.keys().all(|name| split_of(name).is_some());
        let mut splits = Self { exist, ..Self::default() };
        if exist {
            splits.train = only(train)?;
            (splits.val, splits.test) = match (only(named(Split::Validation))?, only(named(Split::Test))?) {
                (val, None) => (None, val),
                both => both,
            };
        }
        splits.tops = tops;
        splits.check_unnamed()?;
        Ok(splits)
    }

    /// # Errors
    /// If two folders at the top have a class folder in common, but are not the training and the test set.
    fn check_unnamed(&self) -> Result<()> {
        // Beside a training and a test set, a third folder may hold whatever it likes.
        if self.train.is_some() && self.test.is_some() {
            return Ok(());
        }
        let is_train = |name: &String| self.train.as_ref() == Some(name);
        let mut first_tops = HashMap::<&String, &String>::new();
        for (name, folders) in &self.tops {
            for folder in folders {
                let other = *first_tops.entry(folder).or_insert(name);
                // A split holds several classes, so `cat/images` and `dog/images` are classes.
                let may_be_splits = folders.len() > 1 || self.tops[other].len() > 1;
                if other == name || !may_be_splits || (self.exist && !is_train(name) && !is_train(other)) {
                    continue;
                }
                let common: Vec<String> = self.tops[other].intersection(folders).cloned().collect();
                let otherwise = if self.exist {
                    "if not, move one of them elsewhere"
                } else {
                    "if they are classes, move all classes into a new folder train"
                };
                bail!(
                    "the folders {} and {} hold folders of the same name ({}); if they are the training and the test set, \
                     name them train and test; {otherwise}",
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

    /// The split and the class of the folder at this path, if it is that of a class.
    pub fn class<'a>(&self, parts: &'a [String]) -> Option<(Split, &'a String)> {
        match parts {
            [top, class] if self.exist => Some((self.split(top)?, class)),
            [class] if !self.exist => Some((Split::Train, class)),
            _ => None,
        }
    }

    /// The split that a folder at the top is used as.
    fn split(&self, top: &String) -> Option<Split> {
        let named = [(&self.train, Split::Train), (&self.val, Split::Validation), (&self.test, Split::Test)];
        named.into_iter().find(|(name, _)| self.exist && name.as_ref() == Some(top)).map(|(_, split)| split)
    }

    fn is_split(&self, top: &String) -> bool {
        self.split(top).is_some()
    }

    /// The split and the class of a picture.
    pub fn place<'a>(&self, parts: &'a [String]) -> Option<(Split, &'a String)> {
        match parts {
            [top, class, _, ..] if self.exist => Some((self.split(top)?, class)),
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
