//! cnn-cuda: trains convolutional networks on a CUDA GPU or on the CPU.

pub mod data;
pub mod files;
pub mod report;
pub mod rng;
pub mod shape;
