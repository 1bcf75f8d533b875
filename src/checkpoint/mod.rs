//! Files for later runs: weights in PyTorch's names and layout, and the checkpoint that a run resumes from.

mod foreign;
mod state;
mod statistics;
mod tensors;
mod weights;

pub use state::{RunIdentity, load_state, save_state};
pub use weights::{load_pretrained, load_weights, save_weights};
