//! `cnn-cuda fetch`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;
use tracing::info;

use crate::data;
use crate::settings::{DataFolder, Given};

#[derive(Args)]
pub struct FetchArgs {
    /// Data set to download
    #[arg(value_parser = PossibleValuesParser::new(data::fetchable()))]
    dataset: String,
    #[command(flatten)]
    data: Given<DataFolder>,
}

/// Downloads the files of a data set that are missing.
pub fn run(args: &FetchArgs) -> Result<ExitCode> {
    let folder = args.data.0.folder();
    data::fetch::fetch(&args.dataset, &folder, true)?;
    info!("{} is complete in {}", args.dataset, folder.join(&args.dataset).display());
    Ok(ExitCode::SUCCESS)
}
