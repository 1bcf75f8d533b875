//! Training as a whole: PyTorch's losses, graphs that branch, determinism, resuming, changed settings.

mod assorted;
mod averaging;
mod cuda;
pub mod dag;
mod fusion;
pub mod harness;
mod networks;
pub mod norm;
pub mod parity;
mod profile;
mod races;
mod resnet;
mod resume;
mod schedule;
mod settings;
