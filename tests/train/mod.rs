//! Training as a whole: agreement with PyTorch, branching graphs, determinism, resuming, and changed settings.

mod accumulation;
mod airnet;
mod assorted;
mod averaging;
mod cells;
mod cuda;
pub mod dag;
mod finetuning;
mod folding;
mod freezing;
mod fusion;
pub mod harness;
mod images;
mod mixing;
pub mod networks;
pub mod norm;
mod optimizers;
pub mod parity;
mod profile;
mod races;
mod range_test;
pub mod resnet;
mod resume;
mod schedule;
mod settings;
mod validation;
mod views;
