//! The classic networks have torchvision's parameter counts, names and initial values, and the example of a model in
//! ARCHITECTURE.md matches its source.

use cnn_cuda::models::{find, vgg};
use cnn_cuda::network::Network;
use cnn_cuda::shape::Shape;

fn network(name: &str) -> Network {
    let model = find(name).expect("a known model");
    (model.build)(model.input, model.classes).expect("the model fits its default input")
}

#[test]
fn parameter_counts_match_torchvision() {
    for (name, count) in [
        ("alexnet", 61_100_840),
        ("vgg11", 132_863_336),
        ("vgg13", 133_047_848),
        ("vgg16", 138_357_544),
        ("vgg19", 143_667_240),
        ("vgg11_bn", 132_868_840),
        ("vgg13_bn", 133_053_736),
        ("vgg16_bn", 138_365_992),
        ("vgg19_bn", 143_678_248),
        ("googlenet", 6_624_904),
        // torchvision has no ZFNet: this is the sum over its layers.
        ("zfnet", 62_357_608),
    ] {
        assert_eq!(network(name).evaluated_parameter_count(), count, "{name}");
    }
}

#[test]
fn parameter_names_match_torchvision() {
    let names = |name: &str| network(name).parameters.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    let both = |layers: &[&str]| {
        layers.iter().flat_map(|layer| ["weight", "bias"].map(|kind| format!("{layer}.{kind}"))).collect::<Vec<_>>()
    };
    let features = |indices: &[usize]| indices.iter().map(|index| format!("features.{index}")).collect::<Vec<_>>();
    let layers = |indices: &[usize], classifier: [&str; 3]| {
        let features = features(indices);
        both(&features.iter().map(String::as_str).chain(classifier).collect::<Vec<_>>())
    };
    let linear = ["classifier.1", "classifier.4", "classifier.6"];
    assert_eq!(names("alexnet"), layers(&[0, 3, 6, 8, 10], linear));
    let linear = ["classifier.0", "classifier.3", "classifier.6"];
    assert_eq!(names("vgg11"), layers(&[0, 3, 6, 8, 11, 13, 16, 18], linear));
    let googlenet = names("googlenet");
    let position = |name: &str| googlenet.iter().position(|other| other == name).expect(name);
    let order =
        ["conv1.conv.weight", "inception3a.branch2.1.bn.bias", "inception5b.branch4.1.conv.weight", "aux1.fc2.bias"];
    assert!(order.map(position).is_sorted() && position("aux2.conv.bn.weight") < position("fc.weight"));
    assert_eq!(network("googlenet").parameter_count(), 13_004_888, "including the auxiliary heads");
    assert_eq!(names("vgg16"), layers(&[0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28], linear));
}

#[test]
fn vgg_is_initialised_as_in_torchvision() {
    let net = vgg::with_widths(
        "narrow",
        Shape::new(32, 32, 3),
        10,
        &vgg::Widths { stages: [1, 1, 1, 1, 1], channels: [16, 16, 16, 16, 16], hidden: 64, batch_norm: false },
    );
    let net = net.expect("a network");
    let values = net.initial_parameters(4);
    for parameter in &net.parameters {
        let values = &values[parameter.range()];
        let deviation = (values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
        let expected = match (parameter.name.ends_with("bias"), parameter.name.starts_with("features")) {
            (true, _) => 0.0,
            (_, true) => (2.0_f64 / (9.0 * 16.0)).sqrt(),
            _ => 0.01,
        };
        assert!((deviation - expected).abs() <= 0.1 * expected, "{}: deviation {deviation}", parameter.name);
    }
}

#[test]
fn networks_adapt_to_the_image_size_and_class_count() {
    for name in ["alexnet", "zfnet", "vgg11"] {
        let build = find(name).expect("a known model").build;
        let net = build(Shape::new(96, 128, 1), 7).expect("the network fits the input");
        assert_eq!((net.classes(), net.input().channels), (7, 1));
        let error = build(Shape::new(8, 8, 3), 10).unwrap_err();
        assert!(format!("{error:#}").contains("does not fit"), "{error:#}");
    }
    for (height, channels) in [(28, 1), (32, 3)] {
        let net = (find("multiscale").expect("a known model").build)(Shape::new(height, height, channels), 10);
        assert!(net.expect("the network fits the input").parameter_count() < 1_000_000);
    }
}

/// The lines of code in `text`: trimmed, without blank lines and comments.
fn code(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).collect()
}

#[test]
fn the_documented_example_of_a_model_matches_its_source() {
    let documented = std::fs::read_to_string("ARCHITECTURE.md").expect("ARCHITECTURE.md");
    let file = std::fs::read_to_string("src/models/multiscale.rs").expect("the source of the model");
    let after = documented.split("The whole of `multiscale.rs`:").nth(1).expect("the example");
    let example = after.split("and in the table").next().expect("the end of the example");
    let begin = file.find("pub const MODEL").expect("the model's entry");
    assert_eq!(code(example), code(&file[begin..]));
    let table = std::fs::read_to_string("src/models/mod.rs").expect("the table of models");
    assert!(table.contains("    multiscale::MODEL,\n"));
}
