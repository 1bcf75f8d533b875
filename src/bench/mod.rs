//! Benchmarks of training steps: whole steps, their parts relative to the device's limits, and each layer's algorithms.

mod algorithms;
mod data_sheet;
mod limits;
mod profile;
mod roofline;
mod site;
mod timing;
mod trace;

pub use algorithms::{Chosen, chosen, print as print_algorithms};
pub use limits::{DeviceLimits, Limits, limits, print as print_limits};
pub use profile::{Part, Profile, print as print_profile, profile};
pub use roofline::{PlanSummary, print as print_plan};
pub use timing::{load_random_images, resident_batches, time_steps};
pub use trace::write as write_trace;
