//! `cnn-cuda completions` and `cnn-cuda man`

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use crate::report::stream::Stdout;

#[derive(Args)]
pub struct CompletionsArgs {
    /// Shell to generate the script for
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints a completion script for a shell.
pub fn run(args: &CompletionsArgs) -> ExitCode {
    clap_complete::generate(args.shell, &mut Cli::command(), "cnn-cuda", &mut Stdout::default());
    ExitCode::SUCCESS
}

/// Prints the manual pages in roff: that of the program, then those of its subcommands.
pub fn man() -> Result<ExitCode> {
    let mut command = Cli::command();
    command.build();
    let pages = std::iter::once(&command).chain(command.get_subcommands().filter(|it| it.get_name() != "help"));
    for page in pages {
        clap_mangen::Man::new(page.clone()).render(&mut Stdout::default()).context("cannot print the manual page")?;
    }
    Ok(ExitCode::SUCCESS)
}
