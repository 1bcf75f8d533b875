//! Compares every operator with PyTorch's numbers (`tests/reference/ops.safetensors`).

use std::fs;

use cnn_cuda::ops::{Activation, Backend, LossGradient, Metrics, Region, SoftmaxCrossEntropy};
use safetensors::SafeTensors;
use serde_json::Value;

use super::case::{Case, adaptive_avg_pool, avg_pool, conv, linear, lrn, max_pool};
use super::lab::Lab;
use super::{FP32, Tolerance, compare, cpu};

/// A file of named tensors.
pub struct Tensors<'a>(SafeTensors<'a>);

impl<'a> Tensors<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(SafeTensors::deserialize(bytes).expect("a valid file"))
    }

    /// Values and shape of an fp32 tensor.
    pub fn get(&self, name: &str) -> (Vec<f32>, Vec<usize>) {
        let view = self.0.tensor(name).unwrap_or_else(|_| panic!("{name} is missing"));
        let floats = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")));
        (floats.collect(), view.shape().to_vec())
    }

    pub fn bytes(&self, name: &str) -> &[u8] {
        self.0.tensor(name).unwrap_or_else(|_| panic!("{name} is missing")).data()
    }

    pub fn integers(&self, name: &str) -> Vec<i64> {
        self.bytes(name).chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
    }

    /// A tensor in the program's layout: four dimensions are converted from NCHW to NHWC, weights from OIHW to OHWI.
    pub fn channels_last(&self, name: &str) -> Vec<f32> {
        let (values, shape) = self.get(name);
        let [n, c, h, w] = shape[..] else { return values };
        let mut result = vec![0.0; values.len()];
        for (index, value) in values.into_iter().enumerate() {
            let (sample, channel, pixel) = (index / (c * h * w), index / (h * w) % c, index % (h * w));
            result[(sample * h * w + pixel) * c + channel] = value;
        }
        assert!(result.len() == n * c * h * w);
        result
    }
}

/// Runs all of PyTorch's cases on a backend and returns their number.
pub fn check_all<B: Backend>(lab: &mut Lab<B>, tolerance: Tolerance) -> usize {
    let bytes = fs::read("tests/reference/ops.safetensors").expect("the committed reference");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
    let listed = &header.metadata().as_ref().expect("metadata")["cases"];
    let cases: Vec<Value> = serde_json::from_str(listed).expect("a list of cases");
    let tensors = Tensors::new(&bytes);
    for case in &cases {
        let (name, op) = (case["name"].as_str().expect("name"), case["op"].as_str().expect("op"));
        match op {
            "cross_entropy" => check_cross_entropy(lab, &tensors, name, &case["params"], tolerance),
            _ => check_case(lab, &tensors, name, op, &case["params"], tolerance),
        }
    }
    cases.len()
}

fn check_case<B: Backend>(
    lab: &mut Lab<B>,
    tensors: &Tensors,
    name: &str,
    op: &str,
    params: &Value,
    tolerance: Tolerance,
) {
    let number = |key: &str| params[key].as_u64().expect(key) as usize;
    let first = if matches!(op, "add" | "concat") { "a" } else { "input" };
    let (values, shape) = tensors.get(&format!("{name}.{first}"));
    let batch = shape[0];
    let image = || [shape[2], shape[3], shape[1]];
    let window = || [number("kernel"), number("stride"), number("padding")];
    let mut inputs = vec![first];
    let case = match op {
        "conv2d" => grouped(conv(image(), number("out_channels"), window(), batch), params),
        "max_pool2d" => rounded(max_pool(image(), window(), batch), params),
        "avg_pool2d" => rounded(avg_pool(image(), window(), batch), params),
        "adaptive_avg_pool2d" => adaptive_avg_pool(image(), [number("height"), number("width")], batch),
        "lrn" => {
            let factor = |key: &str| params[key].as_f64().expect(key) as f32;
            let factors = [factor("alpha"), factor("beta"), factor("k")];
            lrn([batch * shape[2] * shape[3], shape[1]], number("size"), factors)
        }
        "linear" => linear(number("in_features"), number("out_features"), batch),
        "relu" => Case::Activation { op: Activation::Relu, len: values.len() },
        "tanh" => Case::Activation { op: Activation::Tanh, len: values.len() },
        "leaky_relu" => {
            let slope = params["slope"].as_f64().expect("slope") as f32;
            Case::Activation { op: Activation::LeakyRelu { slope }, len: values.len() }
        }
        "add" => Case::Add { len: values.len() },
        "concat" => {
            let channels: Vec<usize> = params["channels"]
                .as_array()
                .expect("list")
                .iter()
                .map(|c| c.as_u64().expect("count") as usize)
                .collect();
            Case::Concat { pixels: shape[2] * shape[3], channels, batch }
        }
        "flatten_linear" => return super::pytorch_flatten::check(tensors, name, params),
        other => panic!("no such operator: {other}"),
    };
    match &case {
        Case::Conv2d { .. } | Case::Linear { .. } => inputs.extend(["weight", "bias"]),
        Case::Add { .. } => inputs.push("b"),
        Case::Concat { channels, .. } => inputs.extend(["b", "c"].iter().take(channels.len() - 1)),
        _ => {}
    }
    let tensor = |key: &str| tensors.channels_last(&format!("{name}.{key}"));
    let values: Vec<Vec<f32>> = inputs.iter().map(|key| tensor(key)).collect();
    let results = case.run(lab, &values, &tensor("d_output"));
    let as_f64 = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
    compare(&format!("{name} output"), &results.output, &as_f64(tensor("output")), tolerance);
    for (key, gradient) in inputs.iter().zip(&results.gradients) {
        compare(&format!("{name} d_{key}"), gradient, &as_f64(tensor(&format!("d_{key}"))), tolerance);
    }
}

/// The convolution with the case's groups and dilation, if it has any.
fn grouped(case: Case, params: &Value) -> Case {
    let number = |key: &str| params[key].as_u64().unwrap_or(1) as usize;
    case.grouped(number("groups"), number("dilation"))
}

/// The pooling in PyTorch's `ceil_mode`, if the case has it.
fn rounded(case: Case, params: &Value) -> Case {
    if params["ceil_mode"].as_bool() == Some(true) { case.with_ceil_mode() } else { case }
}

fn check_cross_entropy<B: Backend>(
    lab: &mut Lab<B>,
    tensors: &Tensors,
    name: &str,
    params: &Value,
    tolerance: Tolerance,
) {
    let (logits, shape) = tensors.get(&format!("{name}.logits"));
    let labels: Vec<u32> = tensors.integers(&format!("{name}.targets")).iter().map(|&t| t as u32).collect();
    lab.clear();
    let (span, d_span) = (lab.put(Region::Arena, &logits), lab.empty(Region::Arena, logits.len()));
    lab.backend.set_metrics(Metrics::default()).expect("metrics");
    lab.backend.set_labels(&labels).expect("labels");
    let smoothing = params["smoothing"].as_f64().unwrap_or(0.0) as f32;
    let gradient = Some(LossGradient { smoothing, ..LossGradient::new(d_span) });
    lab.run(SoftmaxCrossEntropy { classes: shape[1], logits: span, gradient });
    let metrics = lab.backend.read_metrics().expect("metrics");
    let expected = |key: &str| tensors.get(&format!("{name}.{key}")).0.into_iter().map(f64::from).collect::<Vec<_>>();
    compare(&format!("{name} loss"), &[metrics.loss() as f32], &expected("loss"), tolerance);
    compare(&format!("{name} d_logits"), &lab.get(d_span), &expected("d_logits"), tolerance);
    assert_eq!(metrics.correct as i64, tensors.integers(&format!("{name}.correct"))[0], "{name} correct");
}

#[test]
fn all_operators_match_pytorch() {
    assert!(check_all(&mut cpu(), FP32) >= 60, "cases are missing from the reference");
}
