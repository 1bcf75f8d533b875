//! Files for later runs: weights in PyTorch's names and layout, and the checkpoint that a run resumes from.

mod container;
mod finetuning;
mod foreign;
mod header;
mod inspect;
mod prefix;
mod recognise;
mod state;
mod statistics;
mod tensor;
mod tensors;
mod timm;
mod torch;
mod weights;

pub use finetuning::{FineTuned, NewHead, load_for_finetuning};
pub use header::RunIdentity;
pub use inspect::{InspectedCheckpoint, InspectedWeights, check_settings, inspect_checkpoint, inspect_weights};
pub use state::{load_state, save_state};
pub use weights::{load_pretrained, load_weights, save_described_weights, save_weights, weights_description};
