//! Writing files on a thread of its own while the program goes on, one write at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result, anyhow};
use tracing::warn;

/// At most one write in flight. Its error is returned once, by the next call of `submit` or `finish`.
#[derive(Debug, Default)]
pub struct BackgroundWriter {
    in_flight: Option<JoinHandle<Result<()>>>,
    failed: Arc<AtomicBool>,
}

impl BackgroundWriter {
    /// Waits for the write before, then starts `write` and returns.
    ///
    /// # Errors
    /// Those of the write before, or no thread can be started; `write` has not begun then.
    pub fn submit(&mut self, write: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        self.finish()?;
        let failed = Arc::clone(&self.failed);
        let run = move || {
            // What it has of the program is its own, so nobody sees what a panic left half done.
            let result = catch_unwind(AssertUnwindSafe(write))
                .unwrap_or_else(|_| Err(anyhow!("the thread that writes files panicked")));
            failed.store(result.is_err(), Ordering::Relaxed);
            result
        };
        let thread = Builder::new().name("writer".into()).spawn(run).context("cannot start a thread to write files")?;
        self.in_flight = Some(thread);
        Ok(())
    }

    /// Whether the last write has failed already. It never waits.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Waits for the write in flight.
    ///
    /// # Errors
    /// Those of that write.
    pub fn finish(&mut self) -> Result<()> {
        let Some(thread) = self.in_flight.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(anyhow!("the thread that writes files panicked")))
    }
}

/// Whatever ends the program's work, a write that has begun is finished.
impl Drop for BackgroundWriter {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            warn!("{error:#}");
        }
    }
}
