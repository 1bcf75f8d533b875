//! Floating-point operations per second with each instruction set that the machine has.

use anyhow::Result;
use rayon::ThreadPool;

use super::{Instructions, WINDOWS, best, loops, product, rate};
use crate::ops::{Arithmetic, Precision, Rate};

/// Calls of a loop between two looks at the clock.
const CALLS: usize = 8;

/// The name of [`Instructions::Avx512`] with products of pairs of bf16.
pub(super) const BF16: &str = "AVX-512 BF16";

/// The peak and the speed of this program's matrix product for every instruction set, and for pairs of bf16.
pub(super) fn measure(pool: &ThreadPool) -> Result<Vec<Arithmetic>> {
    let mut all = Vec::new();
    for set in Instructions::available() {
        let peak = peak_of(pool, &|| loops::multiply_add(set));
        let product = product::flops(set, Precision::Fp32, pool.current_num_threads())?;
        all.push(Arithmetic { instructions: set.name(), precision: Precision::Fp32, peak, product });
    }
    #[cfg(target_arch = "x86_64")]
    if Instructions::Avx512.is_available() && Instructions::Avx512.multiplies_pairs() {
        // SAFETY: support for the instructions was checked above.
        let peak = peak_of(pool, &|| unsafe { loops::multiply_add_bf16() });
        let product = product::flops(Instructions::Avx512, Precision::Bf16, pool.current_num_threads())?;
        all.push(Arithmetic { instructions: BF16, precision: Precision::Bf16, peak, product });
    }
    Ok(all)
}

/// The operations per second of `body`, which returns the number of operations of a call.
fn peak_of(pool: &ThreadPool, body: &(dyn Fn() -> f64 + Sync)) -> Rate {
    let repeated = |_| {
        let operations = body();
        let calls = || {
            for _ in 0..CALLS {
                body();
            }
        };
        rate(CALLS as f64 * operations, calls)
    };
    let one_thread = best(pool, false, WINDOWS, repeated);
    let all_threads = if pool.current_num_threads() == 1 { one_thread } else { best(pool, true, WINDOWS, repeated) };
    Rate { one_thread, all_threads }
}
