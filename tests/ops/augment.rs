//! Random transforms of training pictures: pixels against torchvision's, and what is drawn.

use std::fs;
use std::ops::Range;
use std::sync::Arc;

use cnn_cuda::images::HostImages;
use cnn_cuda::ops::{
    Augment, Augmentation, AugmentationDraw, Backend, Draws, Flip, Gather, Normalise, PaddingMode, PictureDraw,
    PixelOp, RandAugment, Region, ResizedCrop, Stage, Subset, Transforms, View,
};
use cnn_cuda::rng::{Philox, Purpose};
use cnn_cuda::shape::Shape;
use safetensors::SafeTensors;
use serde_json::Value;

use super::cpu;
use super::lab::Lab;

/// A case of `tests/reference/transforms.py`.
struct Reference {
    described: String,
    stored: Shape,
    shape: Shape,
    picture: Vec<u8>,
    drawn: PictureDraw,
    resizes: bool,
    ops: Vec<PixelOp>,
    matrices: Vec<[i32; 6]>,
    expected: Vec<u8>,
}

fn pixel_op(op: &Value) -> PixelOp {
    let (factor, name) = (op[1].as_f64().unwrap_or_default(), op[0].as_str().expect("a name"));
    match name {
        "brightness" => PixelOp::Brightness(factor as f32),
        "contrast" => PixelOp::Contrast(factor as f32),
        "saturation" => PixelOp::Saturation(factor as f32),
        "hue" => PixelOp::Hue((factor * 255.0) as i32 as u8),
        _ => {
            let (name, magnitude) = (op[1].as_str().expect("a name"), op[2].as_u64().expect("a number") as u32);
            let index = RandAugment::OPS.iter().position(|(known, _)| *known == name).expect("an operation");
            RandAugment { count: 1, magnitude }.op(index, op[3] == true)
        }
    }
}

fn references() -> Vec<Reference> {
    let bytes = fs::read("tests/reference/transforms.safetensors").expect("read");
    let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("metadata");
    let cases: Vec<Value> =
        serde_json::from_str(&metadata.metadata().clone().expect("metadata")["cases"]).expect("JSON");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let one = |(number, case): (usize, &Value)| {
        let picture = tensors.tensor(&format!("picture.{}", case["picture"].as_str().expect("a name"))).expect("one");
        let stored = Shape::new(picture.shape()[0], picture.shape()[1], picture.shape()[2]);
        let side = |value: &Value| value.as_u64().expect("a number") as usize;
        let shape = Shape { height: side(&case["size"][0]), width: side(&case["size"][1]), ..stored };
        let crop = case["crop"].as_array().map(|crop| [0, 1, 2, 3].map(|at| side(&crop[at])));
        let [top, left, height, width] = crop.unwrap_or([0, 0, shape.height, shape.width]);
        let (top, left, mirrored) = (top as i64, left as i64, case["flip"] == true);
        let ops: Vec<&Value> = case["ops"].as_array().expect("a list").iter().collect();
        let magnitude = ops.iter().find_map(|op| op[2].as_u64()).unwrap_or_default() as u32;
        Reference {
            described: case.to_string(),
            stored,
            shape,
            picture: picture.data().to_vec(),
            drawn: PictureDraw { top, left, height, width, mirrored, erased: [0..0, 0..0] },
            resizes: crop.is_some(),
            ops: ops.into_iter().map(pixel_op).collect(),
            matrices: RandAugment { count: 1, magnitude }.matrices(shape),
            expected: tensors.tensor(&format!("case.{number}")).expect("a result").data().to_vec(),
        }
    };
    cases.iter().enumerate().map(one).collect()
}

/// Loads pictures whose normalised values are their bytes divided by 255.
fn load<B: Backend>(lab: &mut Lab<B>, shape: Shape, images: Vec<u8>) {
    let normalise = Normalise { shape, mean: vec![0.0; shape.channels], std: vec![1.0; shape.channels] };
    let labels = vec![0; images.len() / shape.len()];
    let order: Vec<u32> = (0..labels.len() as u32).collect();
    lab.backend.load_subset(Subset::Train, &normalise, images, labels).expect("load");
    lab.backend.set_order(Subset::Train, &order, 0).expect("order");
}

/// Compares every transform's pixels with torchvision's. Tests of other backends use it too.
pub fn check_against_torchvision<B: Backend>(lab: &mut Lab<B>) {
    let all = references();
    assert!(all.len() > 200, "{}", all.len());
    for case in all {
        let Reference { described, stored, shape, picture, drawn, resizes, ops, matrices, expected } = case;
        lab.clear();
        load(lab, stored, picture);
        let stage = Stage { stored, padding_mode: PaddingMode::Constant, resizes, op_count: ops.len(), erases: false };
        lab.backend.set_draws(Draws { pictures: vec![drawn], ops, matrices }).expect("draws");
        let output = lab.empty(Region::Arena, shape.len());
        lab.run(Augment { stage, shape, augmentation: None, output });
        let got: Vec<u8> = lab.get(output).iter().map(|value| (value * 255.0).round() as u8).collect();
        assert!(got == expected, "{described}: {got:?} instead of {expected:?}");
    }
}

/// All transforms at once, in batches of which the last is smaller, of a resident and of a streamed set. Returns the bits of
/// every value. Tests of other backends use it too.
pub fn transformed<B: Backend>(lab: &mut Lab<B>, transforms: &Transforms, stored: Shape, shape: Shape) -> Vec<u32> {
    let count = 7;
    let mut random = Philox::new(5, Purpose::Benchmark, 3);
    let images: Vec<u8> =
        (0..count * stored.len()).map(|at| (random.next_u32() % 64) as u8 + (at % 190) as u8).collect();
    let labels: Vec<u32> = (0..count as u32).collect();
    let augmentation = Augmentation { crop_padding: 3, flip: Flip::Random, brightness: 0.2, ..Augmentation::default() };
    let padding_mode = if shape.channels == 3 { PaddingMode::Reflect } else { PaddingMode::Constant };
    let augmentation = if stored == shape {
        Augmentation { padding_mode, ..augmentation }
    } else {
        Augmentation { crop_padding: 0, ..augmentation }
    };
    let normalise = Normalise { shape: stored, mean: vec![0.4; shape.channels], std: vec![0.3; shape.channels] };
    let stage = transforms.stage(stored, augmentation.padding_mode).expect("transforms");
    let order = [3, 1, 6, 0, 2, 5, 4];
    let run = |lab: &mut Lab<B>| {
        let mut seen = Vec::new();
        for (epoch, position) in [(0, 0), (1, 2)] {
            lab.backend.set_augmentation_epoch(9, epoch).expect("settings");
            lab.backend.set_order(Subset::Train, &order, position).expect("order");
            let crop = |position: usize| augmentation.draw(shape, 9, epoch, position as u64, order[position]);
            lab.backend.set_draws(transforms.draw([stored, shape], 9, epoch, count, crop)).expect("draws");
            for begin in (position..count).step_by(3) {
                lab.clear();
                let output = lab.empty(Region::Arena, 3.min(count - begin) * shape.len());
                lab.run(Augment { stage, shape, augmentation: Some(augmentation), output });
                seen.extend(lab.get(output).iter().map(|value| value.to_bits()));
            }
        }
        seen
    };
    lab.backend.load_subset(Subset::Train, &normalise, images.clone(), labels.clone()).expect("load");
    let resident = run(lab);
    let source = Arc::new(HostImages { images, image_len: stored.len() });
    lab.backend.stream_subset(Subset::Train, &normalise, source, labels, 3).expect("stream");
    assert!(run(lab) == resident, "streamed batches differ");
    assert!(resident.iter().all(|bits| f32::from_bits(*bits).is_finite()));
    resident
}

/// Crop and flip of transformed pictures are those of a gather. Tests of other backends use it too.
pub fn check_crops<B: Backend>(lab: &mut Lab<B>) {
    let (shape, count) = (Shape::new(9, 11, 3), 6);
    let images: Vec<u8> = (0..count * shape.len()).map(|at| (at * 37 % 251) as u8).collect();
    load(lab, shape, images);
    let order: Vec<u32> = (0..count as u32).rev().collect();
    for (padding_mode, flip) in [
        (PaddingMode::Constant, Flip::Random),
        (PaddingMode::Reflect, Flip::Alternating),
        (PaddingMode::Reflect, Flip::Never),
    ] {
        let op =
            Augmentation { crop_padding: 4, padding_mode, flip, contrast: 0.5, cutout: 3, ..Augmentation::default() };
        lab.clear();
        let output = lab.empty(Region::Arena, count * shape.len());
        lab.backend.set_augmentation_epoch(7, 1).expect("settings");
        lab.backend.set_order(Subset::Train, &order, 0).expect("order");
        lab.run(Gather { subset: Subset::Train, shape, augmentation: Some(op), view: View::default(), output });
        let expected = lab.get(output);
        let crop = |at: usize| op.draw(shape, 7, 1, at as u64, order[at]);
        let drawn = Transforms::default().draw([shape, shape], 7, 1, count, crop);
        lab.backend.set_draws(Draws { ops: vec![PixelOp::Identity; count], ..drawn }).expect("draws");
        lab.backend.set_order(Subset::Train, &order, 0).expect("order");
        let stage = Stage { stored: shape, padding_mode, resizes: false, op_count: 1, erases: false };
        lab.run(Augment { stage, shape, augmentation: Some(op), output });
        assert_eq!(lab.get(output), expected, "{op:?}");
    }
}

/// Several sets of transforms with the shapes of stored pictures and of inputs.
pub fn settings() -> Vec<(Transforms, Shape, Shape)> {
    let crop = ResizedCrop { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] };
    let none = Transforms::default();
    let all = Transforms {
        resized_crop: Some(crop),
        rand_augment: Some(RandAugment { count: 3, magnitude: 12 }),
        color_jitter: [0.4, 0.4, 0.4, 0.1],
        erasing: 0.7,
    };
    let [large, small, gray] = [Shape::new(29, 33, 3), Shape::new(21, 24, 3), Shape::new(17, 17, 1)];
    vec![
        (all, large, small),
        (Transforms { resized_crop: Some(crop), ..none }, small, small),
        (Transforms { resized_crop: None, ..all }, small, small),
        (Transforms { resized_crop: None, ..all }, gray, gray),
        (Transforms { erasing: 1.0, ..none }, gray, gray),
        (Transforms { color_jitter: [0.0, 0.0, 0.0, 0.5], ..none }, small, small),
    ]
}

/// No such crop fits, so the largest of the ratio in the centre is taken; it has at least one pixel.
#[test]
fn crops_of_any_ratio_have_pixels() {
    for ratio in [[60.0, 80.0], [0.01, 0.02]] {
        let crop = ResizedCrop { scale: [0.5, 1.0], ratio };
        let transforms = Transforms { resized_crop: Some(crop), ..Transforms::default() };
        let stored = Shape::new(29, 24, 3);
        let values = transformed(&mut cpu(), &transforms, stored, Shape::new(8, 8, 3));
        assert!(values.iter().all(|&bits| f32::from_bits(bits).is_finite()), "{ratio:?}");
    }
}

#[test]
fn crops_and_flips_are_those_of_a_gather() {
    check_crops(&mut cpu());
}

#[test]
fn pixels_are_those_of_torchvision() {
    check_against_torchvision(&mut cpu());
}

#[test]
fn batches_are_transformed_whatever_their_size_and_source() {
    let results: Vec<Vec<u32>> =
        settings().iter().map(|(all, from, to)| transformed(&mut cpu(), all, *from, *to)).collect();
    let zeros = |values: &[u32]| values.iter().filter(|&&bits| bits == 0).count();
    assert!(zeros(&results[4]) > results[4].len() / 50, "nothing was erased");
    assert_eq!(zeros(&results[1]), 0);
}

/// The probability of `hits` of `count` must be `p`, within five standard deviations.
fn near(what: &str, hits: usize, count: usize, p: f64) {
    let (n, hits) = (count as f64, hits as f64);
    assert!((hits - n * p).abs() < 5.0 * (n * p * (1.0 - p)).sqrt(), "{what}: {hits} of {n}, not {p}");
}

fn draws(transforms: &Transforms, seed: u64, epoch: u32) -> Draws {
    let shape = Shape::new(40, 50, 3);
    let still = |position| Augmentation::default().draw(shape, seed, epoch, position as u64, 0);
    transforms
        .draw([shape, Shape::new(32, 32, 3)], seed, epoch, 20_000, |position| AugmentationDraw { ..still(position) })
}

#[test]
fn crops_have_the_areas_and_ratios_of_torchvision() {
    let crop = ResizedCrop { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] };
    let all = Transforms { resized_crop: Some(crop), ..Transforms::default() };
    let Draws { pictures, .. } = draws(&all, 7, 3);
    let count = pictures.len();
    let part = |drawn: &PictureDraw| (drawn.height * drawn.width) as f64 / 2000.0;
    let ratio = |drawn: &PictureDraw| drawn.width as f64 / drawn.height as f64;
    assert!(pictures.iter().all(|it| it.top >= 0 && it.top as usize + it.height <= 40));
    assert!(pictures.iter().all(|it| it.left >= 0 && it.left as usize + it.width <= 50));
    assert!(pictures.iter().all(|it| (0.06..=1.0).contains(&part(it)) && (0.68..=1.47).contains(&ratio(it))));
    // Below half of the area every attempt fits, so areas are uniform there.
    let below = |limit: f64| pictures.iter().filter(|it| part(it) < limit).count();
    let [quarter, half] = [below(0.26), below(0.44)];
    near("area", quarter, half, 0.18 / 0.36);
    let small: Vec<_> = pictures.iter().filter(|it| part(it) < 0.44).collect();
    // Both sides of the middle are equally likely.
    let balanced = |what: &str, offset: &dyn Fn(&PictureDraw) -> f64| {
        let [below, above] = [-1.0, 1.0].map(|side| small.iter().filter(|it| side * offset(it) > 0.0).count());
        near(what, below, below + above, 0.5);
    };
    balanced("ratio", &|it| ratio(it).ln());
    balanced("rows", &|it| it.top as f64 + it.height as f64 / 2.0 - 20.0);
    balanced("columns", &|it| it.left as f64 + it.width as f64 / 2.0 - 25.0);
    let same = |seed, epoch| draws(&all, seed, epoch).pictures.iter().zip(&pictures).filter(|(a, b)| a == b).count();
    assert_eq!(same(7, 3), count);
    assert!(same(7, 4) < 20 && same(8, 3) < 20);
}

#[test]
fn operations_are_equally_likely_and_jitters_come_in_any_order() {
    let augment = RandAugment { count: 2, magnitude: 9 };
    let all = Transforms { rand_augment: Some(augment), color_jitter: [0.4, 0.3, 0.2, 0.1], ..Transforms::default() };
    let drawn = draws(&all, 7, 3);
    let (count, of) = (drawn.pictures.len(), |position: usize| drawn.ops_of(position));
    assert_eq!((drawn.ops.len(), drawn.matrices.len()), (6 * count, 10));
    for at in 0..2 {
        for (index, (_, signed)) in RandAugment::OPS.into_iter().enumerate() {
            for negative in if signed { &[false, true][..] } else { &[false] } {
                let op = augment.op(index, *negative);
                let hits = (0..count).filter(|&position| of(position)[at] == op).count();
                near(&format!("{op:?}"), hits, count, if signed { 1.0 / 28.0 } else { 1.0 / 14.0 });
            }
        }
    }
    let is_hue = |op: &PixelOp| matches!(op, PixelOp::Hue(_));
    for at in 2..6 {
        near("hue", (0..count).filter(|&position| is_hue(&of(position)[at])).count(), count, 0.25);
    }
    let ranges = |op: &PixelOp| match *op {
        PixelOp::Brightness(factor) => (0.6..=1.4).contains(&factor),
        PixelOp::Contrast(factor) => (0.7..=1.3).contains(&factor),
        PixelOp::Saturation(factor) => (0.8..=1.2).contains(&factor),
        PixelOp::Hue(shift) => shift <= 25 || shift >= 231,
        _ => false,
    };
    assert!((0..count).all(|position| of(position)[2..].iter().all(ranges)));
    let dark = |op: &PixelOp| matches!(op, PixelOp::Brightness(factor) if *factor < 0.8);
    near("dark", (0..count).filter(|&position| of(position)[2..].iter().any(dark)).count(), count, 0.25);
}

#[test]
fn rectangles_are_erased_with_the_given_probability() {
    let all = Transforms { erasing: 0.25, ..Transforms::default() };
    let Draws { pictures, .. } = draws(&all, 7, 3);
    let size = |[rows, columns]: &[Range<usize>; 2]| rows.len() * columns.len();
    let erased: Vec<_> = pictures.iter().filter(|it| size(&it.erased) > 0).collect();
    near("erased", erased.len(), pictures.len(), 0.25);
    assert!(erased.iter().all(|it| (0.01..0.36).contains(&(size(&it.erased) as f64 / 1024.0))));
    assert!(erased.iter().all(|it| it.erased.iter().all(|range| range.end <= 32)));
}

#[test]
fn a_step_without_draws_is_an_error() {
    let mut lab = cpu();
    let shape = Shape::new(4, 4, 3);
    load(&mut lab, shape, vec![7; shape.len()]);
    let output = lab.empty(Region::Arena, shape.len());
    let padding_mode = PaddingMode::Constant;
    let stage = Stage { stored: shape, padding_mode, resizes: false, op_count: 1, erases: false };
    assert!(lab.try_run(Augment { stage, shape, augmentation: None, output }).is_err());
    let stage = Stage { op_count: 0, erases: true, ..stage };
    assert!(lab.try_run(Augment { stage, shape, augmentation: None, output }).is_err());
}
