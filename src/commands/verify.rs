//! `cnn-cuda verify`

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::files::printable;
use crate::report::stream::Stdout;
use crate::run;

#[derive(Args)]
pub struct VerifyArgs {
    /// Folders of runs
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
}

/// Checks the files of runs, and prints a line for each.
pub fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let mut out = Stdout::default();
    let mut damaged = Vec::new();
    for folder in &args.folders {
        ensure!(folder.is_dir(), "{} is not a folder; verify takes the folders of runs", folder.display());
        for (name, result) in run::verify(folder) {
            let path = folder.join(name).display().to_string();
            let line = match &result {
                Ok(content) => format!("{path}: {content}"),
                Err(error) => format!("{path}: FAILED: {error:#}"),
            };
            writeln!(out, "{}", printable(&line))?;
            damaged.extend(result.is_err().then_some(path));
        }
    }
    out.flush()?;
    if !damaged.is_empty() {
        bail!("missing, damaged or out of date: {}", damaged.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}
