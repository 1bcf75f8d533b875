//! Ctrl-C, SIGTERM and SIGHUP, which ask a run to save and stop.

#[cfg(unix)]
use std::io::{IsTerminal, Write, stderr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
#[cfg(unix)]
use std::thread;

use anyhow::{Context, Result};
#[cfg(unix)]
use tracing::info;

#[cfg(unix)]
use crate::report::stream::Stderr;

/// Makes Ctrl-C, SIGTERM and SIGHUP (a lost terminal) set the returned flag, so that the run stops after its current
/// step. A second signal ends the process at once. Signals that this process was started to ignore (by `nohup`, or as a
/// script's background job) stay ignored.
pub fn install_signal_handlers() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = vec![SIGINT, SIGTERM];
    #[cfg(unix)]
    signals.push(signal_hook::consts::SIGHUP);
    signals.retain(|&signal| !is_ignored(signal));
    for &signal in &signals {
        // The shutdown is registered first, so that only a second signal finds the flag set.
        signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .with_context(|| format!("cannot listen for signal {signal}"))?;
    }
    #[cfg(unix)]
    acknowledge(signals)?;
    Ok(stop)
}

/// Logs the first signal at once, because the current step or evaluation may take long to end. A thread does it, since
/// a signal handler must not log.
#[cfg(unix)]
fn acknowledge(signals: Vec<i32>) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new(signals).context("cannot listen for signals")?;
    let wait = move || {
        if signals.forever().next().is_some() {
            // The cursor is behind the progress bar, or behind the ^C that the terminal shows.
            if stderr().is_terminal() {
                let _ = writeln!(Stderr::default());
            }
            info!("finishing the step and saving; press Ctrl-C again to quit immediately");
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).context("cannot start a thread for signals")?;
    Ok(())
}

/// Whether this process was started with a signal ignored, according to Linux's `/proc`.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Exit code of an interrupted run that can be resumed: 128 + SIGINT, as shells report Ctrl-C.
pub const INTERRUPTED: u8 = 130;
