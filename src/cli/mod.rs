//! The command line: subcommands, their dispatch, and what every one of them shares.

mod bench;
mod config;
mod device;
mod eval;
mod fetch;
mod flags;
mod outputs;
mod predict;
mod run;
mod summary;
mod train;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::data::LoadOptions;
use crate::models::Model;
use crate::network::Network;
use crate::shape::Shape;

/// Trains convolutional networks on an NVIDIA GPU or on the CPU.
#[derive(Parser)]
#[command(name = "cnn-cuda", version, about, max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a network and save weights, metrics and curves
    Train(train::TrainArgs),
    /// Measure a network on the test set: loss, accuracy, confusion matrix
    Eval(eval::EvalArgs),
    /// Classify pictures
    Predict(predict::PredictArgs),
    /// Show a network's layers, shapes, parameters and multiply-adds
    Summary(summary::SummaryArgs),
    /// Time training steps
    Bench(bench::BenchArgs),
    /// Download a data set, with checksums
    Fetch(fetch::FetchArgs),
}

/// Where data sets are found.
#[derive(Args, Clone)]
pub struct DataArgs {
    /// Folder that holds `mnist/` and the like [default: data]
    #[arg(long, value_name = "DIR", env = "CNN_CUDA_DATA")]
    data: Option<PathBuf>,
}

impl DataArgs {
    fn folder(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| PathBuf::from("data"))
    }

    fn load_options(&self) -> LoadOptions {
        LoadOptions { folder: self.folder(), download: true, progress: true }
    }
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// Whatever went wrong, with its context; `main` prints it.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Train(args) => train::run(args),
            Command::Eval(args) => eval::run(&args),
            Command::Predict(args) => predict::run(&args),
            Command::Summary(args) => summary::run(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Fetch(args) => fetch::run(&args),
        }
    }
}

/// The network of that model for a data set's shape and classes.
fn build_network(model: &Model, input: Shape, classes: usize) -> Result<Network> {
    use anyhow::Context;
    (model.build)(input, classes).with_context(|| format!("{} cannot work on images of {input}", model.name))
}

/// Sends logs to stderr, warnings and above marked as such; `RUST_LOG` changes what is shown.
pub fn init_logging() {
    use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt};
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let colour = std::io::stderr().is_terminal();
    fmt()
        .with_env_filter(filter)
        .with_target(false)
        .without_time()
        .with_ansi(colour)
        .with_writer(std::io::stderr)
        .init();
}

/// Prints the whole chain of an error on one line of stderr; the exit code is 1. A reader that closed our standard
/// output (`| head`) is no error.
pub fn report_error(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(broken_pipe) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
