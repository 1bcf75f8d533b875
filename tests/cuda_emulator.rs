//! The CUDA emulator's own tests: the faults it promises to catch, cudarc on it unmodified, and every kernel against a
//! plain computation.

mod blas;
mod captures;
mod device;
mod driver;
mod faults;
mod kernels;
mod lateness;
mod loaders;
mod races;
