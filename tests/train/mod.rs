//! Training as a whole: PyTorch's losses, graphs that branch, determinism, resuming.

pub mod dag;
pub mod harness;
pub mod parity;
mod resume;
