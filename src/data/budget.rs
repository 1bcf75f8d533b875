//! Memory that threads share: a thread waits until what it needs is free.

use std::sync::{Condvar, Mutex, PoisonError};

/// A number of bytes that may be in use at once.
pub struct Budget {
    bytes: u64,
    used: Mutex<u64>,
    released: Condvar,
}

/// Bytes that are in use until this is dropped.
pub struct Permit {
    budget: &'static Budget,
    bytes: u64,
}

impl Budget {
    pub const fn new(bytes: u64) -> Self {
        Self { bytes, used: Mutex::new(0), released: Condvar::new() }
    }

    /// Waits until `bytes` are free. More than the whole budget are granted when nothing else is in use.
    pub fn take(&'static self, bytes: u64) -> Permit {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && *used + bytes > self.bytes {
            used = self.released.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        Permit { budget: self, bytes }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.budget.used.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.budget.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Budget;

    #[test]
    fn no_more_than_the_budget_is_in_use_unless_by_one_alone() {
        static BUDGET: Budget = Budget::new(100);
        static USED: AtomicU64 = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                scope.spawn(move || {
                    for round in 0..200 {
                        let bytes = [10, 40, 60, 150][(thread + round) as usize % 4];
                        let permit = BUDGET.take(bytes);
                        let used = USED.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        assert!(used <= 100 || used == bytes, "{used} in use");
                        std::thread::yield_now();
                        USED.fetch_sub(bytes, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(*BUDGET.used.lock().unwrap(), 0);
    }
}
