//! The command line: its subcommands, their dispatch, and what they share.

mod bench;
mod completions;
mod device;
mod eval;
mod evaluated;
mod explain;
mod fetch;
mod filters;
mod limits;
mod lr_find;
mod predict;
mod pretrained;
mod report;
mod serve;
mod summary;
mod train;
mod trained;
mod verify;

pub use limits::{Allocator, prepare as prepare_for_limits};

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Arg, Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tracing::warn;

use crate::checkpoint::weights_description;
use crate::files::printable;
use crate::models::{self, Model};
use crate::network::Network;
use crate::report::ProgressMode;
use crate::report::stream::Stderr;
use crate::run::Outputs;
use crate::settings::{
    ActivationChoice, Given, InputSettings, ModelSettings, RunConfig, SPLITTING, UsageError, VIEWS, VariationSettings,
    build_network, suggestion,
};

/// Trains convolutional networks on an NVIDIA GPU or on the CPU.
#[derive(Parser)]
#[command(name = "cnn-cuda", version, about, max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    /// When to colour log messages, errors and help; auto respects NO_COLOR and TERM=dumb
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto", help_heading = "Output")]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a network and save weights, metrics and curves
    #[command(
        after_help = "--no-FLAG exists for every switch, such as --no-shuffle, and for every setting whose default \
                      is 0, constant or nothing."
    )]
    Train(Box<train::TrainArgs>),
    /// Find a learning rate: train briefly at growing rates, and show where the loss falls fastest
    LrFind(Box<lr_find::LrFindArgs>),
    /// Evaluate a network on the test set: loss, accuracy, confusion matrix
    Eval(eval::EvalArgs),
    /// Write a run's report: one HTML page with curves, confusion matrix, mistakes, filters, settings
    Report(report::ReportArgs),
    /// Check the files of runs for damage
    Verify(verify::VerifyArgs),
    /// Classify pictures
    Predict(predict::PredictArgs),
    /// Show what in a picture decides its class, and what each layer sees: PNG files and a page
    Explain(Box<explain::ExplainArgs>),
    /// Show a network's filters, and the parts of images that excite its channels most: PNG files and a page
    Filters(Box<filters::FiltersArgs>),
    /// Show in the browser how a network answers: draw a digit, and see every layer; while a run trains, its curves
    Serve(Box<serve::ServeArgs>),
    /// Show a network's layers, shapes, parameters and multiply-adds
    Summary(summary::SummaryArgs),
    /// Time training steps or forward passes
    Bench(bench::BenchArgs),
    /// Download a data set or pretrained weights, and verify checksums
    Fetch(fetch::FetchArgs),
    /// Print a script that completes subcommands and flags in a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page, for `man -l -`
    Man,
}

/// The definition of the command line. Subcommands share settings, but their defaults may differ.
fn definition() -> clap::Command {
    // The run that produced the weights has recorded these settings.
    let recorded = |flag: Arg, fallback: Option<&str>| {
        let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
        match help.split_once("[default: ") {
            Some((text, usual)) => {
                let fallback = fallback.unwrap_or(usual);
                flag.help(format!("{text}[default: that of the weights' run, else {fallback}"))
            }
            None => flag,
        }
    };
    let eval = |flag: Arg| match flag.get_id().as_str() {
        "model" | "dataset" | "crop_pct" | "superpixels" | VIEWS => recorded(flag, None),
        name if SPLITTING.contains(&name) => recorded(flag, None),
        "val_fraction" => flag.help(
            "Fraction of every class's training images that --split val means [default: that of the weights' run]",
        ),
        _ => flag,
    };
    let predict = |flag: Arg| match (flag.get_id().as_str(), flag.get_help_heading()) {
        ("mean", _) => recorded(flag, Some("0.5]")),
        ("crop_pct", _) => recorded(flag, Some("the whole picture is scaled to fit]")),
        (VIEWS | "superpixels", _) | (_, Some("Network")) => recorded(flag, None),
        _ => flag,
    };
    let all = Cli::command();
    all.mut_subcommand("eval", |it| it.mut_args(eval))
        .mut_subcommand("filters", |it| it.mut_args(eval))
        .mut_subcommand("predict", |it| it.mut_args(predict))
        .mut_subcommand("explain", |it| it.mut_args(predict))
        .mut_subcommand("serve", |it| it.mut_args(predict))
}

/// The value of `--color`, which also applies to errors in the other arguments.
fn colour_of(arguments: impl Iterator<Item = OsString>) -> ColorChoice {
    let arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    let arguments: Vec<String> = arguments.take_while(|argument| argument != "--").collect();
    let separate = arguments.windows(2).find(|pair| pair[0] == "--color").map(|pair| pair[1].as_str());
    let joined = || arguments.iter().find_map(|argument| argument.strip_prefix("--color="));
    let when = separate.or_else(joined).and_then(|when| ColorChoice::from_str(when, false).ok());
    when.unwrap_or_default()
}

impl Cli {
    /// Parses the command line. If it is invalid or asks for help, the program ends.
    pub fn from_command_line() -> Self {
        let matches = definition().color(colour_of(std::env::args_os())).try_get_matches();
        matches.and_then(|matches| Self::from_arg_matches(&matches)).unwrap_or_else(|error| {
            // clap ignores that help or the version could not be printed.
            let printed = print_usage_error(&error).and_then(|()| std::io::stdout().flush());
            let is_lost = |error: std::io::Error| error.kind() != ErrorKind::BrokenPipe;
            std::process::exit(if printed.is_err_and(is_lost) { 1 } else { error.exit_code() })
        })
    }

    /// Whether to write colours to stderr. Only those of `--color always` are control characters of `--progress plain`.
    fn is_coloured(&self) -> bool {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let is_plain = matches!(&self.command, Command::Train(args) if args.progress() == ProgressMode::Plain);
        let without = is_plain || set("NO_COLOR").is_some() || set("TERM").is_some_and(|term| term == "dumb");
        match self.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => std::io::stderr().is_terminal() && !without,
        }
    }

    /// Runs the subcommand.
    ///
    /// # Errors
    /// Those of the subcommand, with their context; `main` prints them.
    pub fn run(self) -> Result<ExitCode> {
        let coloured = self.is_coloured();
        match self.command {
            Command::Train(args) => train::run(*args, coloured),
            Command::LrFind(args) => lr_find::run(*args),
            Command::Eval(args) => eval::run(&args),
            Command::Report(args) => report::run(&args),
            Command::Verify(args) => verify::run(&args),
            Command::Predict(args) => predict::run(&args),
            Command::Explain(args) => explain::run(&args),
            Command::Filters(args) => filters::run(&args),
            Command::Serve(args) => serve::run(&args),
            Command::Summary(args) => summary::run(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Fetch(args) => fetch::run(&args),
            Command::Completions(args) => completions::run(&args),
            Command::Man => completions::man(),
        }
    }
}

/// Prints help, the version or an error of the command line. An argument may contain control characters, which a terminal
/// would interpret; an error that quotes them is printed without colours, with them escaped.
fn print_usage_error(error: &clap::Error) -> std::io::Result<()> {
    let text = error.render().to_string();
    let lines = text.split('\n').map(printable).collect::<Vec<_>>();
    match error.use_stderr() && lines.iter().any(|line| matches!(line, Cow::Owned(_))) {
        true => Stderr.write_all(lines.join("\n").as_bytes()),
        false => error.print(),
    }
}

/// Sends log messages of level INFO and above to stderr; `RUST_LOG` changes the level.
pub fn init_logging(cli: &Cli) {
    use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt};
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    fmt()
        .with_env_filter(filter)
        .with_target(false)
        .without_time()
        .with_ansi(cli.is_coloured())
        .with_writer(|| Stderr)
        .log_internal_errors(false)
        .init();
}

/// Prints an error and its causes in one paragraph on stderr. The exit code is 2 for a usage error, else 1.
pub fn report_error(error: &anyhow::Error) -> ExitCode {
    let text = format!("{error:#}");
    let paragraph = text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    // File names from an archive may contain control characters, which a terminal would interpret.
    // If stderr is closed, only the exit code reports the error.
    let _ = writeln!(Stderr, "error: {}", printable(&paragraph));
    ExitCode::from(if error.downcast_ref::<UsageError>().is_some() { 2 } else { 1 })
}

/// Looks up a model; an unknown name is a usage error.
fn find_model(name: &str) -> Result<&'static Model> {
    models::find(name).map_err(|error| {
        let meant = suggestion(name, models::TABLE.iter().map(|model| model.name));
        UsageError(format!("{error}{meant}")).into()
    })
}

/// The file that `--weights` means, and the configuration of the run that produced it, if that is known.
fn weights_and_config(given: &Path) -> Result<(PathBuf, Option<RunConfig>)> {
    let weights = Outputs::weights_file("--weights", given)?;
    let description = weights_description(&weights)?;
    let config = RunConfig::of_weights(&weights, description.as_deref())?;
    Ok((weights, config))
}

/// Warns that results depend on assumptions, because neither the weights nor a configuration describes their training.
fn warn_of_assumptions(weights: &Path, assumed: impl IntoIterator<Item = Option<String>>) {
    let assumed: Vec<String> = assumed.into_iter().flatten().collect();
    if !assumed.is_empty() {
        let shown = weights.display();
        warn!("nothing says what {shown} was trained for, so this is assumed: {}", assumed.join(", "));
    }
}

/// The model of a weights file and its run's activation: from the flags, else from that run, else the default.
fn model_of_weights(
    given: &Given<ModelSettings>,
    path: &Path,
    config: Option<&RunConfig>,
) -> Result<(&'static Model, Option<ActivationChoice>)> {
    let model = match (&given.0.model, config) {
        (None, Some(run)) => models::find(run.model())
            .with_context(|| format!("{} is described as weights of a network that is not known", path.display()))?,
        _ => find_model(given.or_defaults()?.model.as_deref().unwrap_or_default())?,
    };
    let activation = config.filter(|config| config.model() == model.name).and_then(|it| it.settings.model.activation);
    Ok((model, activation))
}

/// The flags of commands that build a network without a data set.
#[derive(Args, Clone, Default, PartialEq)]
struct NetworkFlags {
    #[command(flatten)]
    model: Given<ModelSettings>,
    #[command(flatten)]
    variation: Given<VariationSettings>,
    #[command(flatten)]
    input: Given<InputSettings>,
}

impl NetworkFlags {
    /// Builds the network that the flags describe.
    fn build(&self) -> Result<Network> {
        let model = find_model(self.model.or_defaults()?.model.as_deref().unwrap_or_default())?;
        let input = &self.input.0;
        let network = build_network(model, input.shape(model.input), input.classes.unwrap_or(model.classes))?;
        self.variation.0.apply(self.model.0.apply(network, None))
    }
}
