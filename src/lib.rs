//! cnn-cuda: trains convolutional networks on a CUDA GPU or on the CPU.

pub mod bench;
pub mod checkpoint;
pub mod commands;
pub mod cpu;
pub mod cuda;
pub mod data;
pub mod files;
pub mod images;
pub mod models;
pub mod network;
pub mod ops;
pub mod plan;
pub mod report;
pub mod rng;
pub mod run;
pub mod settings;
pub mod shape;
pub mod train;
