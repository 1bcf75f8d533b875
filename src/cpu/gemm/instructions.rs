//! The instruction sets that the CPU backend is compiled for, and their selection at run time.

use clap::ValueEnum;

/// A vector instruction set that the backend is compiled for. Support is detected at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Instructions {
    /// What every processor of the architecture has
    Portable,
    /// AVX2 with FMA
    Avx2,
    /// AVX-512
    Avx512,
}

impl Instructions {
    /// The sets that this machine supports, the widest last.
    pub fn available() -> impl DoubleEndedIterator<Item = Self> {
        [Self::Portable, Self::Avx2, Self::Avx512].into_iter().filter(|set| set.is_available())
    }

    pub fn widest() -> Self {
        Self::available().next_back().unwrap_or(Self::Portable)
    }

    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Self::Portable => true,
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Self::Avx512 => Self::Avx2.is_available() && is_x86_feature_detected!("avx512f"),
        };
        #[cfg(not(target_arch = "x86_64"))]
        return self == Self::Portable;
    }

    /// The usual name of the set.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => std::env::consts::ARCH,
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
        }
    }

    /// Whether there are products of pairs of bf16, with sums of floats.
    pub(in crate::cpu) fn multiplies_pairs(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Avx512 && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// The name of the set as a flag's value.
    pub fn flag(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// Runs a loop, compiled with these instructions enabled. The set must be available; `Cpu::with_options` checks that when a
    /// backend is created.
    #[inline(always)]
    pub(in crate::cpu) fn run(self, body: impl Loop) {
        match self {
            // SAFETY: `Cpu::with_options` rejects a set that the machine does not support.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { with_avx2(body) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { with_avx512(body) },
            _ => body.run(),
        }
    }
}

/// A loop with its operands.
pub(in crate::cpu) trait Loop {
    /// Runs the loop. The method must be `#[inline(always)]`, and so must be the functions that it calls: others are compiled
    /// without the instructions. The compiler inlines closures only if they are short, so this is no closure, and a loop with a
    /// long body is a `for` loop instead of a closure for an iterator's `for_each`.
    fn run(self);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2(body: impl Loop) {
    body.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn with_avx512(body: impl Loop) {
    body.run();
}
