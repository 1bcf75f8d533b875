//! Test-time augmentation: the mean of the logits of several views of an image.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::gather::View;
use super::operands::operator;
use crate::shape::Shape;

/// The views of a test image whose logits are averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestViews {
    /// The image alone
    #[default]
    None,
    /// The image and its mirror image
    Flip,
    /// Six views: half of the weight is that of flip; the other half is that of flip for the image moved by one pixel to
    /// the lower right and to the upper left, as in airbench
    FlipShift,
}

impl TestViews {
    /// The name used by flags and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Flip => "flip",
            Self::FlipShift => "flip-shift",
        }
    }

    /// Each view with its weight, a power of two. The weights add up to 1.
    pub fn list(self) -> Vec<(View, f32)> {
        let both = |shift, weight| [false, true].map(|flip| (View { flip, shift, repeats: true }, weight));
        let mut views = match self {
            Self::None => vec![(View::default(), 1.0)],
            Self::Flip => both(0, 0.5).to_vec(),
            Self::FlipShift => [both(0, 0.25), both(-1, 0.125), both(1, 0.125)].concat(),
        };
        views.iter_mut().next_back().into_iter().for_each(|(view, _)| view.repeats = false);
        views
    }

    /// # Errors
    /// Images of this shape are too small to be shifted.
    pub fn check(self, shape: Shape) -> Result<()> {
        ensure!(
            self != Self::FlipShift || shape.height.min(shape.width) > 1,
            "--tta flip-shift mirrors the pixels at the border, so it needs images of at least 2 × 2 pixels, not {shape}"
        );
        Ok(())
    }
}

operator! {
    /// `average = before + weight · logits`. For the first view, there is nothing before; for the others, it is the
    /// average.
    pub struct AddView {
        value weight: f32,
        /// `[batch][classes]`
        reads logits: B,
        reads before: Option<B>,
        writes average: B,
    }
    describe(self) { format!("logits × {}, {}", self.weight, if self.before.is_some() { "added" } else { "first view" }) }
    flops(self, len) { 2 * len(self.average) }
}
