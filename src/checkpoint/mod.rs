//! Files that outlive a run: weights in PyTorch's names and layout, and the state to go on from.

mod foreign;
mod state;
mod statistics;
mod tensors;
mod weights;

pub use state::{RunIdentity, load_state, save_state};
pub use weights::{load_pretrained, load_weights, save_weights};
