//! Seeded, counter-based random streams (Philox 4×32-10): a number depends only on seed, purpose, index and position.
//!
//! The generator is from Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC11).

/// What a stream is used for. Streams of different purposes never share numbers. Reproducibility of runs depends on the
/// discriminants: never renumber them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    Initialisation = 1,
    Shuffle = 2,
    Digits = 3,
    /// Synthetic inputs for benchmarks.
    Benchmark = 4,
    /// The random split of a folder of pictures into training and test set.
    Split = 5,
    /// The random choice of validation images among the training images.
    Validation = 6,
    /// Also in `kernels/philox.cuh`.
    Dropout = 16,
    /// Augmentation of training images. Also in `kernels/philox.cuh`.
    Augmentation = 17,
    /// Which images alternating flips mirror first. Also in `kernels/philox.cuh`.
    Flip = 20,
    /// How the images of a batch are mixed.
    Mixing = 21,
    /// Transforms of training images.
    Transforms = 24,
    /// Noise added to a picture to explain it.
    Explanation = 28,
}

/// A stream of random numbers. It is cheap to create: use one per tensor, epoch or image.
#[derive(Clone, Debug)]
pub struct Philox {
    key: [u32; 2],
    /// `[position low, position high, index, purpose]`
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Philox {
    /// Stream number `index` of `purpose` under `seed`.
    pub fn new(seed: u64, purpose: Purpose, index: u32) -> Self {
        let key = [seed as u32, (seed >> 32) as u32];
        Self { key, counter: [0, 0, index, purpose as u32], block: [0; 4], used: 4 }
    }

    /// The same stream from a group of four words on.
    pub fn starting_at(mut self, group: u64) -> Self {
        self.counter[0] = group as u32;
        self.counter[1] = (group >> 32) as u32;
        self
    }

    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox4x32(self.counter, self.key);
            self.used = 0;
            let (low, carry) = self.counter[0].overflowing_add(1);
            self.counter[0] = low;
            self.counter[1] = self.counter[1].wrapping_add(u32::from(carry));
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// Uniform in `[low, high)`, with 24 random bits.
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.next_u32() >> 8) as f32 * (1.0 / (1 << 24) as f32);
        low + (high - low) * unit
    }

    /// Standard normal, by the Box–Muller transform.
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform(0.0, 1.0)).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.uniform(0.0, 1.0)).cos()
    }

    /// Uniform in `0..bound` without bias (Lemire's multiply-and-reject).
    ///
    /// # Panics
    /// If `bound` is zero.
    pub fn below(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "the bound must be above zero");
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(bound);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }
}

/// The four words at `position` in stream number `index` of `purpose`; positions count groups of four words.
pub fn draw(seed: u64, purpose: Purpose, index: u32, position: u64) -> [u32; 4] {
    let counter = [position as u32, (position >> 32) as u32, index, purpose as u32];
    philox4x32(counter, [seed as u32, (seed >> 32) as u32])
}

/// A 64-bit fingerprint of byte strings and their boundaries (FNV-1a). It distinguishes versions; it does not protect
/// against forgery.
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let part = |hash: u64, part: &'a [u8]| {
        let length = (part.len() as u64).to_le_bytes();
        length.into_iter().chain(part.iter().copied()).fold(hash, step)
    };
    parts.into_iter().fold(0xcbf2_9ce4_8422_2325, part)
}

fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::philox4x32;

    /// The known-answer vectors of the authors' Random123 library.
    #[test]
    fn philox_matches_the_published_vectors() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }
}
