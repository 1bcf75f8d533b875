//! An operator's forward and backward call as a value that any backend can run.

use cnn_cuda::ops::{
    Activation, ActivationBackward, ActivationForward, AdaptiveAvgPool2d, AdaptiveAvgPool2dBackward,
    AdaptiveAvgPool2dForward, Add, AvgPool2d, AvgPool2dBackward, AvgPool2dForward, Backend, BatchNorm2d,
    BiasActivationBackward, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, CopyBuffer, Function,
    Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, Lrn, LrnBackward, LrnForward, MaxPool2d,
    MaxPool2dBackward, MaxPool2dForward, Pointwise, PointwiseBackward, PointwiseForward, Region, Subsample,
    SubsampleBackward, SubsampleForward,
};
use cnn_cuda::shape::{Shape, Window};

use super::lab::{Lab, random};

/// An operator on a batch.
#[derive(Clone, Debug)]
pub enum Case {
    /// Inputs: input, weight, bias.
    Conv2d {
        op: Conv2d,
        activation: Activation,
        batch: usize,
    },
    /// Inputs: input, weight, bias.
    Linear {
        op: Linear,
        activation: Activation,
        batch: usize,
    },
    /// Inputs: input, weight, bias and, if `residual` is set, the residual. Runs in training mode.
    BatchNorm2d {
        op: BatchNorm2d,
        activation: Activation,
        residual: bool,
        batch: usize,
    },
    MaxPool2d {
        op: MaxPool2d,
        batch: usize,
    },
    AvgPool2d {
        op: AvgPool2d,
        batch: usize,
    },
    AdaptiveAvgPool2d {
        op: AdaptiveAvgPool2d,
        batch: usize,
    },
    Lrn {
        op: Lrn,
        rows: usize,
    },
    Pointwise {
        op: Pointwise,
    },
    Activation {
        op: Activation,
        len: usize,
    },
    Add {
        len: usize,
    },
    Subsample {
        op: Subsample,
        batch: usize,
    },
    /// One input per channel count.
    Concat {
        pixels: usize,
        channels: Vec<usize>,
        batch: usize,
    },
}

/// The results of running a case.
pub struct Results {
    pub output: Vec<f32>,
    /// One per input.
    pub gradients: Vec<Vec<f32>>,
}

/// A convolution: input height, width, channels; output channels; kernel, stride, padding.
pub fn conv(input: [usize; 3], out_channels: usize, window: [usize; 3], batch: usize) -> Case {
    let op = Conv2d::new(shape(input), out_channels, self::window(window));
    Case::Conv2d { op, activation: Activation::Identity, batch }
}

pub fn max_pool(input: [usize; 3], window: [usize; 3], batch: usize) -> Case {
    Case::MaxPool2d { op: MaxPool2d { input: shape(input), window: self::window(window), ceil_mode: false }, batch }
}

pub fn avg_pool(input: [usize; 3], window: [usize; 3], batch: usize) -> Case {
    Case::AvgPool2d { op: AvgPool2d { input: shape(input), window: self::window(window), ceil_mode: false }, batch }
}

pub fn adaptive_avg_pool(input: [usize; 3], [height, width]: [usize; 2], batch: usize) -> Case {
    Case::AdaptiveAvgPool2d { op: AdaptiveAvgPool2d { input: shape(input), height, width }, batch }
}

/// Local response normalisation: rows and channels, size, and α, β, k.
pub fn lrn([rows, channels]: [usize; 2], size: usize, [alpha, beta, k]: [f32; 3]) -> Case {
    Case::Lrn { op: Lrn { input: Shape::flat(channels), size, alpha, beta, k }, rows }
}

pub fn linear(in_features: usize, out_features: usize, batch: usize) -> Case {
    Case::Linear { op: Linear { in_features, out_features }, activation: Activation::Identity, batch }
}

fn shape([height, width, channels]: [usize; 3]) -> Shape {
    Shape::new(height, width, channels)
}

fn window([kernel, stride, padding]: [usize; 3]) -> Window {
    Window { kernel, stride, padding }
}

impl Case {
    /// The same case with an activation.
    pub fn with(self, activation: Activation) -> Self {
        match self {
            Self::Conv2d { op, batch, .. } => Self::Conv2d { op, activation, batch },
            Self::Linear { op, batch, .. } => Self::Linear { op, activation, batch },
            other => panic!("{other:?} takes no activation"),
        }
    }

    /// The same convolution with these groups and this dilation.
    pub fn grouped(self, groups: usize, dilation: usize) -> Self {
        match self {
            Self::Conv2d { op, activation, batch } => {
                Self::Conv2d { op: Conv2d { groups, dilation, ..op }, activation, batch }
            }
            other => panic!("{other:?} has no groups"),
        }
    }

    /// The same pooling in PyTorch's `ceil_mode`, where the last window may extend past the padding.
    pub fn with_ceil_mode(self) -> Self {
        match self {
            Self::MaxPool2d { op, batch } => Self::MaxPool2d { op: MaxPool2d { ceil_mode: true, ..op }, batch },
            Self::AvgPool2d { op, batch } => Self::AvgPool2d { op: AvgPool2d { ceil_mode: true, ..op }, batch },
            other => panic!("{other:?} is not a pooling"),
        }
    }

    /// The lengths of the inputs.
    pub fn input_lens(&self) -> Vec<usize> {
        match self {
            Self::Conv2d { op, batch, .. } => vec![batch * op.input.len(), op.weight_len(), op.out_channels],
            Self::Linear { op, batch, .. } => vec![batch * op.in_features, op.weight_len(), op.out_features],
            Self::BatchNorm2d { op, residual, batch, .. } => {
                let (len, channels) = (batch * op.input.len(), op.input.channels);
                [vec![len, channels, channels], vec![len; usize::from(*residual)]].concat()
            }
            Self::MaxPool2d { op, batch } => vec![batch * op.input.len()],
            Self::AvgPool2d { op, batch } => vec![batch * op.input.len()],
            Self::Subsample { op, batch } => vec![batch * op.input.len()],
            Self::AdaptiveAvgPool2d { op, batch } => vec![batch * op.input.len()],
            Self::Lrn { op, rows } => vec![rows * op.input.channels],
            Self::Pointwise { op } => vec![op.input.len()],
            Self::Activation { len, .. } => vec![*len],
            Self::Add { len } => vec![*len, *len],
            Self::Concat { pixels, channels, batch } => channels.iter().map(|c| batch * pixels * c).collect(),
        }
    }

    pub fn random_inputs(&self) -> Vec<Vec<f32>> {
        let values = |(index, &len): (usize, &usize)| random(len, index as u32);
        let mut inputs: Vec<Vec<f32>> = self.input_lens().iter().enumerate().map(values).collect();
        if let Self::Pointwise { op: Pointwise { function: Function::SquareRoot, .. } } = self {
            // There is no root of negative numbers, and its slope is too steep near 0 for central differences.
            inputs[0].iter_mut().for_each(|value| *value = value.abs() + 0.25);
        }
        inputs
    }

    /// Runs forward, then backward from `d_output`.
    pub fn run<B: Backend>(&self, lab: &mut Lab<B>, inputs: &[Vec<f32>], d_output: &[f32]) -> Results {
        lab.clear();
        match self {
            Self::Conv2d { op, activation, .. } => run_conv(lab, *op, *activation, inputs, d_output),
            Self::Linear { op, activation, .. } => run_linear(lab, *op, *activation, inputs, d_output),
            Self::BatchNorm2d { op, activation, .. } => super::norm::run(lab, *op, *activation, inputs, d_output),
            Self::Concat { pixels, channels, .. } => super::join::run_concat(lab, *pixels, channels, inputs, d_output),
            _ => self.run_simple(lab, inputs, d_output),
        }
    }

    fn run_simple<B: Backend>(&self, lab: &mut Lab<B>, inputs: &[Vec<f32>], d_output: &[f32]) -> Results {
        let input = lab.put(Region::Arena, &inputs[0]);
        let (output, d_input) = (lab.empty(Region::Arena, d_output.len()), lab.empty(Region::Arena, input.len));
        let d_output = lab.put(Region::Arena, d_output);
        let mut twice = false;
        match *self {
            Self::MaxPool2d { op, .. } => {
                let argmax = lab.empty(Region::Indices, output.len);
                lab.run(MaxPool2dForward { op, input, output, argmax: Some(argmax) });
                lab.run(MaxPool2dBackward { op, d_output, argmax, d_input, epilogue: None });
            }
            Self::AvgPool2d { op, .. } => {
                lab.run(AvgPool2dForward { op, input, output });
                lab.run(AvgPool2dBackward { op, d_output, d_input });
            }
            Self::Subsample { op, .. } => {
                lab.run(SubsampleForward { op, input, output });
                lab.run(SubsampleBackward { op, d_output, d_input });
            }
            Self::AdaptiveAvgPool2d { op, .. } => {
                lab.run(AdaptiveAvgPool2dForward { op, input, output });
                lab.run(AdaptiveAvgPool2dBackward { op, d_output, d_input });
            }
            Self::Lrn { op, .. } => {
                lab.run(LrnForward { op, input, output });
                lab.run(LrnBackward { op, input, d_output, d_input });
            }
            Self::Pointwise { op } => {
                lab.run(PointwiseForward { op, input, output });
                lab.run(PointwiseBackward { op, input, d_output, d_input });
            }
            Self::Activation { op, .. } => {
                lab.run(ActivationForward { op, input, output });
                lab.run(ActivationBackward { op, output, d_output, d_input });
            }
            Self::Add { .. } => {
                let b = lab.put(Region::Arena, &inputs[1]);
                lab.run(Add { a: input, b, output });
                lab.run(CopyBuffer { input: d_output, output: d_input });
                twice = true;
            }
            ref other => panic!("{other:?} has its own function"),
        }
        let gradient = lab.get(d_input);
        let gradients = if twice { vec![gradient.clone(), gradient] } else { vec![gradient] };
        Results { output: lab.get(output), gradients }
    }
}

fn run_conv<B: Backend>(
    lab: &mut Lab<B>,
    op: Conv2d,
    activation: Activation,
    inputs: &[Vec<f32>],
    d_output: &[f32],
) -> Results {
    let input = lab.put(Region::Arena, &inputs[0]);
    let weight = lab.put(Region::Parameters, &inputs[1]);
    let bias = Some(lab.put(Region::Parameters, &inputs[2]));
    let output = lab.empty(Region::Arena, d_output.len());
    lab.run(Conv2dForward {
        op,
        activation,
        input,
        weight,
        bias,
        residual: None,
        output,
        pool: None,
        statistics: None,
    });
    let d_output = lab.put(Region::Arena, d_output);
    let (d_weight, d_bias) = (lab.empty(Region::Gradients, weight.len), lab.empty(Region::Gradients, op.out_channels));
    let d_input = lab.empty(Region::Arena, input.len);
    lab.run(BiasActivationBackward { activation, channels: op.out_channels, output, d_output, d_bias: Some(d_bias) });
    lab.run(Conv2dBackwardWeight { op, input, d_output, d_weight });
    let (added, norm) = (None, None);
    lab.run(Conv2dBackwardInput { op, d_output, weight, d_input, added, epilogue: None, norm });
    Results { output: lab.get(output), gradients: vec![lab.get(d_input), lab.get(d_weight), lab.get(d_bias)] }
}

fn run_linear<B: Backend>(
    lab: &mut Lab<B>,
    op: Linear,
    activation: Activation,
    inputs: &[Vec<f32>],
    d_output: &[f32],
) -> Results {
    let input = lab.put(Region::Arena, &inputs[0]);
    let weight = lab.put(Region::Parameters, &inputs[1]);
    let bias = Some(lab.put(Region::Parameters, &inputs[2]));
    let output = lab.empty(Region::Arena, d_output.len());
    lab.run(LinearForward { op, activation, input, weight, bias, output, relu_mask: None });
    let d_output = lab.put(Region::Arena, d_output);
    let (d_weight, d_bias) = (lab.empty(Region::Gradients, weight.len), lab.empty(Region::Gradients, op.out_features));
    let d_input = lab.empty(Region::Arena, input.len);
    lab.run(BiasActivationBackward { activation, channels: op.out_features, output, d_output, d_bias: Some(d_bias) });
    lab.run(LinearBackwardWeight { op, input, d_output, d_weight, d_bias: None });
    lab.run(LinearBackwardInput { op, d_output, weight, d_input, epilogue: None });
    Results { output: lab.get(output), gradients: vec![lab.get(d_input), lab.get(d_weight), lab.get(d_bias)] }
}
