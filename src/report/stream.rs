//! Standard output and standard error that do not panic when their pipe is closed; JSON for standard output.

use std::io::{self, ErrorKind, Write};

use anyhow::Result;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use super::cover::{self, Stream};

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

/// Writes a line of JSON. All control characters of strings are escaped, not only those that JSON requires: a terminal
/// would interpret the others, too.
///
/// # Errors
/// Writing to `out` fails.
pub fn write_json(out: &mut impl Write, value: &impl Serialize) -> Result<()> {
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut *out, Escaping))?;
    Ok(writeln!(out)?)
}

struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, control)) = rest.char_indices().find(|(_, c)| c.is_control()) {
            CompactFormatter.write_string_fragment(writer, &rest[..at])?;
            write!(writer, "\\u{:04x}", u32::from(control))?;
            rest = &rest[at + control.len_utf8()..];
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}

/// Standard error, for logs and errors. Write errors are ignored, because they could not be reported. While the dashboard
/// covers the terminal, it shows what is written here.
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = cover::write(Stream::Err, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard output of a run, whose reader may close it without ending the run. What the dashboard would hide appears
/// after it.
pub struct RunStdout;

impl Write for RunStdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        cover::write(Stream::Out, bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
