//! Ctrl-C, SIGTERM and SIGHUP, which ask a run to save and stop.

#[cfg(unix)]
use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
#[cfg(unix)]
use std::thread;
#[cfg(unix)]
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
#[cfg(unix)]
use tracing::{info, warn};

#[cfg(unix)]
use crate::report::{cover, stream::Stderr};

/// Exit code of an interrupted run that was saved: 128 + SIGINT, as shells report Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// Exit code of a process that ended at a signal without a save.
const UNSAVED: u8 = 3;

/// What a signal means, which depends on what the process is doing. Signals are sent to the process, so its state is
/// global.
static PHASE: AtomicU8 = AtomicU8::new(STARTING);
/// There is nothing to save: a signal ends the process.
const STARTING: u8 = 0;
/// The first signal asks the run to save and stop, the second ends the process.
const RUNNING: u8 = 1;
/// The last save is in progress, after which the process ends.
const ENDING: u8 = 2;
/// The run is complete and saved, and its report is being made: a signal ends the process without a report.
const REPORTING: u8 = 3;

/// Whether there was a signal during the last save.
static SIGNALLED_AT_END: AtomicBool = AtomicBool::new(false);

/// Wrappers such as `timeout` send a signal twice, so one this soon after the first is not a second request.
#[cfg(unix)]
const REPEATED: Duration = Duration::from_secs(1);

/// Held while a run's files are written.
static SAVING: Mutex<()> = Mutex::new(());

/// Writes a run's files; a signal does not end the process meanwhile.
pub(super) fn while_saving<T>(write: impl FnOnce() -> T) -> T {
    let _guard = SAVING.lock().unwrap_or_else(PoisonError::into_inner);
    write()
}

/// From now on the run can be resumed, so a signal asks it to save and stop.
pub(super) fn begin_run() {
    PHASE.store(RUNNING, Ordering::SeqCst);
}

/// From now on signals have no effect, because the process saves and ends.
pub(super) fn begin_last_save() {
    PHASE.store(ENDING, Ordering::SeqCst);
}

/// From now on a signal ends the process, because the run is saved and only its report is not. False if there was a signal
/// since the last save began, so that no report is wanted.
pub(super) fn begin_report() -> bool {
    PHASE.store(REPORTING, Ordering::SeqCst);
    !SIGNALLED_AT_END.load(Ordering::SeqCst)
}

/// Makes Ctrl-C, SIGTERM and SIGHUP (a lost terminal) end the process, or once the run has begun, set the returned flag,
/// so that the run stops after its current step. A second signal ends the process, after a save that is in progress; on
/// Unix, not within a second of the first. Signals that this process was started to ignore (by `nohup`, or as a script's
/// background job) stay ignored.
pub fn install_signal_handlers() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = vec![SIGINT, SIGTERM];
    #[cfg(unix)]
    signals.push(signal_hook::consts::SIGHUP);
    signals.retain(|&signal| !is_ignored(signal));
    listen(signals, &stop)?;
    Ok(stop)
}

/// A thread handles the signals, since a signal handler must neither log nor wait.
#[cfg(unix)]
fn listen(signals: Vec<i32>, stop: &Arc<AtomicBool>) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new(signals).context("cannot listen for signals")?;
    let stop = Arc::clone(stop);
    let mut first = None;
    let wait = move || signals.forever().for_each(|_| handle(&stop, &mut first));
    thread::Builder::new().name("signals".into()).spawn(wait).context("cannot start a thread for signals")?;
    Ok(())
}

#[cfg(unix)]
fn handle(stop: &AtomicBool, first: &mut Option<Instant>) {
    let is_running = PHASE.load(Ordering::SeqCst) == RUNNING;
    if is_running && first.is_some_and(|first| first.elapsed() < REPEATED) {
        return;
    }
    // The cursor is behind the progress bar, or behind the ^C that the terminal shows.
    if stderr().is_terminal() && !cover::is_on() {
        let _ = writeln!(Stderr);
    }
    if is_running && !stop.swap(true, Ordering::SeqCst) {
        *first = Some(Instant::now());
        // At once, because the current step may take long to end.
        info!("finishing the step and saving; press Ctrl-C again to quit without");
        return;
    }
    let _guard = SAVING.lock().unwrap_or_else(PoisonError::into_inner);
    // The phase may have changed during a save.
    match PHASE.load(Ordering::SeqCst) {
        STARTING => {
            warn!("interrupted before the first step; nothing was saved");
            cover::close();
            signal_hook::low_level::exit(UNSAVED.into());
        }
        RUNNING if stop.swap(true, Ordering::SeqCst) => {
            warn!("interrupted a second time; the steps since the last save are lost");
            cover::close();
            signal_hook::low_level::exit(UNSAVED.into());
        }
        REPORTING => {
            warn!("interrupted; the run is complete and saved, but has no report; cnn-cuda report makes it");
            signal_hook::low_level::exit(INTERRUPTED.into());
        }
        _ => {
            SIGNALLED_AT_END.store(true, Ordering::SeqCst);
            info!("saving and ending");
        }
    }
}

#[cfg(not(unix))]
fn listen(signals: Vec<i32>, stop: &Arc<AtomicBool>) -> Result<()> {
    for signal in signals {
        // The shutdown is registered first, so that only a second signal finds the flag set.
        signal_hook::flag::register_conditional_shutdown(signal, UNSAVED.into(), Arc::clone(stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(stop)))
            .with_context(|| format!("cannot listen for signal {signal}"))?;
    }
    Ok(())
}

/// Whether this process was started with a signal ignored, according to Linux's `/proc`.
pub(super) fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}
