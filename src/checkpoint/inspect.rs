//! Checks of files without their network: complete, undamaged, plausible.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use safetensors::tensor::SafeTensors;

use super::container::{check_digest, parse, parse_metadata};
use super::recognise::refuse_other_formats;
use super::state::{AVERAGE, read_header, refuse_checkpoint};
use super::weights::check_weights_digest;
use crate::train::Position;

/// A checkpoint that is undamaged, as far as can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InspectedCheckpoint {
    pub position: Position,
    /// Whether the file has a digest, which it matches. Those of version 1 have none.
    pub has_digest: bool,
}

/// A file of weights that is undamaged, as far as can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InspectedWeights {
    pub has_digest: bool,
    /// Whether its tensors are those of a checkpoint.
    pub are_of_checkpoint: bool,
}

/// # Errors
/// The file cannot be read, is not a checkpoint, or is damaged.
pub fn inspect_checkpoint(path: &Path) -> Result<InspectedCheckpoint> {
    let bytes = read(path)?;
    parse(&bytes)?;
    let header = read_header(&bytes)?;
    let has_digest = check_digest(&bytes, &parse_metadata(&bytes)?)?;
    Ok(InspectedCheckpoint { position: header.state().position, has_digest })
}

/// # Errors
/// The file cannot be read, is not a file of weights, or is damaged.
pub fn inspect_weights(path: &Path, checkpoint: &Path) -> Result<InspectedWeights> {
    let bytes = read(path)?;
    let (weights, metadata) = (parse(&bytes)?, parse_metadata(&bytes)?);
    refuse_checkpoint(&metadata)?;
    let has_digest = check_weights_digest(&bytes, &metadata)?;
    let state = fs::read(checkpoint).unwrap_or_default();
    let are_of_checkpoint = parse(&state).is_ok_and(|state| are_equal(&weights, &state));
    Ok(InspectedWeights { has_digest, are_of_checkpoint })
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
