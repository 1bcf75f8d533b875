//! `cnn-cuda fetch`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;
use tracing::info;

use crate::data::{self, pretrained};
use crate::settings::{DataFolder, Given};

#[derive(Args)]
pub struct FetchArgs {
    /// Data set or pretrained weights to download
    #[arg(value_parser = PossibleValuesParser::new([data::fetchable(), pretrained::names()].concat()))]
    name: String,
    #[command(flatten)]
    data: Given<DataFolder>,
}

/// Downloads the files of a data set that are missing, or pretrained weights.
pub fn run(args: &FetchArgs) -> Result<ExitCode> {
    let (folder, name) = (args.data.0.folder(), &args.name);
    if let Some(known) = pretrained::find(name) {
        info!("{name} is complete: {}", known.fetch(&folder, true)?.display());
        return Ok(ExitCode::SUCCESS);
    }
    data::fetch::fetch(name, &folder, true)?;
    info!("{name} is complete in {}", folder.join(name).display());
    Ok(ExitCode::SUCCESS)
}
