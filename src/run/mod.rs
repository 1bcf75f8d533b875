//! A training run beyond its numbers: its folder, its console, signals, and saving so that nothing is lost.

mod outputs;
mod session;
mod signals;

pub use outputs::Outputs;
pub use session::{Run, ended_by, identity};
pub use signals::{INTERRUPTED, install_signal_handlers};
