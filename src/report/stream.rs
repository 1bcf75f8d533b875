//! Standard output and standard error whose reader may go away: neither may cost a run, or panic.

use std::io::{self, ErrorKind, Write};

/// Results. Where the reader has gone (`| head`), the program has nothing left to do and ends without complaint.
pub struct Stdout(io::Stdout);

impl Default for Stdout {
    fn default() -> Self {
        Self(io::stdout())
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(end_where_nobody_reads)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(end_where_nobody_reads)
    }
}

fn end_where_nobody_reads(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    error
}

/// Logs and errors. What cannot be written is dropped: there is nowhere left to say so.
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
