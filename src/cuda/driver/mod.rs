//! Bindings to the CUDA driver, NVRTC, cuBLAS and cuBLASLt: finds, loads, checks and calls them.

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
pub(super) use compile::{cache_folder, write_to_cache};
pub use modules::embedded;
pub(super) use modules::{Modules, identity};
pub use probe::devices;
pub(super) use probe::{check_device, check_driver, limit_sizes};
pub(super) use sources::TENSOR_TARGET;
pub(super) use turn::Turn;
