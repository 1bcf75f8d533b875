//! Exit code and error chain, nothing else.

use std::process::ExitCode;

use clap::Parser;
use cnn_cuda::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli::init_logging();
    match cli.run() {
        Ok(code) => code,
        Err(error) => cli::report_error(&error),
    }
}
