//! Checks of files without their network: complete, undamaged, plausible.

use std::fs;
use std::path::Path;

use anyhow::{Context, Error, Result, ensure};
use safetensors::tensor::SafeTensors;

use super::container::{check_digest, parse, parse_metadata, read_beginning};
use super::header::{Header, RunIdentity};
use super::recognise::refuse_other_formats;
use super::state::{AVERAGE, header_of, read_header, refuse_checkpoint};
use super::weights::epoch_of;
use crate::train::{Chosen, Position, TrainState};

/// A checkpoint that has passed every check.
#[derive(Debug)]
pub struct InspectedCheckpoint {
    pub position: Position,
    /// The best epoch by the monitored number.
    pub chosen: Option<Chosen>,
    /// Whether the file has a digest, which it matches. Those of version 1 have none.
    pub has_digest: bool,
    header: Header,
}

impl InspectedCheckpoint {
    /// # Errors
    /// The checkpoint is of a run with other settings than `run`, whose data are not compared.
    pub fn check_settings(&self, run: &RunIdentity) -> Result<()> {
        self.header.check_settings(run)
    }

    /// # Errors
    /// The run was tested on other images than `count` of this fingerprint.
    pub fn check_test_images(&self, count: usize, fingerprint: u64) -> Result<()> {
        self.header.check_test_images(count, fingerprint)
    }
}

/// A file of weights that has passed every check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InspectedWeights {
    pub has_digest: bool,
    /// Whether its tensors are those of the checkpoint; `None` without one to compare with.
    pub are_of_checkpoint: Option<bool>,
    /// The epoch that they are from, if it is recorded.
    pub epoch: Option<u32>,
}

/// # Errors
/// The file cannot be read, is not a checkpoint, or is damaged.
pub fn inspect_checkpoint(path: &Path) -> Result<InspectedCheckpoint> {
    let bytes = read(path)?;
    parse(&bytes)?;
    let header = read_header(&bytes)?;
    let has_digest = check_digest(&bytes, &parse_metadata(&bytes)?)?;
    let TrainState { position, chosen, .. } = header.state();
    Ok(InspectedCheckpoint { position, chosen, has_digest, header })
}

/// Compares the settings of the checkpoint at `path` with those of `run`, but not the data. A file that is no checkpoint
/// is left to [`load_state`](super::load_state), which says what it is.
///
/// # Errors
/// A setting differs, or the file is damaged.
pub fn check_settings(path: &Path, run: &RunIdentity) -> Result<()> {
    let Some(header) = read_beginning(path).ok().and_then(|header| header_of(&header).ok()) else { return Ok(()) };
    let Err(difference) = header.check_settings(run) else { return Ok(()) };
    // Damage may look like another value.
    inspect_checkpoint(path).and(Err(difference)).with_context(|| format!("cannot resume from {}", path.display()))
}

/// # Errors
/// The file cannot be read, is not a file of weights, or is damaged; or the checkpoint, if one is given, cannot be read.
pub fn inspect_weights(path: &Path, checkpoint: Option<&Path>) -> Result<InspectedWeights> {
    let bytes = read(path)?;
    let (weights, metadata) = (parse(&bytes)?, parse_metadata(&bytes)?);
    refuse_checkpoint(&metadata)?;
    let has_digest = check_digest(&bytes, &metadata)?;
    let compare = |checkpoint: &Path| {
        let state = read(checkpoint)?;
        Ok::<_, Error>(are_equal(&weights, &parse(&state)?))
    };
    let are_of_checkpoint = checkpoint.map(compare).transpose().context("the checkpoint")?;
    Ok(InspectedWeights { has_digest, are_of_checkpoint, epoch: epoch_of(&metadata) })
}

/// Whether a checkpoint has all tensors of a file of weights, averaged if the checkpoint has an average.
fn are_equal(weights: &SafeTensors, state: &SafeTensors) -> bool {
    weights.iter().all(|(name, tensor)| {
        let saved = state.tensor(&format!("{AVERAGE}{name}")).or_else(|_| state.tensor(name));
        saved.is_ok_and(|saved| saved == tensor)
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    ensure!(path.metadata().context("it cannot be read")?.is_file(), "it is not a file");
    refuse_other_formats(path)?;
    fs::read(path).context("it cannot be read")
}
