//! Reads pictures to train with that are scaled to another size, or cropped in another way, than the others.

use anyhow::{Result, ensure};

use super::layout::LabelledPicture;
use super::store::Finished;
use super::{LoadOptions, PictureOptions, Source, TrainPictures, counted};
use crate::data::crop::Target;
use crate::data::{Split, held_out, statistics};

/// How pictures to train with and the others are scaled; `None` if they keep their size.
pub fn targets(options: &LoadOptions) -> Result<[Option<Target>; 2]> {
    let PictureOptions { crop, train, .. } = options.pictures;
    let size = options.pictures.size();
    ensure!(
        size.is_some() || crop == 1.0 && !matches!(train, TrainPictures::Sized(..)),
        "--crop-pct and --resize scale pictures; give the size of the images with --image-size"
    );
    let target = size.map(|(height, width)| Target { height, width, crop });
    let train = match train {
        TrainPictures::Whole => size.map(Target::whole),
        TrainPictures::Larger(part) => size.map(|(height, width)| {
            let [height, width] = [height, width].map(|side| (side as f64 / part).floor() as usize);
            Target::whole((height, width))
        }),
        TrainPictures::Sized(height, width) => Some(Target::whole((height, width))),
        TrainPictures::Evaluated => target,
    };
    Ok([train, target])
}

/// Reads each kind of pictures with its target. Pictures to hold out for validation are chosen among those to train with
/// that can be read, and are read again with the target of the others.
pub fn read(
    source: &Source,
    [train, val, test]: [&[LabelledPicture]; 3],
    [train_target, target]: [Option<Target>; 2],
) -> Result<Finished> {
    let Finished { shape: train_shape, present, bad, splits, normalisation } =
        source.read([train, &[], &[]], train_target, 0)?;
    let [mut all, ..] = splits;
    let statistics = || statistics::normalisation(&all.images, train_shape.channels);
    let normalisation = normalisation.unwrap_or_else(statistics);
    let mut held: Vec<LabelledPicture> = Vec::new();
    if let Some(options) = source.options.validation {
        let own = counted(val.len(), "validation picture");
        ensure!(val.is_empty(), "--val-fraction: there are {own} already, in a folder val");
        let (kept, chosen) = held_out::choose(&all.labels, options);
        ensure!(!chosen.is_empty(), "--val-fraction: every class has only one training picture");
        held = chosen.iter().map(|&number| train[present[number as usize]].clone()).collect();
        all = all.select(&kept, train_shape.len());
    }
    let val = if held.is_empty() { val } else { &held };
    let options = LoadOptions { channels: Some(train_shape.channels), ..source.options.clone() };
    let mut others = Source { options: &options, ..*source }.read([&[], val, test], target, bad)?;
    others.splits[0] = Split { shape: Some(train_shape), ..all };
    Ok(Finished { normalisation: Some(normalisation), ..others })
}
