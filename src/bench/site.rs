//! Names of operators with their shapes, so that other programs can time the same operation. Convolutions and linear
//! layers have names of this form too, which a backend with a choice of algorithms gives them.

use crate::ops::{
    Activation, BatchNorm2dBackwardInput, BatchNorm2dBackwardSums, BatchNorm2dForward, Gather, MaxPool2d,
    MaxPool2dBackward, MaxPool2dForward, Op, OptimizerUpdate, Precision, Rule, SoftmaxCrossEntropy,
};

/// The name of an operator that is no convolution or linear layer, with its shape, fused operations, batch and
/// precision. `None` for operators that take little time in the networks of this program, and for rare settings.
pub fn site(op: &Op, precision: Precision) -> Option<String> {
    let (name, fused, batch) = match op {
        Op::Gather(Gather { shape, augmentation: None, output, .. }) => {
            (format!("gather {shape}"), vec![], output.len / shape.len())
        }
        Op::BatchNorm2dForward(BatchNorm2dForward { op, activation, input, training: true, residual, .. }) => {
            let fused = vec![residual.map(|_| "sum"), relu(*activation)?];
            (format!("batch_norm2d_forward {}", op.input), fused, input.len / op.input.len())
        }
        Op::BatchNorm2dBackwardSums(BatchNorm2dBackwardSums { op, activation, input, output, .. }) => {
            let fused = vec![output.map(|_| "sum"), relu(*activation)?];
            (format!("batch_norm2d_backward_sums {}", op.input), fused, input.len / op.input.len())
        }
        Op::BatchNorm2dBackwardInput(BatchNorm2dBackwardInput { op, activation, input, .. }) => {
            (format!("batch_norm2d_backward {}", op.input), vec![relu(*activation)?], input.len / op.input.len())
        }
        Op::MaxPool2dForward(MaxPool2dForward { op, input, argmax: Some(_), .. }) => {
            (pooling("forward", *op)?, vec![], input.len / op.input.len())
        }
        Op::MaxPool2dBackward(MaxPool2dBackward { op, d_input, epilogue, .. }) => {
            let relu = epilogue.map_or(Some(None), |epilogue| relu(epilogue.activation))?;
            let bias = epilogue.and_then(|epilogue| epilogue.d_bias).map(|_| "bias gradient");
            (pooling("backward", *op)?, vec![relu, bias], d_input.len / op.input.len())
        }
        Op::SoftmaxCrossEntropy(SoftmaxCrossEntropy { classes, logits, gradient: Some(gradient) }) => {
            let bias = gradient.d_bias.map(|_| "bias gradient");
            (format!("softmax_cross_entropy {classes}"), vec![bias], logits.len / classes)
        }
        Op::OptimizerUpdate(OptimizerUpdate { op, weights, momentum, .. })
            if matches!(op.rule, Rule::Sgd(_)) && op.clip_norm.is_none() && op.average_decay.is_none() =>
        {
            return Some(format!("sgd {}{}, {precision}", weights.len, momentum.map_or("", |_| ", with momentum")));
        }
        _ => return None,
    };
    let fused: Vec<&str> = fused.into_iter().flatten().collect();
    let fused = if fused.is_empty() { String::new() } else { format!(", with {}", fused.join(" and ")) };
    Some(format!("{name}, batch {batch}{fused}, {precision}"))
}

/// `None` for other activations than ReLU.
fn relu(activation: Activation) -> Option<Option<&'static str>> {
    match activation {
        Activation::Identity => Some(None),
        Activation::Relu => Some(Some("relu")),
        _ => None,
    }
}

fn pooling(direction: &str, op: MaxPool2d) -> Option<String> {
    let MaxPool2d { input, window, ceil_mode } = op;
    let geometry = format!("k{} s{} p{}", window.kernel, window.stride, window.padding);
    (!ceil_mode).then(|| format!("max_pool2d_{direction} {input} {geometry}"))
}
