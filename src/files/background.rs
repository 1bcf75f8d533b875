//! Writes files on a background thread, one write at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result, anyhow};
use tracing::warn;

/// At most one write in flight. The next call of `submit` or `finish` returns its error, once.
#[derive(Debug, Default)]
pub struct BackgroundWriter {
    in_flight: Option<JoinHandle<Result<()>>>,
    failed: Arc<AtomicBool>,
}

impl BackgroundWriter {
    /// Waits for the previous write, then starts `write` and returns.
    ///
    /// # Errors
    /// If the previous write failed, or the thread cannot be started; in both cases `write` does not start.
    pub fn submit(&mut self, write: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        self.finish()?;
        let failed = Arc::clone(&self.failed);
        let run = move || {
            // The closure owns its data, so no one can observe state that a panic left inconsistent.
            let result = catch_unwind(AssertUnwindSafe(write))
                .unwrap_or_else(|_| Err(anyhow!("the thread that writes files panicked")));
            failed.store(result.is_err(), Ordering::Relaxed);
            result
        };
        let thread = Builder::new().name("writer".into()).spawn(run).context("cannot start a thread to write files")?;
        self.in_flight = Some(thread);
        Ok(())
    }

    /// Whether the last write has already failed. Never waits.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Waits for the write in flight.
    ///
    /// # Errors
    /// The error of that write.
    pub fn finish(&mut self) -> Result<()> {
        let Some(thread) = self.in_flight.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(anyhow!("the thread that writes files panicked")))
    }
}

/// Waits for a write in flight, so that the program never exits in the middle of one.
impl Drop for BackgroundWriter {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            warn!("{error:#}");
        }
    }
}
