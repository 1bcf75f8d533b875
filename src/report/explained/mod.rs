//! What explains a network's answers to pictures: PNG files, and one page that shows them.

mod filters;
mod maps;
mod page;
mod sheets;

pub use filters::{Channel, LayerFilters, filters_page};
pub use maps::{magnitudes, overlay, signed};
pub use page::explanation_page;
pub use sheets::{Patch, Sheet, channel_sheet, patch_sheet};

use super::picture::Picture;

/// A picture, what the network says about it, and why.
pub struct Explained {
    /// The picture's file name.
    pub name: String,
    /// The folder of its files, below that of the page.
    pub folder: String,
    /// The network's input.
    pub input: Picture,
    /// The most likely classes with their probabilities.
    pub classes: Vec<(String, f64)>,
    /// The class whose logit is explained.
    pub class: String,
    pub figures: Vec<Figure>,
    /// The activations of layers, the input's excluded.
    pub layers: Vec<Sheet>,
}

/// A picture with what it shows.
pub struct Figure {
    /// The name of its file without extension.
    pub file: &'static str,
    pub title: String,
    pub caption: String,
    pub picture: Picture,
}

/// Pictures are enlarged until their shorter side has at least this many pixels.
const SHOWN_SIDE: usize = 224;

/// The picture, with enlarged pixels if it is small.
pub fn enlarged(picture: &Picture) -> Picture {
    picture.enlarged(SHOWN_SIDE.div_ceil(picture.width.min(picture.height).max(1)).max(1))
}
