//! The lowest room, and the only one that calls foreign code: the driver, NVRTC and cuBLAS are found, loaded and checked here.

mod blas;
mod blas_lt;
mod compile;
pub(super) mod error;
mod libraries;
mod modules;
mod nvrtc;
mod probe;
mod sources;
mod turn;

pub(super) use blas::Blas;
pub(super) use compile::{cache_folder, keep};
pub use modules::embedded;
pub(super) use modules::{Modules, identity};
pub use probe::devices;
pub(super) use probe::{check_device, check_driver, limit_sizes};
pub(super) use sources::TENSOR_TARGET;
pub(super) use turn::Turn;
