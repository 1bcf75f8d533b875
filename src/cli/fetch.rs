//! `cnn-cuda fetch`

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use tracing::info;

use super::DataArgs;
use crate::data;

#[derive(Args)]
pub struct FetchArgs {
    /// Which data set
    dataset: Fetchable,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Fetchable {
    Mnist,
}

/// Downloads what is missing.
pub fn run(args: &FetchArgs) -> Result<ExitCode> {
    let folder = args.data.folder();
    match args.dataset {
        Fetchable::Mnist => data::fetch::fetch_mnist(&folder, true)?,
    }
    info!("mnist is complete in {}", folder.join("mnist").display());
    Ok(ExitCode::SUCCESS)
}
