//! `cnn-cuda serve`

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use tracing::{info, warn};

use super::device::{Task, with_backend};
use super::evaluated::test_set;
use super::trained::{Described, DescribedFlags};
use super::weights_and_config;
use crate::checkpoint::load_weights;
use crate::data::{Dataset, digits};
use crate::network::Weights;
use crate::ops::{Backend, TestViews};
use crate::report::stream::Stdout;
use crate::run::Outputs;
use crate::serve::{About, Client, Engine, Hosts, Job, RunFolder, Samples, SamplesState, Site};
use crate::serve::{routes, serve, stamp, watch};
use crate::settings::{self, DeviceSettings, Given, RunConfig, UsageError, short_name};
use crate::shape::Shape;

/// Threads that decode pictures.
const DECODERS: usize = 4;

#[derive(Args)]
pub struct ServeArgs {
    /// Weights (safetensors, or .pth of torch.save), or the folder of a run; by default the newest run in runs/
    #[arg(long, value_name = "FILE", conflicts_with = "run")]
    weights: Option<PathBuf>,
    /// Folder of a run: also shows its curves, and reads its weights again whenever they change
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Port of the page; 0 takes any free one
    #[arg(long, value_name = "PORT", default_value = "8080")]
    port: u16,
    /// Address to listen on; with another than a loopback address, other machines can use the page
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    #[command(flatten)]
    described: DescribedFlags,
    #[command(flatten)]
    device: Given<DeviceSettings>,
}

/// Serves the page until the process ends.
pub fn run(args: &ServeArgs) -> Result<ExitCode> {
    let newest = || newest_run(Path::new("runs"));
    let (path, config, run) = match (&args.weights, &args.run) {
        (Some(weights), _) => {
            let (path, config) = weights_and_config(weights)?;
            (path, config, None)
        }
        (None, Some(folder)) => of_run(folder)?,
        (None, None) => of_run(&newest()?)?,
    };
    let described = args.described.describe(&path, config)?;
    if described.config.is_none() {
        args.described.warn_of_defaults(&path, &described.network, described.normalise.shape);
    }
    // Only a run may still have to write its weights.
    let stamp = stamp(&path);
    let weights = match run.is_some() && stamp.is_none() {
        true => None,
        false => Some(load_weights(&path, &described.network)?),
    };
    let listener = listen(args.host, args.port)?;
    with_backend(&args.device.or_defaults()?, Serving { described, weights, path, stamp, run, listener })?;
    Ok(ExitCode::SUCCESS)
}

/// The files of a run.
fn of_run(folder: &Path) -> Result<(PathBuf, Option<RunConfig>, Option<RunFolder>)> {
    let shown = folder.display();
    let config = RunConfig::read(folder).with_context(|| format!("--run {shown} is not the folder of a run"))?;
    let title = format!("{} on {}, seed {}", config.model(), short_name(config.dataset()), config.seed());
    let (weights, metrics) = (folder.join(Outputs::WEIGHTS), folder.join(Outputs::METRICS));
    let run = RunFolder::new(weights.clone(), metrics, title);
    Ok((weights, Some(config), Some(run)))
}

/// The run whose files were written last.
fn newest_run(runs: &Path) -> Result<PathBuf> {
    let written = |folder: &Path| -> Option<SystemTime> {
        let files = [settings::FILE, Outputs::METRICS, Outputs::WEIGHTS].map(|name| folder.join(name));
        files[0].is_file().then(|| files.iter().filter_map(|file| file.metadata().ok()?.modified().ok()).max())?
    };
    let folders = fs::read_dir(runs).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let newest = folders.filter_map(|folder| Some((written(&folder)?, folder))).max();
    let (_, folder) = newest.ok_or_else(|| {
        UsageError("serve needs --weights FILE or --run DIR, because there is no run in the folder runs".into())
    })?;
    info!("showing the newest run, {}", folder.display());
    Ok(folder)
}

fn listen(host: IpAddr, port: u16) -> Result<TcpListener> {
    let address = SocketAddr::new(host, port);
    let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => {
            anyhow!(
                "--port {port} is in use, perhaps by another `cnn-cuda serve`; choose another, or 0 for any free one"
            )
        }
        ErrorKind::AddrNotAvailable => anyhow!("--host {host} is not an address of this machine"),
        ErrorKind::PermissionDenied => anyhow!("--port {port} is reserved for the system; choose one above 1023"),
        _ => anyhow!(error).context(format!("cannot listen on {address}")),
    })?;
    Ok(listener)
}

struct Serving {
    described: Described,
    /// `None` if the run has not written any.
    weights: Option<Weights>,
    path: PathBuf,
    stamp: Option<(SystemTime, u64)>,
    run: Option<RunFolder>,
    listener: TcpListener,
}

impl Task for Serving {
    type Output = ();

    fn run<B: Backend>(self, mut backend: B) -> Result<()> {
        let Self { described, weights, path, stamp, run, listener } = self;
        let Described { network, classes, normalise, preparation, config } = described;
        let (client, jobs): (Client, Receiver<Job>) = Client::new();
        let views = config.as_ref().map_or(TestViews::None, |config| config.settings.evaluation.views(None));
        let note = format!(
            "eval and predict average several views of each picture ({}), and this page does not",
            views.name()
        );
        let notes = if views == TestViews::None { Vec::new() } else { vec![note] };
        let about = About { weights: path.display().to_string(), device: backend.info().name, notes };
        let site = Site::new(network, classes, preparation, about, client, run);
        let initial = || site.network.initial_weights(0);
        let loaded = weights.is_some();
        let engine = Engine::new(&mut backend, &site.network, &normalise, weights.unwrap_or_else(initial))?;
        if loaded {
            site.weights_loaded();
        }
        start_thread("samples", &site, move |site| {
            let samples = load_samples(config.as_ref(), site.network.input(), site.network.classes());
            site.set_samples(
                samples.map_or_else(|error| SamplesState::Missing(format!("{error:#}")), SamplesState::Ready),
            );
        })?;
        start_thread("watch", &site, move |site| {
            if let Some(run) = &site.run {
                watch(site, run, stamp.filter(|_| loaded));
            }
        })?;
        announce(&site, listener.local_addr()?)?;
        start_thread("server", &site, move |site| {
            let ended = answer_all(site, listener);
            let error = ended.err().unwrap_or_else(|| anyhow!("the server has ended"));
            site.client.send(Job::Stop(error));
        })?;
        engine.run(jobs)
    }
}

/// Prints the address, and what follows from it.
fn announce(site: &Site, address: SocketAddr) -> Result<()> {
    if !address.ip().is_loopback() {
        let port = address.port();
        warn!(
            "--host {}: everyone who can reach port {port} of this machine can use the page; there is no password and no \
             encryption",
            address.ip()
        );
    }
    info!("showing {}; Ctrl-C ends the server", site.about.weights);
    writeln!(Stdout::default(), "http://{address}/")?;
    Ok(())
}

fn start_thread(name: &str, site: &Arc<Site>, work: impl FnOnce(&Arc<Site>) + Send + 'static) -> Result<()> {
    let site = Arc::clone(site);
    let started = thread::Builder::new().name(name.into()).spawn(move || work(&site));
    started.with_context(|| format!("cannot start the thread {name}"))?;
    Ok(())
}

fn answer_all(site: &Arc<Site>, listener: TcpListener) -> Result<()> {
    let hosts = if listener.local_addr()?.ip().is_loopback() { Hosts::Loopback } else { Hosts::Any };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_io().enable_time().max_blocking_threads(DECODERS).build();
    let runtime = runtime.context("cannot start the server")?;
    runtime.block_on(serve(listener, routes(Arc::clone(site), hosts))).context("the server has ended")
}

/// The samples of the run's data set, if it is still there, or the built-in digits if they fit.
fn load_samples(config: Option<&RunConfig>, input: Shape, classes: usize) -> Result<Samples> {
    let dataset: Dataset = match config {
        Some(config) => test_set(config)?,
        None if input == Shape::new(28, 28, 1) && classes == 10 => digits::generate(),
        None => return Err(anyhow!("nothing says which data set these weights were trained on")),
    };
    Samples::of(&dataset, input, classes)
}
