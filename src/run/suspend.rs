//! Ctrl-Z and Ctrl-\ while the dashboard covers the terminal: it is uncovered before the process stops or ends.

use anyhow::Result;

/// Handles these signals from now on, unless this process was started to ignore them.
///
/// # Errors
/// The system allows no further handler or thread.
#[cfg(unix)]
pub(super) fn handle_suspension() -> Result<()> {
    use anyhow::Context;
    use signal_hook::consts::{SIGQUIT, SIGTSTP};

    use super::signals::is_ignored;
    use crate::report::cover;

    let signals: Vec<i32> = [SIGTSTP, SIGQUIT].into_iter().filter(|&signal| !is_ignored(signal)).collect();
    let mut signals = signal_hook::iterator::Signals::new(signals).context("cannot listen for Ctrl-Z")?;
    let wait = move || {
        // The dashboard returns by itself, when the process is in the foreground again.
        signals.forever().for_each(|signal| cover::leave_during(|| act_as_usual(signal)));
    };
    std::thread::Builder::new().name("suspend".into()).spawn(wait).context("cannot start a thread for signals")?;
    Ok(())
}

#[cfg(not(unix))]
pub(super) fn handle_suspension() -> Result<()> {
    Ok(())
}

/// Does what the signal does without a handler. Sent to the process and not raised as SIGSTOP, because the system stops
/// no process at Ctrl-Z that nobody could continue.
#[cfg(unix)]
fn act_as_usual(signal: i32) {
    use std::mem::MaybeUninit;
    use std::ptr;

    let mut handler = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: zeros are the default action with an empty mask. `handler` is read only if it was filled in.
    unsafe {
        let usual = MaybeUninit::<libc::sigaction>::zeroed();
        if libc::sigaction(signal, usual.as_ptr(), handler.as_mut_ptr()) == 0 {
            libc::kill(libc::getpid(), signal);
            libc::sigaction(signal, handler.as_ptr(), ptr::null_mut());
        }
    }
}
