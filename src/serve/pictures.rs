//! The pictures of the last requests, so that later requests need only name them.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

/// The largest picture file, in bytes.
pub const MAX_FILE: usize = 24_000_000;

/// Pictures are forgotten, the oldest first, beyond either limit.
const MOST: usize = 256;
const MOST_BYTES: usize = 32 << 20;

/// A picture as the network's input.
#[derive(Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The beginning of the SHA-256 of the pixels.
    pub id: String,
    /// `[height][width][channels]`, not normalised.
    pub pixels: Vec<u8>,
}

impl Prepared {
    pub fn new(pixels: Vec<u8>) -> Self {
        let mut id = String::new();
        for byte in &Sha256::digest(&pixels)[..16] {
            let _ = write!(id, "{byte:02x}"); // writing to a String cannot fail
        }
        Self { id, pixels }
    }
}

#[derive(Debug, Default)]
pub struct Pictures(Mutex<VecDeque<Arc<Prepared>>>);

impl Pictures {
    /// Keeps a picture, as the newest.
    pub fn keep(&self, picture: Arc<Prepared>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|kept| kept.id != picture.id);
        let most = MOST.min((MOST_BYTES / picture.pixels.len().max(1)).max(8));
        all.push_back(picture);
        while all.len() > most {
            all.pop_front();
        }
    }

    pub fn find(&self, id: &str) -> Option<Arc<Prepared>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().rev().find(|picture| picture.id == id).map(Arc::clone)
    }
}
