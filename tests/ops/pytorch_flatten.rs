//! A linear layer after a flatten: PyTorch orders its columns by channel, height, width; the program by height, width,
//! channel.

use cnn_cuda::network::Layout;
use cnn_cuda::shape::Shape;
use serde_json::Value;

use super::case::linear;
use super::pytorch::Tensors;
use super::{FP32, compare, cpu};

/// Converts PyTorch's weights as weight files are converted, and compares all results.
pub fn check(tensors: &Tensors, name: &str, params: &Value) {
    let number = |key: &str| params[key].as_u64().expect(key) as usize;
    let shape = Shape::new(number("height"), number("width"), number("channels"));
    let layout = Layout::Linear { out_features: number("out_features"), segments: vec![shape] };
    let tensor = |key: &str| tensors.channels_last(&format!("{name}.{key}"));
    let mut weight = vec![0.0; layout.len()];
    layout.memory_from_file(&tensor("weight"), &mut weight);
    let input = tensor("input"); // NHWC, the program's flattening order
    let batch = input.len() / shape.len();
    let case = linear(shape.len(), number("out_features"), batch);
    let results = case.run(&mut cpu(), &[input, weight, tensor("bias")], &tensor("d_output"));
    let mut d_weight = vec![0.0; layout.len()];
    layout.file_from_memory(&results.gradients[1], &mut d_weight);
    let as_f64 = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
    compare(&format!("{name} output"), &results.output, &as_f64(tensor("output")), FP32);
    compare(&format!("{name} d_input"), &results.gradients[0], &as_f64(tensor("d_input")), FP32);
    compare(&format!("{name} d_weight"), &d_weight, &as_f64(tensor("d_weight")), FP32);
}
