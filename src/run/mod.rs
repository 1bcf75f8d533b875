//! What a training run needs besides the trainer: its folder, console output, signals and saving.

mod display;
mod folder;
mod kept;
mod outputs;
mod report;
mod session;
mod signals;
mod suspend;
mod verify;

pub use display::Display;
pub use folder::{FolderLock, folder_to_resume};
pub use outputs::{Outputs, damaged_outputs};
pub use report::Report;
pub use session::{RunObserver, ended_by, identity, identity_without_data, progress_made};
pub use signals::{INTERRUPTED, install_signal_handlers};
pub use verify::verify;
