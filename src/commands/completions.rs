//! `cnn-cuda completions` and `cnn-cuda man`

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Arg, Args, Command};
use clap_complete::Shell;

use super::definition;
use crate::report::stream::Stdout;

#[derive(Args)]
pub struct CompletionsArgs {
    /// Shell to generate the script for
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints a completion script for a shell.
pub fn run(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut command = definition().mut_subcommands(without_retired);
    // clap panics if it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "cnn-cuda", &mut script);
    let mut out = Stdout::default();
    out.write_all(&script).and_then(|()| out.flush()).context("cannot print the script")?;
    Ok(ExitCode::SUCCESS)
}

/// Removes retired flags, since scripts list hidden flags too. The hidden `--no-FLAG` are worth completing.
fn without_retired(command: Command) -> Command {
    let is_current = |flag: &&Arg| !flag.is_hide_set() || flag.get_id().as_str().starts_with("no-");
    let flags: Vec<Arg> = command.get_arguments().filter(is_current).cloned().collect();
    let about = command.get_about().cloned().unwrap_or_default();
    Command::new(command.get_name().to_string()).about(about).args(flags)
}

/// Prints the manual pages in roff: that of the program, then those of its subcommands.
pub fn man() -> Result<ExitCode> {
    let mut command = definition();
    command.build();
    let pages = std::iter::once(&command).chain(command.get_subcommands().filter(|it| it.get_name() != "help"));
    for page in pages {
        clap_mangen::Man::new(page.clone()).render(&mut Stdout::default()).context("cannot print the manual page")?;
    }
    Ok(ExitCode::SUCCESS)
}
