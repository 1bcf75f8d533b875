//! Explanations give the numbers of PyTorch, captum and grad-cam (`tests/reference/explanations.safetensors`).

use std::fs;

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::Cuda;
use cnn_cuda::explain::{
    Attribution, Map, Occlusion, SmoothGrad, Strongest, Unit, deconvolve, explained_layer, find_layer, grad_cam,
    occlusion, saliency, shown_layers, smooth_grad, strongest_units,
};
use cnn_cuda::models;
use cnn_cuda::network::{Network, NodeId, ReceptiveField, Weights};
use cnn_cuda::ops::{Backend, Precision};
use cnn_cuda::plan::ReluGradient;
use cnn_cuda::shape::Shape;

use crate::ops::cuda::options;
use crate::ops::pytorch::Tensors;
use crate::ops::{Tolerance, compare};
use crate::support::cuda::on_cuda;
use crate::train::{networks, resnet};

/// Relative to the largest value of a map.
const TOLERANCE: f64 = 1e-4;
/// An occlusion is a difference of two logits, which are near 1 and have the rounding errors of fp32.
const ROUNDING: f64 = 3e-7;

/// The same as in `tests/reference/explanations.py`.
const OCCLUSION: Occlusion = Occlusion { window: 7, stride: 4 };
const NOISE: SmoothGrad = SmoothGrad { samples: 5, noise: 0.15, seed: 0 };

/// A network with its weights and one normalised image.
struct Subject {
    network: Network,
    weights: Weights,
    input: Vec<f32>,
    /// The layers of Grad-CAM and of the deconvolution.
    layers: [NodeId; 2],
}

fn subjects() -> Vec<Subject> {
    let bytes = fs::read("tests/reference/networks.safetensors").expect("the committed reference");
    let plain = networks::networks().into_iter().filter(|network| network.name != "vgg").map(|network| {
        let layer = match &*network.name {
            "alexnet" | "vgg_bn" => "activation.3",
            "zfnet" => "features.4",
            _ => "inception3a",
        };
        let layers = [explained_layer(&network), find_layer(&network, layer)].map(|layer| layer.expect("a layer"));
        let weights = networks::weights(&network, &Tensors::new(&bytes));
        let input = networks::inputs(&network, &Tensors::new(&bytes));
        Subject { weights, input, layers, network }
    });
    let residual = resnet::networks().into_iter().map(|(name, network)| {
        let layers = ["layer3", "layer2"].map(|layer| find_layer(&network, layer).expect("a layer"));
        let (weights, input) = resnet::initial(name, &network);
        Subject { weights, input, layers, network }
    });
    plain.chain(residual).collect()
}

fn compare_maps(name: &str, got: &[f32], expected: &[f32]) {
    let largest = expected.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    assert!(largest > 0.0, "{name} is compared with nothing");
    let expected: Vec<f64> = expected.iter().map(|&value| f64::from(value)).collect();
    let rounding = if name.ends_with("occlusion") { ROUNDING } else { 0.0 };
    compare(name, got, &expected, Tolerance { absolute: TOLERANCE * f64::from(largest) + rounding, relative: 0.0 });
}

fn check<B: Backend>(backend: &mut B) {
    let bytes = fs::read("tests/reference/explanations.safetensors").expect("the committed reference");
    let tensors = Tensors::new(&bytes);
    for Subject { network, weights, input, layers: [cam, deconvolved] } in subjects() {
        let name = &network.name;
        let expected = |what: &str| tensors.get(&format!("{name}.{what}")).0;
        // The reference has `[channels][height][width]`.
        let shape = network.input();
        let channels_last = |what: &str| channels_last(&expected(what), shape);
        let class = tensors.integers(&format!("{name}.class"))[0] as usize;
        let input = &input[..shape.len()];
        let mut all = Attribution::new(backend, &network, &weights, ReluGradient::True, 4).expect("a plan");
        let got = saliency(&mut all, input, class).expect("a map");
        compare_maps(&format!("{name} saliency"), &got, &channels_last("saliency"));
        let got = smooth_grad(&mut all, input, class, NOISE).expect("a map");
        compare_maps(&format!("{name} smoothgrad"), &got, &channels_last("smoothgrad"));
        let got = occlusion(&mut all, input, class, OCCLUSION).expect("a map");
        compare_maps(&format!("{name} occlusion"), &got.values, &expected("occlusion"));
        let got = grad_cam(&mut all, input, class, cam).expect("a map");
        compare_maps(&format!("{name} Grad-CAM"), &got.values, &expected("gradcam"));
        let image = got.normalised().resized(shape.height, shape.width).normalised();
        compare_maps(&format!("{name} Grad-CAM in the size of the input"), &image.values, &expected("camimage"));
        check_deconvolution(backend, (&network, &weights), input, deconvolved, &tensors);
    }
}

fn check_deconvolution<B: Backend>(
    backend: &mut B,
    (network, weights): (&Network, &Weights),
    input: &[f32],
    layer: NodeId,
    tensors: &Tensors,
) {
    let name = &network.name;
    let part = network.clone().up_to(layer);
    let mut part = Attribution::new(backend, &part, weights, ReluGradient::Rectified, 3).expect("a plan");
    let units = strongest_units(part.output_shape(), &part.forward(input).expect("a pass"));
    let at: Vec<i64> = units.iter().flat_map(|unit| [unit.row as i64, unit.column as i64]).collect();
    assert_eq!(at, tensors.integers(&format!("{name}.units")), "{name}");
    let (expected, shape) = tensors.get(&format!("{name}.deconv"));
    let got = deconvolve(&mut part, &units[..shape[0]].iter().map(|&unit| (input, unit)).collect::<Vec<_>>())
        .expect("projections");
    let image = Shape::new(shape[2], shape[3], shape[1]);
    let expected: Vec<f32> =
        expected.chunks_exact(image.len()).flat_map(|values| channels_last(values, image)).collect();
    compare_maps(&format!("{name} deconvolution"), &got.concat(), &expected);
}

/// Converts `[channels][height][width]` to `[height][width][channels]`.
fn channels_last(values: &[f32], shape: Shape) -> Vec<f32> {
    let at = |index: usize| index % shape.channels * shape.pixels() + index / shape.channels;
    (0..values.len()).map(|index| values[at(index)]).collect()
}

#[test]
fn maps_are_those_of_captum_and_grad_cam() {
    check(&mut Cpu::new(Some(2)).expect("two threads"));
}

#[test]
fn maps_on_cuda_are_those_of_captum_and_grad_cam() {
    on_cuda(|| check(&mut Cuda::new(options(Precision::Fp32)).expect("a device")));
}

fn network(name: &str) -> Network {
    let model = models::find(name).expect("a model");
    (model.build)(model.input, model.classes).expect("a network")
}

fn layer_name(network: &Network, node: NodeId) -> String {
    format!("{} {}", network.nodes[node].name, network.nodes[node].operator.describe())
}

#[test]
fn a_module_means_its_output() {
    let cases = [
        ("mnist-cnn", "layer2", "activation.2 ReLU"),
        ("mnist-cnn", "layer2.0", "layer2.0 conv 3×3, 16→32"),
        ("mnist-cnn", "maxpool.1", "maxpool.1 max pool 2×2"),
        ("resnet18", "layer4.1", "activation.17 ReLU"),
        ("resnet18", "layer4", "activation.17 ReLU"),
        ("resnet18", "layer4.1.bn2", "layer4.1.bn2 batch norm"),
        ("resnet50", "layer4.0", "activation.43 ReLU"),
        ("resnet50", "layer4.0.downsample", "layer4.0.downsample.1 batch norm"),
        ("googlenet", "inception3a", "concat.1 concat"),
        ("googlenet", "inception3a.branch1", "activation.4 ReLU"),
        ("googlenet", "inception3a.branch2", "activation.6 ReLU"),
        ("googlenet", "conv1", "activation.1 ReLU"),
    ];
    for (model, name, expected) in cases {
        let network = network(model);
        let node = find_layer(&network, name).expect(name);
        assert_eq!(layer_name(&network, node), expected, "{model} {name}");
    }
    let errors = [
        (
            "mnist-cnn",
            "layer",
            "mnist-cnn has no layer \"layer\"; `cnn-cuda summary --model mnist-cnn` lists the layers",
        ),
        ("mnist-cnn", "", "mnist-cnn has no layer \"\"; `cnn-cuda summary --model mnist-cnn` lists the layers"),
        (
            "googlenet",
            "aux1.fc1",
            "aux1.fc1 of googlenet is part of an auxiliary head, which is only computed in training",
        ),
    ];
    for (model, name, expected) in errors {
        assert_eq!(find_layer(&network(model), name).expect_err(name).to_string(), expected);
    }
}

#[test]
fn the_last_convolution_is_explained_with_its_activation() {
    for (model, expected) in [
        ("mnist-cnn", "activation.4 ReLU"),
        ("lenet5", "activation.2 tanh"),
        ("resnet20", "activation.19 ReLU"),
        ("googlenet", "concat.9 concat"),
    ] {
        let network = network(model);
        assert_eq!(layer_name(&network, explained_layer(&network).expect("a layer")), expected, "{model}");
    }
}

#[test]
fn intermediate_results_of_a_layer_are_not_shown() {
    let network = network("mnist-cnn");
    let names: Vec<&str> = shown_layers(&network).into_iter().map(|id| &*network.nodes[id].name).collect();
    let expected = [
        "input",
        "activation.1",
        "activation.2",
        "maxpool.1",
        "activation.3",
        "activation.4",
        "maxpool.2",
        "activation.5",
        "activation.6",
        "fc.4",
    ];
    assert_eq!(names, expected);
}

/// In every model, what a unit's receptive field says is what the gradient depends on.
#[test]
fn gradients_stay_inside_the_receptive_field() {
    let mut cpu = Cpu::new(Some(2)).expect("two threads");
    for name in ["mnist-cnn", "lenet5", "resnet20", "multiscale"] {
        let network = network(name);
        let weights = network.initial_weights(1);
        let fields = network.receptive_fields();
        let live = network.evaluated_nodes();
        for node in (1..network.nodes.len()).filter(|&node| live[node] && network.nodes[node].shape.pixels() > 1) {
            let Some(field) = fields[node] else { continue };
            let part = network.clone().up_to(node);
            let mut part = Attribution::new(&mut cpu, &part, &weights, ReluGradient::True, 1).expect("a plan");
            let (shape, input) = (part.output_shape(), part.input());
            let pixels: Vec<f32> = (0..input.len()).map(|index| (index as f32 * 0.7).sin()).collect();
            part.forward(&pixels).expect("a pass");
            for (row, column) in [(0, 0), (shape.height / 2, shape.width - 1)] {
                let mut seed = vec![0.0; shape.len()];
                seed[(row * shape.width + column) * shape.channels..][..shape.channels].fill(1.0);
                part.backward(&seed).expect("a pass");
                let gradient = part.gradients(0).expect("a gradient");
                let what = format!("{name} {} at {row}, {column}", network.nodes[node].name);
                check_inside(&gradient, input, field, (row, column), &what);
            }
        }
    }
}

fn check_inside(gradient: &[f32], input: Shape, field: ReceptiveField, unit: (usize, usize), what: &str) {
    let range = |index: usize| {
        let start = field.start + (index * field.step) as isize;
        start..start + field.size as isize
    };
    let (rows, columns) = (range(unit.0), range(unit.1));
    // Winograd's transforms leave rounding errors beyond the windows.
    let least = 1e-5 * gradient.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let mut inside = 0;
    for (pixel, values) in gradient.chunks_exact(input.channels).enumerate() {
        let (row, column) = ((pixel / input.width) as isize, (pixel % input.width) as isize);
        if values.iter().any(|&value| value.abs() > least) {
            assert!(
                rows.contains(&row) && columns.contains(&column),
                "{what}: pixel {row}, {column} is outside {field:?}"
            );
            inside += 1;
        }
    }
    assert!(inside > 0, "{what}: no pixel has a gradient");
}

#[test]
fn the_images_that_excite_a_channel_most_are_kept_in_order() {
    let shape = Shape::new(1, 2, 2);
    let mut strongest = Strongest::new(2, 2);
    // `[position][channel]`
    for (image, output) in [[1.0, 5.0, 2.0, 4.0], [3.0, 0.0, 0.0, 5.0], [2.0, 7.0, 2.5, 6.0]].iter().enumerate() {
        strongest.add(image, shape, output);
    }
    let kept = |channel: usize| -> Vec<(usize, usize, f32)> {
        strongest.channels()[channel].iter().map(|it| (it.image, it.unit.column, it.unit.activation)).collect()
    };
    assert_eq!(kept(0), [(1, 0, 3.0), (2, 1, 2.5)]);
    assert_eq!(kept(1), [(2, 0, 7.0), (0, 0, 5.0)]); // of equals, the first image stays
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let network = network("lenet5");
    let input = vec![0.1; network.input().len()];
    let mut cpu = Cpu::new(Some(1)).expect("a thread");
    let weights = network.initial_weights(0);
    let mut all = Attribution::new(&mut cpu, &network, &weights, ReluGradient::True, 2).expect("a plan");
    let errors = [
        saliency(&mut all, &input, 10).map(drop),
        all.forward(&input[1..]).map(drop),
        all.forward(&input.repeat(3)).map(drop),
        all.forward(&[]).map(drop),
        occlusion(&mut all, &input, 0, Occlusion { window: 2, stride: 3 }).map(drop),
        occlusion(&mut all, &input, 11, Occlusion { window: 2, stride: 1 }).map(drop),
        smooth_grad(&mut all, &input, 0, SmoothGrad { samples: 0, ..NOISE }).map(drop),
        deconvolve(&mut all, &[(&input, Unit { channel: 10, row: 0, column: 0, activation: 1.0 })]).map(drop),
    ];
    let messages = errors.map(|result| result.expect_err("refused").to_string());
    let size = network.input();
    assert_eq!(
        messages,
        [
            "there is no output 10 among 10".into(),
            format!("{} values are not 1 to 2 inputs of {size}", size.len() - 1),
            format!("{} values are not 1 to 2 inputs of {size}", 3 * size.len()),
            format!("0 values are not 1 to 2 inputs of {size}"),
            "a stride of 3 does not fit an occlusion window of 2".into(),
            "there is no class 11 among 10".into(),
            "SmoothGrad needs at least one sample".into(),
            "Unit { channel: 10, row: 0, column: 0, activation: 1.0 } is not in a layer of 10".into(),
        ]
    );
}

#[test]
fn maps_are_enlarged_between_pixel_centres() {
    let map = Map::new(1, 2, vec![0.0, 4.0]);
    // The values of torch.nn.functional.interpolate(torch.tensor([[[[0., 4.]]]]), (2, 4), mode="bilinear").
    assert_eq!(map.resized(2, 4).values, [0.0, 1.0, 3.0, 4.0, 0.0, 1.0, 3.0, 4.0]);
    assert_eq!(map.resized(1, 2), map);
    let constant = Map::new(2, 2, vec![3.0; 4]);
    assert_eq!(constant.normalised().values, [0.0; 4]);
}
