//! A process-wide re-entrant lock around captures and operations that may break them: while one backend captures a step,
//! no other may initialise cuBLAS, load kernels, allocate page-locked memory, or release any of them.
//!
//! Synchronising the context, which all backends on a device share, invalidates a thread-local capture in another
//! thread. This backend never synchronises it, but `cublasDestroy` is documented to, and the documentation does not
//! rule it out for initialising cuBLAS, loading modules and allocating page-locked memory. All of these are rare and
//! captures are short, so one lock suffices.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// The thread that has the turn, and how often it has taken it: the lock is re-entrant.
static TAKEN: Mutex<Option<(ThreadId, usize)>> = Mutex::new(None);
static OVER: Condvar = Condvar::new();

/// The lock's guard: dropping it ends the turn. A type whose fields must be dropped within a turn takes it in `drop`
/// and stores it in its last field: fields are dropped after `drop`, in declaration order.
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

/// Ignores poisoning: a panic cannot leave the state inconsistent.
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
    fn turns_are_reentrant_and_exclude_other_threads() {
        let (outer, inner) = (Turn::take(), Turn::take());
        let (done, taken) = mpsc::channel();
        let other = thread::spawn(move || {
            let _turn = Turn::take();
            done.send(()).expect("the test listens");
        });
        drop(inner);
        assert!(taken.recv_timeout(Duration::from_millis(50)).is_err(), "the outer turn has not ended");
        drop(outer);
        taken.recv_timeout(Duration::from_secs(10)).expect("the turn has ended");
        other.join().expect("no panic");
    }
}
