//! What a training run needs besides the trainer: its folder, console output, signals and saving.

mod outputs;
mod session;
mod signals;

pub use outputs::Outputs;
pub use session::{RunObserver, ended_by, identity, progress_made};
pub use signals::{INTERRUPTED, install_signal_handlers};
