//! Training as a whole: PyTorch's losses, graphs that branch, determinism, resuming.

mod assorted;
mod averaging;
mod branches;
mod cuda;
pub mod dag;
mod fusion;
mod graph_steps;
pub mod harness;
mod networks;
pub mod norm;
pub mod parity;
mod profile;
mod races;
mod resnet;
mod resume;
mod schedule;
