//! The ZIP archive of a file of `torch.save`. Its members are not compressed, so they are slices of the file.

use std::collections::HashMap;
use std::io;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rawzip::{CompressionMethod, ZipArchive, ZipArchiveEntryWayfinder, ZipSliceArchive};

use crate::checkpoint::recognise::CONVERT;

/// Longer pickles are not read. That of 1000 tensors with an optimiser's state has 300 kB.
const MAX_PICKLE: usize = 4 << 20;

pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    zip: ZipSliceArchive<&'a [u8]>,
    /// Each member by its name below the archive's one folder.
    members: HashMap<String, (CompressionMethod, ZipArchiveEntryWayfinder)>,
}

impl<'a> Archive<'a> {
    /// # Errors
    /// The bytes are not a ZIP archive that torch.save wrote, or are damaged.
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        let damaged = |error| anyhow!("not a complete ZIP archive ({error}); it may be truncated or damaged");
        let zip = ZipArchive::from_slice(bytes).map_err(damaged)?;
        let (mut all, mut entries) = (Vec::new(), zip.entries());
        while let Some(entry) = entries.next_entry().map_err(damaged)? {
            let path = entry.file_path();
            let name = str::from_utf8(path.as_bytes()).context("a member's name is not UTF-8")?;
            all.push((name.to_string(), (entry.compression_method(), entry.wayfinder())));
        }
        let is_npz = !all.is_empty() && all.iter().all(|(name, _)| name.ends_with(".npy"));
        ensure!(!is_npz, "it is an archive of NumPy arrays (.npz): {CONVERT}");
        let root =
            all.iter().find_map(|(name, _)| name.strip_suffix("data.pkl").filter(|it| it.matches('/').count() == 1));
        let root = root.with_context(|| format!("it is a ZIP archive that torch.save did not write: {CONVERT}"))?;
        let root = root.to_string();
        let is_script = all.iter().any(|(name, _)| name.strip_prefix(&root).is_some_and(|it| it == "constants.pkl"));
        ensure!(!is_script, "it is a TorchScript program, as torch.jit.save writes: {CONVERT}");
        let mut members = HashMap::new();
        for (name, member) in all {
            if let Some(name) = name.strip_prefix(&root) {
                let earlier = members.insert(name.to_string(), member);
                ensure!(earlier.is_none(), "it is damaged: it has two members {name}");
            }
        }
        let archive = Self { bytes, zip, members };
        if archive.members.contains_key("byteorder") {
            let order = archive.member("byteorder")?;
            ensure!(order == b"little", "its numbers are not little-endian: {CONVERT}");
        }
        Ok(archive)
    }

    pub fn pickle(&self) -> Result<&'a [u8]> {
        let pickle = self.member("data.pkl")?;
        ensure!(pickle.len() <= MAX_PICKLE, "its data.pkl has {} bytes, far more than weights need", pickle.len());
        Ok(pickle)
    }

    /// The content of a member, after checking its CRC-32.
    pub fn member(&self, name: &str) -> Result<&'a [u8]> {
        let Some(&(method, wayfinder)) = self.members.get(name) else {
            bail!("it is damaged: it has no member {name}")
        };
        ensure!(
            method == CompressionMethod::STORE,
            "its member {name} is compressed, as torch.save never does: {CONVERT}"
        );
        let damaged = |error: &dyn std::fmt::Display| {
            anyhow!("it is damaged: its member {name} is not as it was saved ({error}); use a copy of the file")
        };
        let entry = self.zip.get_entry(wayfinder).map_err(|error| damaged(&error))?;
        let mut reader = entry.verifying_reader(entry.data());
        io::copy(&mut reader, &mut io::sink()).map_err(|error| damaged(&error))?;
        let (begin, end) = entry.compressed_data_range();
        self.bytes.get(begin as usize..end as usize).with_context(|| format!("it is damaged: {name}"))
    }
}
