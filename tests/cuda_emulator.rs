//! Tests of the CUDA emulator: the faults that it must catch, unmodified cudarc on it, and every kernel against a plain
//! computation.

mod asynchrony;
mod blas;
mod captures;
mod dependent;
mod device;
mod driver;
mod faults;
mod kernels;
mod lateness;
mod loaders;
mod races;
