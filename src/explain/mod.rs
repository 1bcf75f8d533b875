//! Explanations: which pixels of an input a network's output depends on, and what the units of its layers respond to.

mod attribution;
mod deconvolution;
mod gradcam;
mod layers;
mod map;
mod occlusion;
mod saliency;

pub use attribution::Attribution;
pub use deconvolution::{Excitation, Strongest, Unit, deconvolve, strongest_units};
pub use gradcam::grad_cam;
pub use layers::{convolution_layers, explained_layer, find_layer, layer_title, shown_layers};
pub use map::Map;
pub use occlusion::{Occlusion, occlusion};
pub use saliency::{SmoothGrad, saliency, smooth_grad};
