//! The terminal while the dashboard covers it: what the program prints is kept, and appears when the cover is taken off.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Switches to the alternate screen and hides the cursor.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[2J";
/// The opposite. It also resets colours, and clears a line in which a progress bar was left.
pub const LEAVE: &[u8] = b"\x1b[0m\x1b[?1049l\x1b[?25h\r\x1b[K";

/// The number of last messages that the dashboard can show.
const MESSAGES: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

struct Cover {
    /// From now on the terminal stays uncovered.
    is_closed: bool,
    keeps_stdout: bool,
    kept: Vec<(Stream, Vec<u8>)>,
    messages: VecDeque<String>,
}

/// The terminal belongs to the process, so what covers it is global. Frames are written with the lock held, so that none
/// follows after the terminal was uncovered.
static COVER: Mutex<Cover> =
    Mutex::new(Cover { is_closed: false, keeps_stdout: false, kept: Vec::new(), messages: VecDeque::new() });

/// Whether the terminal is covered. Apart from the lock, because a signal handler reads it.
static IS_ON: AtomicBool = AtomicBool::new(false);

fn lock() -> MutexGuard<'static, Cover> {
    COVER.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn is_on() -> bool {
    IS_ON.load(Ordering::SeqCst)
}

/// Covers the terminal, unless it is closed or covered already. From now on what is printed to it is kept.
pub(super) fn enter(stdout_is_terminal: bool) {
    let mut cover = lock();
    if !cover.is_closed && !is_on() {
        cover.keeps_stdout = stdout_is_terminal;
        IS_ON.store(true, Ordering::SeqCst);
        cover.show(ENTER);
    }
}

/// Shows a frame, if the terminal is covered.
pub(super) fn show(frame: &[u8]) {
    let mut cover = lock();
    if is_on() {
        cover.show(frame);
    }
}

/// Uncovers the terminal for now, and prints what was kept.
pub(super) fn leave() {
    lock().leave();
}

/// Uncovers the terminal for good. Called before the process ends in any way, or panics.
pub fn close() {
    let mut cover = lock();
    cover.is_closed = true;
    cover.leave();
}

/// Uncovers the terminal while `action` runs, such as one that stops the process.
pub fn leave_during(action: impl FnOnce()) {
    let mut cover = lock();
    cover.leave();
    action();
}

/// The last messages of the program, one a line.
pub(super) fn messages() -> Vec<String> {
    lock().messages.iter().cloned().collect()
}

/// Writes to a stream, or keeps it for later.
///
/// # Errors
/// Writing fails.
pub(super) fn write(stream: Stream, bytes: &[u8]) -> io::Result<()> {
    let mut cover = lock();
    if stream == Stream::Err {
        cover.remember(bytes);
    }
    if is_on() && (stream == Stream::Err || cover.keeps_stdout) {
        cover.kept.push((stream, bytes.to_vec()));
        return Ok(());
    }
    drop(cover);
    print(stream, bytes)
}

fn print(stream: Stream, bytes: &[u8]) -> io::Result<()> {
    match stream {
        Stream::Out => io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()),
        Stream::Err => io::stderr().write_all(bytes),
    }
}

impl Cover {
    /// Writes to the terminal. If it is lost, the cover is closed: the run continues without.
    fn show(&mut self, bytes: &[u8]) {
        if io::stderr().write_all(bytes).is_err() {
            self.is_closed = true;
            self.leave();
        }
    }

    fn leave(&mut self) {
        if IS_ON.swap(false, Ordering::SeqCst) {
            // If the terminal is lost, there is nowhere to report that.
            let _ = io::stderr().write_all(LEAVE);
            for (stream, bytes) in self.kept.drain(..) {
                let _ = print(stream, &bytes);
            }
        }
    }

    fn remember(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        self.messages.extend(text.lines().filter(|line| !line.trim().is_empty()).map(String::from));
        let surplus = self.messages.len().saturating_sub(MESSAGES);
        self.messages.drain(..surplus);
    }
}
