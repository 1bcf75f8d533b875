//! Standard output and standard error that do not panic when their pipe is closed.

use std::io::{self, ErrorKind, Write};

/// Standard output, for results. If the reader has closed the pipe (`| head`), the program exits without an error.
pub struct Stdout(io::Stdout);

impl Default for Stdout {
    fn default() -> Self {
        Self(io::stdout())
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(exit_on_broken_pipe)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(exit_on_broken_pipe)
    }
}

fn exit_on_broken_pipe(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    error
}

/// Standard error, for logs and errors. Write errors are ignored, because they could not be reported.
pub struct Stderr(io::Stderr);

impl Default for Stderr {
    fn default() -> Self {
        Self(io::stderr())
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}
