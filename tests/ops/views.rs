//! Views of test images, and the mean of their logits.

use std::sync::Arc;

use cnn_cuda::images::HostImages;
use cnn_cuda::ops::{AddView, Backend, Gather, Normalise, Region, Subset, TestViews, View};
use cnn_cuda::shape::Shape;

use super::cpu;
use super::lab::{Lab, random};

/// A view of `image`, step by step: reflected by one pixel on each side, cut out again, and mirrored.
fn seen(view: View, shape: Shape, image: &[u8]) -> Vec<u8> {
    let Shape { height, width, channels } = shape;
    let mirrored = |side: usize| {
        let inner: Vec<usize> = (0..side).collect();
        [&[1], &inner[..], &[side - 2]].concat()
    };
    let begin = (1 + view.shift) as usize;
    let (rows, columns) = (mirrored(height), mirrored(width));
    let mut pixels = Vec::new();
    for row in &rows[begin..begin + height] {
        let mut line = columns[begin..begin + width].to_vec();
        if view.flip {
            line.reverse();
        }
        for column in line {
            pixels.extend_from_slice(&image[(row * width + column) * channels..][..channels]);
        }
    }
    pixels
}

/// Gathers all views of two batches of a set, resident and streamed. Tests of other backends use it too.
pub fn check_views<B: Backend>(lab: &mut Lab<B>, rounded: fn(f32) -> f32) {
    for shape in [Shape::new(4, 5, 3), Shape::new(2, 2, 1), Shape::new(3, 7, 6)] {
        lab.clear();
        let (images, normalise) = set(shape);
        let order = [4, 0, 3, 1, 2];
        let output = lab.empty(Region::Arena, 2 * shape.len());
        for streamed in [false, true] {
            if streamed {
                let source = Arc::new(HostImages { images: images.clone(), image_len: shape.len() });
                lab.backend.stream_subset(Subset::Test, &normalise, source, vec![0; 5], 2).expect("streamed");
            } else {
                lab.backend.load_subset(Subset::Test, &normalise, images.clone(), vec![0; 5]).expect("loaded");
            }
            lab.backend.set_order(Subset::Test, &order, 0).expect("an order");
            for batch in [&order[..2], &order[2..4], &order[4..]] {
                for (view, _) in TestViews::FlipShift.list() {
                    let output = output.first(batch.len() * shape.len());
                    lab.run(Gather { subset: Subset::Test, shape, augmentation: None, view, output });
                    let expected: Vec<f32> = batch
                        .iter()
                        .flat_map(|&at| seen(view, shape, &images[at as usize * shape.len()..][..shape.len()]))
                        .enumerate()
                        .map(|(i, byte)| {
                            let channel = i % shape.channels;
                            rounded((f32::from(byte) / 255.0 - normalise.mean[channel]) / normalise.std[channel])
                        })
                        .collect();
                    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&lab.get(output)), bits(&expected), "{view:?} of {shape}, streamed: {streamed}");
                }
            }
        }
    }
}

fn set(shape: Shape) -> (Vec<u8>, Normalise) {
    let images = (0..5 * shape.len()).map(|i| (i * 37 % 256) as u8).collect();
    let channel = |c: usize| c as f32;
    let mean = (0..shape.channels).map(|c| 0.5 - 0.05 * channel(c)).collect();
    let std = (0..shape.channels).map(|c| 0.3 + 0.1 * channel(c)).collect();
    (images, Normalise { shape, mean, std })
}

/// Averages the logits of all views. Tests of other backends use it too.
pub fn check_average<B: Backend>(lab: &mut Lab<B>, rounded: fn(f32) -> f32) {
    for len in [1, 10, 777] {
        lab.clear();
        let average = lab.empty(Region::Arena, len);
        let mut expected = vec![0.0_f32; len];
        for (index, (_, weight)) in TestViews::FlipShift.list().into_iter().enumerate() {
            let values: Vec<f32> = random(len, index as u32).into_iter().map(rounded).collect();
            let logits = lab.put(Region::Arena, &values);
            lab.run(AddView { weight, logits, before: (index > 0).then_some(average), average });
            expected.iter_mut().zip(&values).for_each(|(sum, value)| *sum = rounded(weight * value + *sum));
        }
        assert_eq!(lab.get(average), expected, "{len} logits");
    }
}

#[test]
fn views_are_shifted_and_mirrored_images() {
    check_views(&mut cpu(), |value| value);
}

#[test]
fn logits_of_views_are_averaged() {
    check_average(&mut cpu(), |value| value);
}

#[test]
fn weights_of_views_add_up_to_one_and_the_last_view_goes_on() {
    for (views, count) in [(TestViews::None, 1), (TestViews::Flip, 2), (TestViews::FlipShift, 6)] {
        let list = views.list();
        assert_eq!((list.len(), list.iter().map(|(_, weight)| weight).sum::<f32>()), (count, 1.0));
        assert_eq!(list.iter().filter(|(view, _)| view.repeats).count(), count - 1);
        assert!(!list[count - 1].0.repeats);
    }
    assert!(TestViews::FlipShift.check(Shape::new(1, 8, 1)).is_err());
    assert!(TestViews::Flip.check(Shape::new(1, 8, 1)).is_ok());
}
