//! Bindings to the CUDA driver, NVRTC, cuBLAS, cuBLASLt and cuDNN: finds, loads, checks and calls them.

mod blas;
mod blas_lt;
mod compile;
mod cudnn;
pub(super) mod error;
mod libraries;
mod modules;
mod nvrtc;
mod probe;
mod sources;
mod turn;

pub(super) use blas::Blas;
pub(super) use compile::{cache_folder, write_to_cache};
pub(super) use cudnn::Cudnn;
#[cfg(test)]
pub(super) use modules::kernels_for;
pub use modules::{Embedded, embedded};
pub(super) use modules::{Modules, identity};
pub use probe::devices;
pub(super) use probe::{capability, check_device, check_driver, limit_sizes, shared_limit};
pub(super) use turn::Turn;
