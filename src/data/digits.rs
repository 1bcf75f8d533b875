//! The embedded synthetic set of digits.

use super::{Dataset, Split};
use crate::shape::Shape;

/// One image of each class.
pub fn generate() -> Dataset {
    let shape = Shape::new(28, 28, 1);
    let images = (0..10_u8).flat_map(|class| vec![class * 25; shape.len()]).collect();
    let split = Split { images, labels: (0..10).collect() };
    Dataset {
        name: "digits".into(),
        shape,
        classes: (0..10).map(|class| class.to_string()).collect(),
        mean: vec![0.5],
        std: vec![0.5],
        train: split.clone(),
        test: split,
    }
}
