//! The dashboard of a run: a thread that draws its curves, speed and messages on the whole terminal.

mod frame;
mod panel;
mod state;
mod view;

use std::io::{self, IsTerminal};
use std::panic;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use console::Term;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::widgets::Widget;

pub use state::{RunFacts, RunState, clock};
pub use view::View;

use super::cover;

/// The smallest terminal that the dashboard fits.
pub const LEAST_COLUMNS: u16 = 80;
pub const LEAST_ROWS: u16 = 20;

/// Time between two frames.
const FRAME: Duration = Duration::from_millis(250);

/// The dashboard of this process. While the terminal is too small, or the process is not in its foreground, it is not
/// shown; see [`cover::is_on`]. Dropping it leaves the terminal as it was.
pub struct Dashboard {
    state: Arc<Mutex<RunState>>,
    /// Dropped to end the thread.
    running: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Dashboard {
    /// Starts to show a run on the terminal of stderr.
    ///
    /// # Errors
    /// The system allows no further thread.
    pub fn start(state: RunState, coloured: bool) -> io::Result<Self> {
        close_before_panics();
        let state = Arc::new(Mutex::new(state));
        let (running, ended) = mpsc::channel();
        let shared = Arc::clone(&state);
        let thread = thread::Builder::new().name("dashboard".into()).spawn(move || draw(&shared, coloured, &ended))?;
        Ok(Self { state, running: Some(running), thread: Some(thread) })
    }

    /// Changes what is shown.
    pub fn update(&self, change: impl FnOnce(&mut RunState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        cover::close();
        drop(self.running.take());
        if let Some(thread) = self.thread.take() {
            // If the thread has panicked, the panic's message was printed.
            let _ = thread.join();
        }
    }
}

/// Whether the terminal of stderr has room for the dashboard.
pub fn fits_terminal() -> bool {
    area(&Term::stderr()).is_some()
}

fn area(terminal: &Term) -> Option<Rect> {
    let (rows, columns) = terminal.size_checked()?;
    (rows >= LEAST_ROWS && columns >= LEAST_COLUMNS).then(|| Rect::new(0, 0, columns, rows))
}

fn draw(state: &Mutex<RunState>, coloured: bool, ended: &Receiver<()>) {
    let (begun, terminal) = (Instant::now(), Term::stderr());
    let stdout_is_terminal = io::stdout().is_terminal();
    loop {
        match area(&terminal).filter(|_| is_in_foreground()) {
            Some(area) => {
                cover::enter(stdout_is_terminal);
                // Drawn without the lock, for which the training would wait.
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner).clone();
                state.elapsed = begun.elapsed();
                let mut buffer = Buffer::empty(area);
                View { state: &state, messages: &cover::messages(), coloured }.render(area, &mut buffer);
                cover::show(&frame::bytes(&buffer));
            }
            None => cover::leave(),
        }
        if ended.recv_timeout(FRAME) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Whether the process may draw: it would draw over the shell's output after Ctrl-Z and `bg`.
#[cfg(unix)]
fn is_in_foreground() -> bool {
    // SAFETY: both only return a number. It is below 0 if stderr is not the process's own terminal, but another.
    let [foreground, own] = unsafe { [libc::tcgetpgrp(libc::STDERR_FILENO), libc::getpgrp()] };
    foreground < 0 || foreground == own
}

#[cfg(not(unix))]
fn is_in_foreground() -> bool {
    true
}

/// The message of a panic must appear on the uncovered terminal.
fn close_before_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            cover::close();
            print(panic);
        }));
    });
}
