//! Occlusion: how much a class's logit falls when a part of the picture is covered.

use anyhow::{Result, ensure};

use super::{Attribution, Map};
use crate::ops::Backend;

/// The square that covers a part of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occlusion {
    /// Its side, in pixels.
    pub window: usize,
    /// The distance between two of its positions, at most `window`.
    pub stride: usize,
}

impl Occlusion {
    /// A seventh of the input's shorter side, moved by half of that.
    pub fn for_side(side: usize) -> Self {
        let window = (side / 7).max(1);
        Self { window, stride: window.div_ceil(2) }
    }

    /// The first pixels of the positions along a side. The last position may extend beyond the input.
    fn starts(self, side: usize) -> impl Iterator<Item = usize> + Clone {
        let count = 1 + side.saturating_sub(self.window).div_ceil(self.stride);
        (0..count).map(move |index| index * self.stride)
    }
}

/// For every pixel, the mean over the windows that cover it of the class's logit for the picture, minus that for the
/// picture whose window is set to 0, the mean of normalised inputs (Zeiler and Fergus 2013; captum's `Occlusion` with
/// windows of all channels).
///
/// # Errors
/// If the class does not exist, or the stride is 0 or larger than the window, so that it would skip pixels.
pub fn occlusion<B: Backend>(
    network: &mut Attribution<'_, B>,
    input: &[f32],
    class: usize,
    settings: Occlusion,
) -> Result<Map> {
    let Occlusion { window, stride } = settings;
    ensure!((1..=window).contains(&stride), "a stride of {stride} does not fit an occlusion window of {window}");
    let (shape, classes) = (network.input(), network.output_shape().len());
    ensure!(class < classes, "there is no class {class} among {classes}");
    let whole = network.forward(input)?[class];
    let columns = settings.starts(shape.width);
    let starts: Vec<(usize, usize)> =
        settings.starts(shape.height).flat_map(|top| columns.clone().map(move |left| (top, left))).collect();
    let (mut sums, mut counts) = (vec![0.0; shape.pixels()], vec![0.0; shape.pixels()]);
    for group in starts.chunks(network.max_batch()) {
        let mut covered = Vec::with_capacity(group.len() * input.len());
        let pixels = |&(top, left): &(usize, usize)| {
            let bottom = shape.height.min(top + window);
            (top..bottom).map(move |row| row * shape.width + left..row * shape.width + shape.width.min(left + window))
        };
        for start in group {
            let begin = covered.len();
            covered.extend_from_slice(input);
            for range in pixels(start) {
                covered[begin + range.start * shape.channels..begin + range.end * shape.channels].fill(0.0);
            }
        }
        let logits = network.forward(&covered)?;
        for (start, logits) in group.iter().zip(logits.chunks_exact(classes)) {
            for pixel in pixels(start).flatten() {
                sums[pixel] += whole - logits[class];
                counts[pixel] += 1.0;
            }
        }
    }
    let values = sums.iter().zip(&counts).map(|(sum, count)| sum / count).collect();
    Ok(Map::new(shape.height, shape.width, values))
}
