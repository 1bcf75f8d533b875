//! Pictures to evaluate are resized and cropped as torchvision does it, and those to train with may have another size.

use std::fs;
use std::path::Path;

use cnn_cuda::data::picture::read_cropped;
use cnn_cuda::data::{Dataset, Residency, TrainPictures, ValidationOptions};
use cnn_cuda::shape::Shape;
use safetensors::SafeTensors;
use serde_json::Value;

use super::folder::load_with;
use super::{assert_contains, message};

/// A picture of `tests/reference/crops.py`: the file, the sides of its crop, the side before the crop, and the pixels.
struct Reference {
    name: String,
    file: Vec<u8>,
    crop: usize,
    resize: usize,
    pixels: Vec<u8>,
}

fn references() -> Vec<Reference> {
    let bytes = fs::read("tests/reference/crops.safetensors").unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let crops: Value = serde_json::from_str(&metadata.metadata().clone().unwrap()["crops"]).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let of = |kind: &str, name: &str| tensors.tensor(&format!("{kind}.{name}")).unwrap().data().to_vec();
    let side = |value: &Value| value.as_u64().unwrap() as usize;
    let one = |(name, sides): (&String, &Value)| Reference {
        name: name.clone(),
        file: of("file", name),
        crop: side(&sides["crop"]),
        resize: side(&sides["resize"]),
        pixels: of("pixels", name),
    };
    crops.as_object().unwrap().iter().map(one).collect()
}

#[test]
fn pixels_are_those_of_torchvision() {
    let folder = tempfile::tempdir().unwrap();
    let all = references();
    assert_eq!(all.len(), 8);
    for Reference { name, file, crop, resize, pixels } in all {
        let path = folder.path().join(format!("{name}.png"));
        fs::write(&path, file).unwrap();
        let shape = Shape::new(crop, crop, pixels.len() / (crop * crop));
        let read = read_cropped(&path, shape, crop as f64 / resize as f64).unwrap();
        assert!(read.pixels == pixels, "{name}");
    }
}

/// Writes three classes of pictures of 40×40, the first of which in each class cannot be read.
fn write_set(root: &Path) {
    for (class, file) in ["gray-exact", "gray-large", "gray-seventy"].into_iter().enumerate() {
        let file = references().into_iter().find(|it| it.name == file).unwrap().file;
        for number in 0..11 {
            let path = root.join(["a", "b", "c"][class]).join(format!("{number:02}.png"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, if number == 0 { &file[..60] } else { &file[..] }).unwrap();
        }
    }
}

fn first(set: &Dataset, split: &str) -> Vec<u8> {
    let (split, shape) = match split {
        "train" => (&set.train, set.train.shape.unwrap_or(set.shape)),
        "val" => (&set.val, set.shape),
        _ => (&set.test, set.shape),
    };
    let mut bytes = vec![0; shape.len()];
    match &split.streamed {
        Some(streamed) => streamed.source.read(&[0], &mut bytes).unwrap(),
        None => bytes.copy_from_slice(&split.images[..shape.len()]),
    }
    bytes
}

#[test]
fn pictures_to_train_with_have_their_own_size_and_the_others_are_cropped() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path());
    let path = folder.path().join("a/01.png");
    let read = |side, crop| read_cropped(&path, Shape::new(side, side, 1), crop).unwrap().pixels;
    let load = |residency, change: &dyn Fn(&mut cnn_cuda::data::PictureOptions)| {
        load_with(folder.path(), |options| {
            let validation = ValidationOptions { fraction: 0.2, seed: 3 };
            (options.residency, options.validation) = (residency, Some(validation));
            (options.pictures.image_size, options.pictures.max_bad) = (Some((28, 28)), 3);
            change(&mut options.pictures);
        })
    };
    let usual = load(Residency::Auto, &|_| {}).unwrap();
    for residency in [Residency::Resident, Residency::Stream] {
        let cropped = load(residency, &|pictures| pictures.crop = 0.875).unwrap();
        let larger =
            load(residency, &|pictures| (pictures.crop, pictures.train) = (0.7, TrainPictures::Sized(36, 36))).unwrap();
        for (set, train, crop) in [(&cropped, read(28, 1.0), 0.875), (&larger, read(36, 1.0), 0.7)] {
            assert_eq!((set.shape, set.train.shape.unwrap().len()), (Shape::new(28, 28, 1), train.len()));
            // The same pictures are held out, whatever their size.
            let labels = |set: &Dataset| [&set.train, &set.val, &set.test].map(|split| split.labels.clone());
            assert_eq!(labels(set), labels(&usual));
            assert_eq!((first(set, "train"), first(set, "val")), (train, read(28, crop)));
            assert_eq!(first(set, "test"), read(28, crop));
        }
        assert_eq!((&cropped.mean, &cropped.std), (&usual.mean, &usual.std));
        assert_eq!(cropped.fingerprint(), usual.fingerprint());
        assert_ne!(cropped.test_fingerprint(), usual.test_fingerprint());
        assert_ne!(larger.fingerprint(), usual.fingerprint());
    }
    let few = load(Residency::Auto, &|pictures| (pictures.crop, pictures.max_bad) = (0.875, 2));
    assert_contains(&message(few), &["3 pictures are corrupt", "--max-bad 2"]);
    let without_size = load(Residency::Auto, &|pictures| (pictures.crop, pictures.image_size) = (0.875, None));
    assert_contains(&message(without_size), &["--crop-pct", "--image-size"]);
}
