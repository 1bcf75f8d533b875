//! The page of `cnn-cuda serve`: a local web server that shows how a network computes its answer for a picture.

mod assets;
mod client;
mod computation;
mod connections;
mod engine;
mod guard;
mod names;
mod page_data;
mod pictures;
mod routes;
mod run_folder;
mod samples;
mod site;

pub use client::Client;
pub use computation::{Area, Computation, Part, Product, Step, computation};
pub use connections::serve;
pub use engine::{Engine, Job};
pub use guard::Hosts;
pub use routes::routes;
pub use run_folder::{RunFolder, stamp, watch};
pub use samples::{Samples, SamplesState};
pub use site::{About, Site, Status};
