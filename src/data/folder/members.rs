//! The members of an archive as a tree. Hard and symbolic links are resolved within the archive, never outside it.

use std::cell::Cell;
use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

use super::names::{is_hidden, is_picture, split_of};
use super::tree::{Entry, Location, Tree};
use crate::data::member::{Kind, Member};
use crate::files::printable;

/// The most symbolic links in a path, as on Linux.
const MAX_LINKS: usize = 40;
/// The most parts of paths to look up for all links together. It bounds the time that links to links can take.
const MAX_LOOKUPS: u64 = 50_000_000;
/// The most memory for the tree, and what a node takes apart from its name.
const MAX_BYTES: usize = 1 << 30;
const NODE_BYTES: usize = 160;
/// The index of the root.
const ROOT: usize = 0;

/// The members of an archive.
pub struct Members {
    nodes: Vec<Node>,
    /// An upper bound of the memory that the nodes take.
    bytes: usize,
    lookups: Cell<u64>,
}

struct Node {
    /// The index of the folder that contains the node; the root's is its own.
    parent: usize,
    content: Content,
}

#[derive(Clone)]
enum Content {
    Folder(BTreeMap<String, usize>),
    /// The index of a member of the archive.
    File(u64),
    Sparse,
    /// A symbolic link in the folder with the index `folder`.
    Link {
        folder: usize,
        target: String,
    },
    Broken(String),
}

impl Default for Members {
    fn default() -> Self {
        let root = Node { parent: ROOT, content: Content::Folder(BTreeMap::new()) };
        Self { nodes: vec![root], bytes: 0, lookups: Cell::new(0) }
    }
}

impl Members {
    /// Adds the member with the index `number`. Of two files with the same path the later one counts, as when tar unpacks
    /// them.
    ///
    /// # Errors
    /// If the same path is a folder and something else.
    pub fn add(&mut self, number: u64, member: &Member) -> Result<()> {
        let Some((name, folders)) = member.parts.split_last() else { return Ok(()) };
        let conflict = |parts: &[String]| format!("{} is a folder and something else", printable(&parts.join("/")));
        let mut folder = ROOT;
        for (depth, part) in folders.iter().enumerate() {
            folder = self.folder(folder, part, || conflict(&folders[..=depth]))?;
        }
        let content = match &member.kind {
            Kind::Folder => return self.folder(folder, name, || conflict(&member.parts)).map(|_| ()),
            Kind::File => Content::File(number),
            Kind::SymbolicLink(target) => Content::Link { folder, target: target.clone() },
            Kind::HardLink(target) => self.linked(target),
            Kind::Sparse => Content::Sparse,
            // In a folder, too, it is an error only in the place of a picture.
            Kind::Other if is_picture(name) => Content::Broken("it is not a regular file".into()),
            Kind::Other | Kind::Outside(_) => return Ok(()),
        };
        match self.child(folder, name) {
            Some(node) => {
                ensure!(!matches!(self.nodes[node].content, Content::Folder(_)), conflict(&member.parts));
                self.nodes[node].content = content;
            }
            None => {
                self.insert(folder, name, content);
            }
        }
        self.bytes += match &member.kind {
            Kind::SymbolicLink(text) => text.len(),
            Kind::Other => NODE_BYTES,
            _ => 0,
        };
        ensure!(self.bytes <= MAX_BYTES, "the names of its members take more than {} MiB", MAX_BYTES >> 20);
        Ok(())
    }

    /// The folder `name` in the folder with the index `parent`, which is created if necessary.
    fn folder(&mut self, parent: usize, name: &str, conflict: impl Fn() -> String) -> Result<usize> {
        match self.child(parent, name) {
            Some(node) if matches!(self.nodes[node].content, Content::Folder(_)) => Ok(node),
            Some(_) => bail!(conflict()),
            None => Ok(self.insert(parent, name, Content::Folder(BTreeMap::new()))),
        }
    }

    fn insert(&mut self, parent: usize, name: &str, content: Content) -> usize {
        let node = self.nodes.len();
        self.bytes += NODE_BYTES + name.len();
        self.nodes.push(Node { parent, content });
        if let Content::Folder(children) = &mut self.nodes[parent].content {
            children.insert(name.into(), node);
        }
        node
    }

    fn child(&self, folder: usize, name: &str) -> Option<usize> {
        match &self.nodes[folder].content {
            Content::Folder(children) => children.get(name).copied(),
            _ => None,
        }
    }

    /// What a hard link is: the earlier member of that path.
    fn linked(&self, target: &[String]) -> Content {
        let found = target.iter().try_fold(ROOT, |folder, part| self.child(folder, part));
        match found.map(|node| &self.nodes[node].content) {
            Some(Content::Folder(_)) | None => Content::Broken(format!(
                "it is a hard link to {}, which is not an earlier file of the archive",
                printable(&target.join("/"))
            )),
            Some(content) => content.clone(),
        }
    }

    /// Follows the symbolic link in the folder with the index `folder`, and links on its path, to a file or folder.
    fn follow(&self, mut folder: usize, target: &str, links: &mut usize) -> Result<usize> {
        let shown = printable(target);
        *links += 1;
        ensure!(*links <= MAX_LINKS, "it is a link through more than {MAX_LINKS} links");
        ensure!(!target.starts_with('/'), "it is a link to {shown}, outside the archive");
        for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
            self.lookups.set(self.lookups.get() + 1);
            ensure!(self.lookups.get() <= MAX_LOOKUPS, "the archive has too many links to links");
            folder = match (part, &self.nodes[folder].content) {
                ("..", Content::Folder(_)) if folder == ROOT => {
                    bail!("it is a link to {shown}, outside the archive")
                }
                ("..", Content::Folder(_)) => self.nodes[folder].parent,
                (part, Content::Folder(children)) => match children.get(part) {
                    Some(&child) => self.resolve(child, links)?,
                    None => bail!("it is a link to {shown}, which is not in the archive"),
                },
                _ => bail!("it is a link to {shown}, which is not in the archive"),
            };
        }
        Ok(folder)
    }

    fn resolve(&self, node: usize, links: &mut usize) -> Result<usize> {
        match &self.nodes[node].content {
            Content::Link { folder, target } => self.follow(*folder, target, links),
            _ => Ok(node),
        }
    }

    fn entry(&self, node: usize) -> Entry<usize> {
        let resolved = self.resolve(node, &mut 0);
        match resolved.map(|node| (node, &self.nodes[node].content)) {
            Ok((node, Content::Folder(_))) => Entry::Folder(node),
            Ok((_, Content::File(number))) => Entry::File(Location::Member(*number)),
            Ok((_, Content::Sparse)) => Entry::File(Location::Sparse),
            Ok((_, Content::Broken(why))) => Entry::File(Location::Broken(why.clone())),
            Ok((_, Content::Link { .. })) => Entry::File(Location::Broken("it is a link to a link".into())),
            Err(error) => Entry::File(Location::Broken(error.to_string())),
        }
    }
}

impl Tree for Members {
    type Folder = usize;

    /// The folder that was packed: the only one at the top of the archive unless it is a split, else the top.
    fn root(&self) -> Result<usize> {
        let Content::Folder(children) = &self.nodes[ROOT].content else { return Ok(ROOT) };
        let mut tops: Vec<(&String, usize)> = children.iter().map(|(name, &node)| (name, node)).collect();
        if tops.len() > 1 {
            tops.retain(|(name, _)| !is_hidden(name));
        }
        Ok(match tops.as_slice() {
            &[(name, top)] if split_of(name).is_none() && matches!(self.nodes[top].content, Content::Folder(_)) => top,
            _ => ROOT,
        })
    }

    fn entries(&self, folder: &usize, wanted: fn(&str) -> bool) -> Result<Vec<(String, Entry<usize>)>> {
        let Content::Folder(children) = &self.nodes[*folder].content else { return Ok(Vec::new()) };
        let wanted = children.iter().filter(|(name, _)| wanted(name));
        Ok(wanted.map(|(name, &node)| (name.clone(), self.entry(node))).collect())
    }
}
