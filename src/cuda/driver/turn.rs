//! Turns at what must not happen while a step is captured: a backend captures while no other one of the process starts
//! cuBLAS, loads kernels, takes page-locked memory, or gives any of them back.
//!
//! A thread-local capture is ended from another thread by whatever synchronises the context, which all backends on one
//! device share. This backend itself never does, but `cublasDestroy` does by its documentation, and of cuBLAS's start, of
//! modules and of page-locked memory no documentation says that they never do. All of these are rare and captures are
//! short, so one lock serves them all.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// Whose turn it is, and how often that thread has taken it: a turn within a turn is no wait.
static TAKEN: Mutex<Option<(ThreadId, usize)>> = Mutex::new(None);
static OVER: Condvar = Condvar::new();

/// A turn, over when it is dropped. A type whose parts are dropped in a turn takes it in its `drop` and keeps it in its last
/// field, because fields are dropped after that and in their order.
#[derive(Debug)]
pub(in crate::cuda) struct Turn(());

impl Turn {
    /// Waits until no other thread has a turn.
    pub fn take() -> Self {
        let me = thread::current().id();
        let mut taken = lock();
        while taken.is_some_and(|(thread, _)| thread != me) {
            taken = OVER.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken = Some((me, taken.map_or(0, |(_, times)| times) + 1));
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = lock();
        *taken = taken.and_then(|(thread, times)| (times > 1).then_some((thread, times - 1)));
        OVER.notify_one();
    }
}

/// A panic elsewhere leaves nothing half done here.
fn lock() -> MutexGuard<'static, Option<(ThreadId, usize)>> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::Turn;

    #[test]
    fn a_turn_within_a_turn_is_no_wait_and_other_threads_wait_for_both() {
        let (outer, inner) = (Turn::take(), Turn::take());
        let (done, taken) = mpsc::channel();
        let other = thread::spawn(move || {
            let _turn = Turn::take();
            done.send(()).expect("the test listens");
        });
        drop(inner);
        assert!(taken.recv_timeout(Duration::from_millis(50)).is_err(), "the outer turn is not over");
        drop(outer);
        taken.recv_timeout(Duration::from_secs(10)).expect("the turn is over");
        other.join().expect("no panic");
    }
}
