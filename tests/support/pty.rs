//! Programs on a terminal of their own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A program whose stdin, stdout and stderr are a terminal.
pub struct OnTerminal {
    pub child: Child,
    /// `None` after it was closed.
    master: Option<File>,
    terminal: OwnedFd,
    output: Arc<Mutex<Vec<u8>>>,
    closed: Arc<AtomicBool>,
}

/// Reads what the program writes, so that it never has to wait.
struct Reader {
    master: File,
    output: Arc<Mutex<Vec<u8>>>,
    closed: Arc<AtomicBool>,
}

impl Reader {
    fn read_until_closed(mut self) {
        let mut bytes = [0; 4096];
        while !self.closed.load(Ordering::SeqCst) {
            let mut poll = libc::pollfd { fd: self.master.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: there is one entry.
            if unsafe { libc::poll(&raw mut poll, 1, 20) } == 1 {
                let Ok(count @ 1..) = self.master.read(&mut bytes) else { return };
                self.output.lock().expect("the output").extend(&bytes[..count]);
            }
        }
    }
}

/// A new terminal: its two ends.
fn open(columns: u16, rows: u16) -> (File, OwnedFd) {
    let (mut master, mut terminal) = (0, 0);
    let size = size(columns, rows);
    // SAFETY: openpty fills in both numbers if it succeeds; they are then open files that nobody else owns.
    unsafe {
        let opened = libc::openpty(
            &raw mut master,
            &raw mut terminal,
            ptr::null_mut(),
            ptr::null_mut(),
            (&raw const size).cast_mut(),
        );
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        for file in [master, terminal] {
            libc::fcntl(file, libc::F_SETFD, libc::FD_CLOEXEC);
        }
        (File::from_raw_fd(master), OwnedFd::from_raw_fd(terminal))
    }
}

fn size(columns: u16, rows: u16) -> libc::winsize {
    libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl OnTerminal {
    /// Starts a program as the leader of a session with this terminal, of type `term`.
    pub fn start(mut command: Command, columns: u16, rows: u16, term: &str) -> Self {
        let (master, terminal) = open(columns, rows);
        let end = || terminal.try_clone().expect("another descriptor");
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", term).env_remove("NO_COLOR");
        // SAFETY: the functions may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                let failed = libc::setsid() < 0
                    || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0
                    || libc::signal(libc::SIGINT, libc::SIG_DFL) == libc::SIG_ERR
                    || libc::signal(libc::SIGHUP, libc::SIG_DFL) == libc::SIG_ERR;
                if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        let child = command.spawn().expect("it starts");
        let output = Arc::new(Mutex::new(Vec::new()));
        let closed = Arc::new(AtomicBool::new(false));
        let reader = Reader {
            master: master.try_clone().expect("another descriptor"),
            output: Arc::clone(&output),
            closed: Arc::clone(&closed),
        };
        thread::spawn(move || reader.read_until_closed());
        Self { child, master: Some(master), terminal, output, closed }
    }

    /// Everything that was written to the terminal so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().expect("the output")).into_owned()
    }

    /// Waits until the output fulfils a condition, for up to a minute.
    pub fn wait_until(&mut self, what: &str, ready: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !ready(&self.output()) {
            let end = self.child.try_wait().expect("a status");
            let late = begun.elapsed() > Duration::from_secs(60);
            assert!(!late && end.is_none(), "{what} never came ({end:?}): {:?}", self.output());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.master.as_mut().expect("an open terminal").write_all(keys.as_bytes()).expect("written");
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        let size = size(columns, rows);
        // SAFETY: the request reads a size.
        let resized = unsafe { libc::ioctl(self.terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(resized, 0, "{}", std::io::Error::last_os_error());
    }

    /// Closes the terminal, as when its window or connection is closed.
    pub fn hang_up(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        self.master = None;
    }

    /// Waits for the end of the program.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().expect("it ends");
        // What the terminal has not yet passed on.
        thread::sleep(Duration::from_millis(100));
        status
    }

    /// The terminal's modes: flags of input, output, control and local, and the control characters.
    pub fn modes(&self) -> ([libc::tcflag_t; 4], Vec<libc::cc_t>) {
        let mut modes = std::mem::MaybeUninit::<libc::termios>::uninit();
        // SAFETY: tcgetattr fills in the modes if it succeeds.
        let modes = unsafe {
            assert_eq!(libc::tcgetattr(self.terminal.as_raw_fd(), modes.as_mut_ptr()), 0);
            modes.assume_init()
        };
        ([modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag], modes.c_cc.to_vec())
    }
}
