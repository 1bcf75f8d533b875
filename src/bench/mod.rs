//! Benchmarks of training steps: whole steps, their parts relative to the device's limits, and each layer's algorithms.

mod algorithms;
mod data_sheet;
mod profile;
mod roofline;
mod site;
mod timing;
mod trace;

pub use algorithms::{Chosen, chosen, print as print_algorithms};
pub use profile::{Limits, Part, Profile, limits, print as print_profile, profile};
pub use roofline::{PlanSummary, print as print_plan};
pub use timing::{load_random_images, resident_batches, time_steps};
pub use trace::write as write_trace;
