//! The networks: parameters, shapes, names, initial values, layouts.

use cnn_cuda::models::{TABLE, find};
use cnn_cuda::network::{Builder, Conv2dOptions, FirstLayer, Initial, Layout, Network, Operator};
use cnn_cuda::ops::Activation;
use cnn_cuda::plan::{Mode, Plan};
use cnn_cuda::shape::{Shape, Window};

fn network(name: &str) -> Network {
    let model = find(name).expect("a known model");
    (model.build)(model.input, model.classes).expect("the model fits its default input")
}

#[test]
fn every_model_builds_and_has_a_unique_name() {
    for (index, model) in TABLE.iter().enumerate() {
        assert_eq!(network(model.name).name, model.name);
        assert!(TABLE[..index].iter().all(|other| other.name != model.name), "two models are named {}", model.name);
    }
    let error = find("mnist-cnm").err().expect("an unknown model").to_string();
    assert!(error.contains("mnist-cnn") && error.contains("lenet5"), "{error}");
}

#[test]
fn mnist_cnn_matches_the_reference_network() {
    let net = network("mnist-cnn");
    assert_eq!(net.parameter_count(), 2_327_818);
    let names: Vec<&str> = net.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    let layers = ["layer1.0", "layer2.0", "layer3.0", "layer4.0", "fc.0", "fc.2", "fc.4"];
    let expected: Vec<String> =
        layers.iter().flat_map(|layer| ["weight", "bias"].map(|kind| format!("{layer}.{kind}"))).collect();
    assert_eq!(names, expected);
    let shapes: Vec<Vec<usize>> = net.parameters.iter().map(|parameter| parameter.layout.file_shape()).collect();
    assert_eq!(shapes[2], [32, 16, 3, 3]);
    assert_eq!(shapes[8], [1024, 2048]);
    // The four convolutions, then the weights of all linear layers.
    assert_eq!(net.multiply_adds().expect("shapes"), 97_344 + 2_654_208 + 1_843_200 + 4_718_592 + 2_229_504);
}

#[test]
fn lenet5_has_the_published_parameter_count() {
    assert_eq!(network("lenet5").parameter_count(), 61_706);
}

/// torchvision's counts, and the 0.27, 0.46 and 0.85 million that He et al. give for CIFAR-10.
#[test]
fn residual_networks_have_the_published_parameter_counts() {
    let counts = [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet56", 853_018),
    ];
    for (name, count) in counts {
        assert_eq!(network(name).parameter_count(), count, "{name}");
    }
    let net = network("resnet50");
    let parameter = |name: &str| net.parameters.iter().find(|parameter| parameter.name == name).expect(name);
    assert_eq!(parameter("layer3.0.downsample.0.weight").layout.file_shape(), [1024, 512, 1, 1]);
    assert_eq!(parameter("layer4.2.conv2.weight").initial, Initial::Normal { deviation: (2.0_f32 / 4608.0).sqrt() });
    assert_eq!(parameter("bn1.weight").initial, Initial::Constant(1.0));
    // torchvision gives 4.09 billion.
    assert_eq!(net.multiply_adds().expect("shapes") / 10_000_000, 408);
    let oblong =
        (find("resnet20").expect("a known model").build)(Shape::new(32, 48, 3), 10).expect("any image size fits");
    assert_eq!(oblong.parameter_count(), network("resnet20").parameter_count());
}

#[test]
fn receptive_fields_match_hand_calculation() {
    let net = network("mnist-cnn");
    let fields = net.receptive_fields();
    let field = |name: &str| fields[net.nodes.iter().position(|node| node.name == name).expect(name)];
    assert_eq!(field("layer1.0").map(|f| f.size), Some(3));
    assert_eq!(field("layer2.0").map(|f| f.size), Some(5));
    assert_eq!(field("maxpool.1").map(|f| (f.size, f.step)), Some((6, 2)));
    assert_eq!(field("layer3.0").map(|f| f.size), Some(10));
    assert_eq!(field("layer4.0").map(|f| f.size), Some(14));
    assert_eq!(field("fc.0"), None);
}

#[test]
fn initial_values_are_seeded_uniform_and_bounded() {
    let net = network("mnist-cnn");
    let (a, b, c) = (net.initial_parameters(1), net.initial_parameters(1), net.initial_parameters(2));
    assert!(a == b && a != c);
    for parameter in &net.parameters {
        let values = &a[parameter.range()];
        let Initial::Uniform { fan_in } = parameter.initial else { panic!("{} is not uniform", parameter.name) };
        let bound = 1.0 / (fan_in as f32).sqrt();
        assert!(values.iter().all(|value| value.abs() <= bound), "{}", parameter.name);
        if values.len() > 1000 {
            // A uniform distribution on ±b has variance b²/3; the mean of n samples has standard deviation b/√(3n).
            let n = values.len() as f64;
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
            let bound = f64::from(bound);
            assert!(mean.abs() < 5.0 * bound / (3.0 * n).sqrt(), "{}: mean {mean}", parameter.name);
            assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 0.1, "{}: variance {variance}", parameter.name);
        }
    }
}

#[test]
fn gabor_filters_are_oriented_with_zero_mean_and_pytorchs_variance() {
    for name in ["mnist-cnn", "lenet5"] {
        let net = network(name).with_first_layer(FirstLayer::Gabor).expect("a convolution");
        let values = net.initial_parameters(1);
        let weight = &net.parameters[0];
        let Layout::Conv { out_channels, kernel, .. } = weight.layout else { panic!("{name}") };
        let size = kernel * kernel;
        let filters: Vec<&[f32]> = values[weight.range()].chunks(size).collect();
        for (index, filter) in filters.iter().enumerate() {
            let mean = filter.iter().sum::<f32>() / size as f32;
            let variance = filter.iter().map(|value| value * value).sum::<f32>() / size as f32;
            assert!(mean.abs() < 1e-6 && (variance * 3.0 * size as f32 - 1.0).abs() < 1e-5, "{name}: {index}");
            assert!(filters[..index].iter().all(|other| other != filter), "{name}: filter {index} is a duplicate");
        }
        // The fifth filter is the first, which detects vertical edges, rotated by 90°.
        for at in 0..if out_channels > 4 { size } else { 0 } {
            let turned = filters[4][at % kernel * kernel + at / kernel];
            assert!((filters[0][at] - turned).abs() < 1e-5, "{name} at {at}");
        }
        // All other parameters keep their usual initial values.
        let usual = network(name).initial_parameters(1);
        assert_eq!(values[weight.len()..], usual[weight.len()..]);
        assert_ne!(values[..weight.len()], usual[..weight.len()]);
        assert_eq!(net.frozen_len(), 0);
    }
    // The Gabor formula at one off-centre position: filter 9 of 16 is odd, at an angle of π/8.
    let net = network("mnist-cnn").with_first_layer(FirstLayer::GaborFrozen).expect("a convolution");
    let values = net.initial_parameters(0);
    let filter = &values[9 * 9..10 * 9];
    let g = |x: f64, y: f64| {
        let (sin, cos) = (std::f64::consts::PI / 8.0).sin_cos();
        let (u, v, sigma) = (x * cos + y * sin, y * cos - x * sin, 0.56 * 3.0);
        (-(u * u + 0.25 * v * v) / (2.0 * sigma * sigma)).exp() * (2.0 * std::f64::consts::PI * u / 3.0).sin()
    };
    let norm = (-1..=1).flat_map(|y| (-1..=1).map(move |x| g(f64::from(x), f64::from(y)).powi(2))).sum::<f64>().sqrt();
    let expected = g(1.0, -1.0) / norm * (1.0 / 3.0_f64).sqrt();
    assert!((f64::from(filter[2]) - expected).abs() < 1e-6, "{} instead of {expected}", filter[2]);
    assert_eq!(net.frozen_len(), 144);
    let mut flat = Builder::new("flat", Shape::flat(3));
    flat.linear("fc", 0, 2).expect("fits");
    assert!(flat.finish().expect("a network").with_first_layer(FirstLayer::Gabor).is_err());
}

#[test]
fn no_weight_gradient_is_computed_for_frozen_filters() {
    let labels = |net: &Network| -> Vec<String> {
        let plan = Plan::new(net, Mode::Training, 2).expect("a plan");
        plan.backward.iter().map(|step| step.label.clone()).collect()
    };
    let frozen = network("mnist-cnn").with_first_layer(FirstLayer::GaborFrozen).expect("a convolution");
    let (before, after) = (labels(&network("mnist-cnn")), labels(&frozen));
    assert_eq!(after.len(), before.len() - 1);
    assert!(before.contains(&"layer1.0 backward weight".into()) && !after.contains(&"layer1.0 backward weight".into()));
}

#[test]
fn with_activation_replaces_every_activation() {
    let leaky = Activation::LeakyRelu { slope: 0.25 };
    for name in ["mnist-cnn", "lenet5"] {
        let count = |net: &Network, activation: Activation| {
            net.nodes.iter().filter(|node| node.operator == Operator::Activation(activation)).count()
        };
        let (before, after) = (network(name), network(name).with_activation(leaky));
        let all = count(&before, Activation::Relu) + count(&before, Activation::Tanh);
        assert!(all > 2 && count(&after, leaky) == all, "{name}");
        assert_eq!(before.parameters, after.parameters);
    }
}

#[test]
fn layouts_round_trip_through_file_order() {
    let layouts = [
        Layout::Vector(5),
        Layout::Conv { out_channels: 2, in_channels: 3, kernel: 2 },
        Layout::Linear { out_features: 2, segments: vec![Shape::new(2, 3, 4), Shape::flat(3)] },
    ];
    for layout in layouts {
        let file: Vec<f32> = (0..layout.len()).map(|i| i as f32).collect();
        let (mut memory, mut back) = (vec![0.0; layout.len()], vec![0.0; layout.len()]);
        layout.memory_from_file(&file, &mut memory);
        layout.file_from_memory(&memory, &mut back);
        assert_eq!(file, back, "{layout:?}");
    }
    // OIHW to OHWI: the second value in memory is channel 1 of the first position.
    let layout = Layout::Conv { out_channels: 1, in_channels: 2, kernel: 2 };
    let mut memory = vec![0.0; 8];
    layout.memory_from_file(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], &mut memory);
    assert_eq!(memory, [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
}

#[test]
fn invalid_networks_are_errors() {
    let mut net = Builder::new("net", Shape::new(8, 8, 1));
    assert!(net.linear("fc", 0, 3).unwrap_err().to_string().contains("flatten"));
    assert!(net.conv2d("conv", 0, Conv2dOptions { kernel: 9, ..Default::default() }).is_err());
    assert!(net.conv2d("conv", 0, Conv2dOptions { stride: 0, ..Default::default() }).is_err());
    assert!(net.max_pool2d(0, Window { kernel: 2, stride: 2, padding: 2 }).is_err());
    let conv = net.conv2d("conv", 0, Conv2dOptions::default()).expect("fits");
    assert!(net.conv2d("conv", conv, Conv2dOptions::default()).unwrap_err().to_string().contains("conv.weight"));
    assert!(net.add(0, conv).is_err());
    assert!(net.concat(&[0, conv]).is_err());
    assert!(net.concat(&[]).is_err());
    assert!(net.finish().unwrap_err().to_string().contains("vector"));
    assert!(Builder::new("empty", Shape::flat(3)).finish().is_err());
    let mut net = Builder::new("dead end", Shape::flat(3));
    net.linear("unused", 0, 2).expect("fits");
    net.linear("fc", 0, 2).expect("fits");
    assert!(net.finish().unwrap_err().to_string().contains("is not used"));
}
