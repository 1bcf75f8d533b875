//! Whether images stay on the device, and what becomes of those that do not fit.

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::data::{self, Dataset};

#[derive(Args, Clone, Copy)]
pub struct ResidencyArgs {
    /// Keep all decoded images in memory, on a CUDA device in its own; an error where they do not fit
    #[arg(long)]
    resident: bool,
    /// Read images ahead of use and keep none: pictures of a folder anew from their files, those of an archive and other
    /// data sets from a temporary file. Without either flag, what does not fit is streamed; results are the same
    #[arg(long, conflicts_with = "resident")]
    stream: bool,
}

/// `--resident`, `--stream` or neither, in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Residency {
    #[default]
    Auto,
    Resident,
    Stream,
}

impl ResidencyArgs {
    pub fn given(self) -> Option<Residency> {
        match (self.resident, self.stream) {
            (true, _) => Some(Residency::Resident),
            (_, true) => Some(Residency::Stream),
            _ => None,
        }
    }
}

impl Residency {
    pub fn of_data(self) -> data::Residency {
        match self {
            Self::Auto => data::Residency::Auto,
            Self::Resident => data::Residency::Resident,
            Self::Stream => data::Residency::Stream,
        }
    }

    /// Decides where the images of a set go that is in memory, with so many bytes free on a device of its own. Half of them
    /// are left to the network.
    pub fn place(self, dataset: &mut Dataset, free: Option<usize>) -> Result<()> {
        let bytes = dataset.resident_bytes();
        match (self, free) {
            (Self::Stream, _) => dataset.stream_from_file(),
            (Self::Auto, Some(free)) if bytes > free / 2 => {
                let (bytes, free) = (bytes as f64 / 1e9, free as f64 / 1e9);
                info!("{bytes:.1} GB of images stay in the host's memory: {free:.1} GB are free on the device");
                dataset.stream_from_memory()
            }
            _ => Ok(()),
        }
    }
}
