//! Mixup and cutmix: torchvision's images and rectangles, PyTorch's losses of mixed and weighted labels, and the
//! distribution of what is drawn.

use cnn_cuda::ops::{
    Backend, Cut, DataSets, LossGradient, LossScale, Metrics, Mix, MixImages, Mixing, Region, SoftmaxCrossEntropy,
};
use cnn_cuda::shape::Shape;
use serde_json::Value;

use super::lab::{Lab, random};
use super::{FP32, Tolerance, compare, cpu};

fn reference() -> Value {
    let text = std::fs::read_to_string("tests/reference/mixing.json").expect("the committed reference");
    serde_json::from_str(&text).expect("JSON")
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

/// `[batch][channels][height][width]` as `[batch][height][width][channels]`.
fn nhwc(values: &[f64], shape: Shape) -> Vec<f32> {
    let mut all = vec![0.0; values.len()];
    for (index, &value) in values.iter().enumerate() {
        let (image, at) = (index / shape.len(), index % shape.len());
        let (channel, pixel) = (at / shape.pixels(), at % shape.pixels());
        all[image * shape.len() + pixel * shape.channels + channel] = value as f32;
    }
    all
}

/// Mixes batches as torchvision does, bit for bit if the storage has all bits. Tests of other backends use it too.
pub fn check_images<B: Backend>(lab: &mut Lab<B>, tolerance: Tolerance) {
    let reference = reference();
    let [channels, height, width] = numbers(&reference["shape"])[..] else { panic!("no shape") };
    let shape = Shape::new(height as usize, width as usize, channels as usize);
    let batch = nhwc(&numbers(&reference["batch"]), shape);
    for case in reference["images"].as_array().expect("cases") {
        lab.clear();
        let (lambda, count) = (number(&case["lambda"]) as f32, number(&case["count"]) as usize);
        let mix = match numbers_or_none(&case["pixel"]) {
            None => Mix::mixup(lambda),
            Some(pixel) => Mix::cutmix(shape, lambda, pixel[1] as u32, pixel[0] as u32),
        };
        lab.backend.set_mixes(&[mix]).expect("mixes");
        let input = lab.put(Region::Arena, &batch[..count * shape.len()]);
        let output = lab.empty(Region::Arena, input.len);
        lab.run(MixImages { shape, input, output });
        let expected: Vec<f64> = nhwc(&numbers(&case["mixed"]), shape).into_iter().map(f64::from).collect();
        compare(&format!("{} of {count} images, λ {lambda}", case["name"]), &lab.get(output), &expected, tolerance);
    }
}

fn numbers_or_none(value: &Value) -> Option<Vec<f64>> {
    (!value.is_null()).then(|| numbers(value))
}

/// Runs a mix, so that the next loss uses it.
fn mix_something<B: Backend>(lab: &mut Lab<B>, mix: Mix) {
    let shape = Shape::new(1, 1, 1);
    let input = lab.put(Region::Arena, &[0.0; 2]);
    let output = lab.empty(Region::Arena, 2);
    lab.backend.set_mixes(&[mix]).expect("mixes");
    lab.run(MixImages { shape, input, output });
}

/// The loss and the gradient of a batch.
fn loss_of<B: Backend>(
    lab: &mut Lab<B>,
    logits: &[f32],
    labels: &[u32],
    gradient: LossGradient<()>,
) -> (f32, Vec<f32>) {
    let (span, d_span) = (lab.put(Region::Arena, logits), lab.empty(Region::Arena, logits.len()));
    if lab.backend.loss_scale().expect("scale").is_some() {
        lab.backend.set_loss_scale(LossScale { scale: 1.0, good_steps: 0, skipped_steps: 0 }).expect("scale");
    }
    lab.backend.set_metrics(Metrics::default()).expect("metrics");
    lab.backend.set_labels(labels).expect("labels");
    let gradient = Some(gradient.map(&mut |_, ()| d_span));
    lab.run(SoftmaxCrossEntropy { classes: logits.len() / labels.len(), logits: span, gradient });
    let metrics = lab.backend.read_metrics().expect("metrics");
    assert_eq!((metrics.samples, metrics.steps, metrics.first_bad_step), (labels.len() as u64, 1, None));
    (metrics.loss() as f32, lab.get(d_span))
}

/// Compares losses and gradients of mixed, smoothed and weighted labels with PyTorch's. Tests of other backends use it
/// too.
pub fn check_losses<B: Backend>(lab: &mut Lab<B>, tolerance: Tolerance) {
    let reference = reference();
    let [logits, weights] =
        ["logits", "weights"].map(|key| numbers(&reference[key]).iter().map(|&it| it as f32).collect::<Vec<_>>());
    let labels: Vec<u32> = numbers(&reference["labels"]).iter().map(|&label| label as u32).collect();
    lab.backend.set_class_weights(&weights).expect("weights");
    for case in reference["losses"].as_array().expect("cases") {
        lab.clear();
        let lambda = case["lambda"].as_f64();
        if let Some(lambda) = lambda {
            mix_something(lab, Mix::mixup(lambda as f32));
        }
        let (smoothing, weighted) = (number(&case["smoothing"]) as f32, case["weighted"] == true);
        let gradient = LossGradient { smoothing, weighted, mixed: lambda.is_some(), ..LossGradient::new(()) };
        let (loss, d_logits) = loss_of(lab, &logits, &labels, gradient);
        let what = format!("λ {lambda:?}, smoothing {smoothing}, weighted: {weighted}");
        compare(&format!("loss, {what}"), &[loss], &[number(&case["loss"])], tolerance);
        compare(&format!("gradient, {what}"), &d_logits, &numbers(&case["gradient"]), tolerance);
    }
}

/// The loss and gradient in f64, class by class.
fn expected(logits: &[f32], labels: &[u32], weights: &[f32], mix: Option<Mix>, smoothing: f64) -> (f64, Vec<f64>) {
    let (count, classes) = (labels.len(), weights.len());
    let divisor = match mix {
        Some(_) => count as f64,
        None => labels.iter().map(|&label| f64::from(weights[label as usize])).sum(),
    };
    let (mut loss, mut gradient) = (0.0, Vec::new());
    for (index, row) in logits.chunks(classes).enumerate() {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        let is = |sample: usize, class: usize| f64::from(u8::from(labels[sample] as usize == class));
        let previous = if index == 0 { count - 1 } else { index - 1 };
        let target = |class: usize| {
            let mixed = |mix: Mix| f64::from(mix.own) * is(index, class) + f64::from(mix.other) * is(previous, class);
            let label = mix.map_or(is(index, class), mixed);
            f64::from(weights[class]) * ((1.0 - smoothing) * label + smoothing / classes as f64)
        };
        let mass: f64 = (0..classes).map(target).sum();
        for (class, &x) in row.iter().enumerate() {
            loss += target(class) * (sum.ln() - f64::from(x)) / divisor;
            gradient.push((mass * f64::from(x).exp() / sum - target(class)) / divisor);
        }
    }
    (loss, gradient)
}

/// Compares with f64 for few and many classes and rows, which the kernels divide differently. Tests of other backends use
/// it too.
pub fn check_sizes<B: Backend>(lab: &mut Lab<B>, tolerance: Tolerance) {
    for (count, classes) in [(1, 2), (3, 10), (5, 1000), (700, 10), (40, 300)] {
        let logits: Vec<f32> = random(count * classes, 0).iter().map(|x| x * 4.0).collect();
        let labels: Vec<u32> = (0..count as u32).map(|n| n * 7 % classes as u32).collect();
        let weights: Vec<f32> = random(classes, 1).iter().map(|x| (x + 1.25).abs()).collect();
        lab.backend.set_class_weights(&weights).expect("weights");
        for mix in [None, Some(Mix::mixup(0.625))] {
            lab.clear();
            mix.into_iter().for_each(|mix| mix_something(lab, mix));
            let gradient =
                LossGradient { smoothing: 0.125, weighted: true, mixed: mix.is_some(), ..LossGradient::new(()) };
            let (loss, d_logits) = loss_of(lab, &logits, &labels, gradient);
            let (expected_loss, expected_gradient) = expected(&logits, &labels, &weights, mix, 0.125);
            let what = format!("{count} × {classes}, {mix:?}");
            compare(&format!("loss of {what}"), &[loss], &[expected_loss], tolerance);
            compare(&format!("gradient of {what}"), &d_logits, &expected_gradient, tolerance);
        }
    }
}

/// Each step uses the next mix. Tests of other backends use it too.
pub fn check_order<B: Backend>(lab: &mut Lab<B>) {
    lab.clear();
    let shape = Shape::new(1, 1, 1);
    let (input, output) = (lab.put(Region::Arena, &[0.0, 1.0]), lab.empty(Region::Arena, 2));
    for mixes in [[0.5, 0.25, 1.0], [0.125, 0.0, 0.75]] {
        lab.backend.set_mixes(&mixes.map(Mix::mixup)).expect("mixes");
        for lambda in mixes {
            lab.run(MixImages { shape, input, output });
            assert_eq!(lab.get(output), [1.0 - lambda, lambda]);
        }
    }
    assert!(lab.backend.set_mixes(&[]).is_err());
}

#[test]
fn images_are_mixed_as_by_torchvision() {
    check_images(&mut cpu(), Tolerance { absolute: 1e-12, relative: 0.0 });
}

#[test]
fn losses_of_mixed_and_weighted_labels_are_those_of_pytorch() {
    check_losses(&mut cpu(), FP32);
}

#[test]
fn losses_of_mixed_and_weighted_labels_match_f64() {
    check_sizes(&mut cpu(), FP32);
}

#[test]
fn every_step_has_its_own_mix() {
    check_order(&mut cpu());
}

#[test]
fn a_loss_without_its_weights_or_mix_is_an_error() {
    let mut lab = cpu();
    lab.backend.set_labels(&[0]).expect("labels");
    let (logits, d_logits) = (lab.put(Region::Arena, &[0.0, 0.0]), lab.empty(Region::Arena, 2));
    let plain = LossGradient::new(d_logits);
    for gradient in [LossGradient { weighted: true, ..plain }, LossGradient { mixed: true, ..plain }] {
        let loss = SoftmaxCrossEntropy { classes: 2, logits, gradient: Some(gradient) };
        assert!(lab.try_run(loss).is_err(), "{gradient:?}");
    }
}

#[test]
fn rectangles_are_those_of_torchvision() {
    for case in reference()["boxes"].as_array().expect("cases") {
        let value = |key: &str| number(&case[key]);
        let shape = Shape::new(value("height") as usize, value("width") as usize, 3);
        let mix = Mix::cutmix(shape, value("lambda") as f32, value("row") as u32, value("column") as u32);
        let [left, top, right, bottom] = numbers(&case["box"])[..] else { panic!("{case}") };
        let [top, bottom, left, right] = [top, bottom, left, right].map(|side| side as u32);
        assert_eq!(mix.cut, Some(Cut { top, bottom, left, right }), "{case}");
        assert_eq!((mix.own, mix.other), (value("adjusted") as f32, (1.0 - value("adjusted")) as f32), "{case}");
    }
}

/// The hits of n draws with probability p must be within five standard deviations of their mean.
fn near(what: &str, hits: usize, n: usize, p: f64) {
    let (n, hits) = (n as f64, hits as f64);
    assert!((hits - n * p).abs() < 5.0 * (n * p * (1.0 - p)).sqrt(), "{what}: {hits} of {n}, not {p}");
}

#[test]
fn lambda_has_a_beta_distribution() {
    let (shape, n) = (Shape::new(8, 8, 1), 20_000);
    let draw = |mixing: Mixing, seed: u64, epoch: u32| -> Vec<Mix> {
        (0..n as u64).filter_map(|step| mixing.draw(shape, seed, epoch, step)).collect()
    };
    let mixup = |alpha| Mixing { mixup: Some(alpha), cutmix: None };
    for alpha in [0.1_f32, 0.2, 0.5, 1.0, 2.0, 8.0] {
        let lambdas: Vec<f64> = draw(mixup(alpha), 7, 3).iter().map(|mix| f64::from(mix.own)).collect();
        let variance = lambdas.iter().map(|lambda| (lambda - 0.5).powi(2)).sum::<f64>() / n as f64;
        // Of Beta(α, α). The fourth moment of the deviation is at most a quarter of the variance.
        let exact = 0.25 / (2.0 * f64::from(alpha) + 1.0);
        assert!(
            (variance - exact).abs() < 5.0 * (0.25 * exact / n as f64).sqrt(),
            "α {alpha}: {variance}, not {exact}"
        );
        near("above a half", lambdas.iter().filter(|&&lambda| lambda > 0.5).count(), n, 0.5);
        assert!(lambdas.iter().all(|lambda| (0.0..=1.0).contains(lambda)));
    }
    let uniform = draw(mixup(1.0), 7, 3);
    for tenth in 1..10 {
        let below = uniform.iter().filter(|mix| mix.own < tenth as f32 / 10.0).count();
        near("below", below, n, f64::from(tenth) / 10.0);
    }
    // Of Beta(½, ½), the arcsine distribution.
    let half = draw(mixup(0.5), 7, 3);
    near(
        "arcsine",
        half.iter().filter(|mix| mix.own < 0.1).count(),
        n,
        2.0 / std::f64::consts::PI * 0.1_f64.sqrt().asin(),
    );
    let both = Mixing { mixup: Some(1.0), cutmix: Some(1.0) };
    let drawn = draw(both, 7, 3);
    near("cutmix", drawn.iter().filter(|mix| mix.cut.is_some()).count(), n, 0.5);
    let same = |seed, epoch| draw(both, seed, epoch).iter().zip(&drawn).filter(|(a, b)| a == b).count();
    assert_eq!(same(7, 3), n);
    assert!(same(8, 3) < n / 50 && same(7, 4) < n / 50, "only small rectangles are the same by chance");
    assert!(draw(Mixing::default(), 7, 3).is_empty());
    for alpha in [1e-30, 1e30] {
        assert!(draw(mixup(alpha), 1, 1).iter().all(|mix| (0.0..=1.0).contains(&mix.own)), "{alpha}");
    }
}
