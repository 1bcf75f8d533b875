//! Ctrl-C, SIGTERM and a lost terminal: they ask a run to save and end.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};

/// From here on Ctrl-C, SIGTERM and a lost terminal end the run after the step it is at: they set the flag. A second one
/// ends the process at once. What this process was started to ignore (`nohup`, a script's background jobs) stays so.
pub fn install_signal_handlers() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = vec![SIGINT, SIGTERM];
    #[cfg(unix)]
    signals.push(signal_hook::consts::SIGHUP);
    for signal in signals.into_iter().filter(|&signal| !is_ignored(signal)) {
        // In this order, so that the second signal finds the flag set by the first.
        signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .with_context(|| format!("cannot listen for signal {signal}"))?;
    }
    Ok(stop)
}

/// Whether this process was started with a signal ignored, where the system tells.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Exit code of a run that was interrupted and can be resumed, as shells count Ctrl-C.
pub const INTERRUPTED: u8 = 130;
