//! The command line: subcommands, their dispatch, and what every one of them shares.

mod algorithms;
mod augmentation;
mod bench;
mod bounds;
mod config;
mod dataset;
mod device;
mod eval;
mod fetch;
mod flags;
mod input;
mod network;
mod outputs;
mod plan;
mod predict;
mod profile;
mod recipe;
mod residency;
mod resume;
mod run;
mod stream;
mod summary;
mod timing;
mod trace;
mod train;
mod variation;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::models::{self, Model};
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
    Train(Box<train::TrainArgs>),
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
    /// Folder that holds `mnist/` and the like [default: the environment's CNN_CUDA_DATA, or data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl DataArgs {
    fn folder(&self) -> PathBuf {
        let environment = || std::env::var_os("CNN_CUDA_DATA").filter(|value| !value.is_empty()).map(PathBuf::from);
        self.data.clone().or_else(environment).unwrap_or_else(|| PathBuf::from("data"))
    }
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// Whatever went wrong, with its context; `main` prints it.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Train(args) => train::run(*args),
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
        .with_writer(stream::Stderr::new)
        .log_internal_errors(false)
        .init();
}

/// Prints the whole chain of an error in one paragraph on stderr. The exit code is 2 where the command was used
/// wrongly, else 1.
pub fn report_error(error: &anyhow::Error) -> ExitCode {
    let text = format!("{error:#}");
    let paragraph = text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    // Names in an archive may hold anything, and a terminal obeys what is not a letter.
    let paragraph = paragraph.replace(char::is_control, "\u{fffd}");
    // Where stderr is gone, the exit code must do.
    let _ = writeln!(stream::Stderr::new(), "error: {paragraph}");
    ExitCode::from(if error.downcast_ref::<UsageError>().is_some() { 2 } else { 1 })
}

/// Flags that contradict each other, or name what does not exist.
#[derive(Debug)]
struct UsageError(String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// An error with exit code 2 where `condition` does not hold.
fn usage(condition: bool, message: impl FnOnce() -> String) -> Result<()> {
    if condition { Ok(()) } else { Err(UsageError(message()).into()) }
}

/// The model of that name.
fn find_model(name: &str) -> Result<&'static Model> {
    models::find(name).map_err(|error| UsageError(error.to_string()).into())
}
