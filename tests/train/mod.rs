//! Training as a whole: PyTorch's losses, graphs that branch, determinism, resuming.

mod averaging;
mod branches;
mod cuda;
pub mod dag;
mod fusion;
pub mod harness;
pub mod norm;
mod parity;
mod profile;
mod resnet;
mod resume;
mod schedule;
