//! Trains convolutional networks for image classification on an NVIDIA GPU or on the CPU.
//!
//! Most people use the program, `cnn-cuda`. This crate is what the program is made of, and other programs can use it
//! too. They may rely on the modules that are documented here:
//!
//! - [`data`] loads data sets by name, and folders and archives of pictures;
//! - [`models`] builds networks by name, and [`network`] has the builder for new ones;
//! - [`cpu`] and [`cuda`] are the backends, and [`ops`] defines operators and what a backend is;
//! - [`train`] has the trainer, its hyperparameters and the evaluation of weights;
//! - [`checkpoint`] reads and writes weights in PyTorch's layout;
//! - [`shape`] has image shapes and window arithmetic.
//!
//! Modules that are hidden from this documentation belong to the program. They are public for its tests and benchmarks,
//! and change without notice.
//!
//! # Example
//!
//! One epoch of LeNet-5 on the embedded digits, the accuracy on the test images, and a file that
//! `safetensors.torch.load_file` reads:
//!
//! ```
//! use cnn_cuda::cpu::Cpu;
//! use cnn_cuda::train::{Hyperparameters, LearningRate, Trainer};
//! use cnn_cuda::{checkpoint, data, models};
//!
//! # fn main() -> anyhow::Result<()> {
//! let dataset = data::load("digits", &data::LoadOptions::default())?;
//! let network = (models::find("lenet5")?.build)(dataset.shape, dataset.classes.len())?;
//! let hyperparameters = Hyperparameters {
//!     epochs: 1,
//!     batch_size: 64,
//!     eval_batch_size: 1000,
//!     learning_rate: LearningRate::constant(0.1),
//!     shuffle: true,
//!     ..Hyperparameters::default()
//! };
//! let mut trainer = Trainer::new(Cpu::new(None)?, network, dataset, hyperparameters)?;
//! trainer.run(&mut ())?;
//! let accuracy = trainer.evaluate()?.accuracy();
//! assert!(accuracy > 0.15); // ten classes
//!
//! let folder = tempfile::tempdir()?;
//! let (parameters, statistics) = (trainer.parameters()?, trainer.statistics()?);
//! let path = folder.path().join("model.safetensors");
//! checkpoint::save_weights(&path, &trainer.network, &parameters, &statistics)?;
//! assert_eq!(checkpoint::load_weights(&path, &trainer.network)?.parameters, parameters);
//! # Ok(())
//! # }
//! ```

#[doc(hidden)]
pub mod bench;
pub mod checkpoint;
#[doc(hidden)]
pub mod commands;
pub mod cpu;
pub mod cuda;
pub mod data;
#[doc(hidden)]
pub mod explain;
pub mod files;
#[doc(hidden)]
pub mod images;
pub mod models;
pub mod network;
pub mod ops;
#[doc(hidden)]
pub mod plan;
#[doc(hidden)]
pub mod report;
#[doc(hidden)]
pub mod resample;
#[doc(hidden)]
pub mod rng;
#[doc(hidden)]
pub mod run;
#[doc(hidden)]
pub mod serve;
#[doc(hidden)]
pub mod settings;
pub mod shape;
pub mod train;
