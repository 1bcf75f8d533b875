//! The entry point: parses the command line, runs the command and reports its error.

use std::process::ExitCode;

use cnn_cuda::commands::{self, Allocator, Cli};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    commands::prepare_for_limits();
    let cli = Cli::from_command_line();
    commands::init_logging(&cli);
    match cli.run() {
        Ok(code) => code,
        Err(error) => commands::report_error(&error),
    }
}
