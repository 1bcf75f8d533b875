//! Contact sheets: the feature maps of a layer, and the parts of pictures that its channels respond to.

use super::super::filters::magnitude;
use super::super::picture::{Picture, Rgb, contact_sheet, diverging, sequential};
use crate::explain::Unit;
use crate::network::ReceptiveField;
use crate::shape::Shape;

/// Between maps, on light and dark pages.
const GAP: usize = 2;
/// The most pixels of a sheet's row, unless a single map is wider.
const SHEET_WIDTH: usize = 944;
const BACKGROUND: Rgb = [128, 132, 138];
/// Maps and patches are enlarged to at least this many pixels.
const MAP_SIDE: usize = 32;
const PATCH_SIDE: usize = 64;
const SMALL_PATCH_SIDE: usize = 40;
/// Single values, such as those of a linear layer, are squares of this size.
const VALUE_SIDE: usize = 14;

/// The activations of a layer, one map per channel; all have the same scale.
pub struct Sheet {
    pub layer: String,
    /// What the layer computes.
    pub description: String,
    /// The shape of all its activations.
    pub shape: Shape,
    /// The channels that are shown, the first ones.
    pub shown: usize,
    /// The smallest and the largest activation that is shown.
    pub range: (f32, f32),
    pub field: Option<ReceptiveField>,
    pub picture: Picture,
    pub columns: usize,
    /// The pixels of one activation's side.
    pub scale: usize,
    /// The pixels between two maps.
    pub gap: usize,
}

impl Sheet {
    /// Draws the first `shown` channels of activations `[height][width][channels]`. From dark for 0 to light for the largest,
    /// or if there are negative activations, from blue over white to red.
    pub fn new(
        (layer, description): (String, String),
        shape: Shape,
        field: Option<ReceptiveField>,
        values: &[f32],
        shown: usize,
    ) -> Self {
        let shown = shown.min(shape.channels);
        let visible = || values.chunks_exact(shape.channels).flat_map(|position| &position[..shown]);
        let low = visible().copied().fold(f32::INFINITY, f32::min);
        let high = visible().copied().fold(f32::NEG_INFINITY, f32::max);
        let largest = low.abs().max(high.abs()).max(f32::MIN_POSITIVE);
        let colour = |value: f32| if low < 0.0 { diverging(value / largest) } else { sequential(value / largest) };
        let channel =
            |channel: usize| -> Vec<f32> { values.iter().skip(channel).step_by(shape.channels).copied().collect() };
        let scale = if shape.pixels() == 1 { VALUE_SIDE } else { MAP_SIDE.div_ceil(shape.width).max(1) };
        let map = |index| Picture::from_values(&channel(index), shape.width, colour).enlarged(scale);
        let maps: Vec<Picture> = (0..shown).map(map).collect();
        let gap = if shape.pixels() == 1 { 1 } else { GAP };
        let columns = columns_within(shown, shape.width * scale + gap);
        let picture = contact_sheet(&maps, columns, gap, BACKGROUND);
        Self { layer, description, shape, shown, range: (low, high), field, picture, columns, scale, gap }
    }
}

/// The columns of a sheet of `count` cells of `width` pixels that is no wider than a page: a power of two, as the numbers of
/// channels mostly are, so that the rows are full.
fn columns_within(count: usize, width: usize) -> usize {
    let fitting = (SHEET_WIDTH / width).max(1);
    (1 << fitting.ilog2()).min(count.max(1))
}

/// A unit, the picture that excites it, and the unit's deconvolution.
pub struct Patch {
    pub unit: Unit,
    /// What the network saw.
    pub input: Picture,
    /// `[height][width][channels]`
    pub projection: Vec<f32>,
}

impl Patch {
    /// The part of the picture inside the unit's receptive field, or all of it, and the same part of the deconvolution.
    fn pictures(&self, shape: Shape, field: Option<ReceptiveField>) -> [Picture; 2] {
        let projection = Picture::from_signed(&self.projection, shape, magnitude(&self.projection, shape));
        let both = [&self.input, &projection];
        match field.filter(|field| field.size < shape.width.min(shape.height)) {
            None => both.map(Clone::clone),
            Some(ReceptiveField { size, step, start }) => {
                let at = |index: usize| start + (index * step) as isize;
                let (left, top) = (at(self.unit.column), at(self.unit.row));
                both.map(|picture| picture.part(left, top, size, size, BACKGROUND))
            }
        }
    }
}

/// Patches in a row, each above its deconvolution. `shape` is that of the network's input.
pub fn patch_sheet(patches: &[Patch], shape: Shape, field: Option<ReceptiveField>) -> Picture {
    let tile = |patch: &Patch| {
        let both = patch.pictures(shape, field);
        contact_sheet(&both.map(|picture| enlarged_to(&picture, PATCH_SIDE)), 1, 1, BACKGROUND)
    };
    contact_sheet(&patches.iter().map(tile).collect::<Vec<_>>(), patches.len(), GAP, BACKGROUND)
}

/// The patches of a channel as a square, and to the right their deconvolutions in the same order.
pub fn channel_sheet(patches: &[Patch], shape: Shape, field: Option<ReceptiveField>) -> Picture {
    let columns = (patches.len() as f64).sqrt().ceil() as usize;
    let both = patches.iter().map(|patch| patch.pictures(shape, field));
    let (inputs, projections): (Vec<_>, Vec<_>) =
        both.map(|both| both.map(|picture| enlarged_to(&picture, SMALL_PATCH_SIDE))).map(|[a, b]| (a, b)).unzip();
    let blocks = [inputs, projections].map(|tiles| contact_sheet(&tiles, columns, 3, BACKGROUND));
    contact_sheet(&blocks, 2, 3, BACKGROUND)
}

fn enlarged_to(picture: &Picture, side: usize) -> Picture {
    picture.enlarged(side.div_ceil(picture.width.max(1)).max(1))
}
