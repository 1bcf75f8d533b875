//! The optimiser's settings: defaults that depend on it, and settings that it does not use.

use cnn_cuda::network::{Builder, Conv2dOptions, FirstLayer, Network};
use cnn_cuda::ops::{Adam, Group, Groups, Muon, Rule, Sgd};
use cnn_cuda::settings::{RunConfig, UsageError};
use cnn_cuda::shape::Shape;

use super::parse;

/// The configuration of a recipe and flags.
pub fn config(recipe: &str, flags: &[&str]) -> anyhow::Result<RunConfig> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("recipe.toml");
    std::fs::write(&path, format!("dataset = 'digits'\n{recipe}"))?;
    RunConfig::new(&parse(flags)?, Some(&path))
}

/// A recipe's accuracy is that of its network on its data.
#[test]
fn another_network_or_data_set_has_no_expected_accuracy() {
    let expected = |flags: &[&str]| {
        config("model = 'lenet5'\nexpected-accuracy = 0.75", flags).expect("settings").record.expected_accuracy
    };
    assert_eq!([expected(&[]), expected(&["--model=lenet5", "--lr=0.5"])], [Some(0.75); 2]);
    assert_eq!([expected(&["--model=mnist-cnn"]), expected(&["--dataset=mnist"])], [None; 2]);
}

/// The rule, learning rate and weight decay of a recipe and flags.
fn resolved(recipe: &str, flags: &[&str]) -> (Rule, f32, f32) {
    let config = config(recipe, flags).unwrap_or_else(|error| panic!("{recipe} {flags:?}: {error:#}"));
    let hyper = config.hyperparameters();
    (hyper.optimizer.rule, hyper.learning_rate.rate, hyper.optimizer.weight_decay)
}

#[test]
fn defaults_are_those_of_pytorchs_optimiser() {
    let adam = |decoupled| Rule::Adam(Adam { betas: [0.9, 0.999], epsilon: 1e-8, decoupled });
    assert_eq!(resolved("", &[]), (Rule::sgd(0.0, false), 0.1, 0.0));
    assert_eq!(resolved("", &["--optimizer=sgd"]), (Rule::sgd(0.0, false), 0.1, 0.0));
    assert_eq!(resolved("", &["--optimizer=adam"]), (adam(false), 0.001, 0.0));
    assert_eq!(resolved("optimizer = 'adamw'", &[]), (adam(true), 0.001, 0.01));
    // What a layer gives stays, even if it is the default of another optimiser, or switches off.
    assert_eq!(resolved("lr = 0.1\nweight-decay = 0.5", &["--optimizer=adamw"]), (adam(true), 0.1, 0.5));
    assert_eq!(resolved("optimizer = 'adamw'", &["--lr=0.1", "--weight-decay=0"]), (adam(true), 0.1, 0.0));
    assert_eq!(resolved("optimizer = 'adamw'", &["--no-weight-decay"]), (adam(true), 0.001, 0.0));
    assert_eq!(resolved("optimizer = 'adamw'", &["--optimizer=sgd"]), (Rule::sgd(0.0, false), 0.1, 0.0));
    let muon = |momentum, nesterov, sgd| Rule::Muon(Muon { momentum, nesterov, sgd, ..Muon::default() });
    let sgd = |momentum| Sgd { momentum, nesterov: momentum > 0.0 };
    assert_eq!(resolved("", &["--optimizer=muon"]), (muon(0.95, true, sgd(0.9)), 0.02, 0.0));
    assert_eq!(resolved("momentum = 0.5", &["--optimizer=muon"]), (muon(0.5, true, sgd(0.9)), 0.02, 0.0));
    assert_eq!(resolved("optimizer = 'muon'", &["--no-momentum"]), (muon(0.0, false, sgd(0.9)), 0.02, 0.0));
    assert_eq!(resolved("optimizer = 'muon'", &["--no-nesterov"]), (muon(0.95, false, sgd(0.9)), 0.02, 0.0));
    let given = resolved("optimizer = 'muon'\nsgd-momentum = 0", &["--sgd-lr=0.5", "--weight-decay=0.25"]);
    assert_eq!(given, (muon(0.95, true, sgd(0.0)), 0.02, 0.25));
    let given = Rule::Adam(Adam { betas: [0.5, 0.25], epsilon: 0.125, decoupled: false });
    assert_eq!(resolved("betas = [0.5, 0.25]\neps = 0.125", &["--optimizer=adam"]), (given, 0.001, 0.0));
    assert_eq!(resolved("optimizer = 'adam'\neps = 0.125", &["--betas", "0.5,0.25"]), (given, 0.001, 0.0));
    let settings = config("optimizer = 'adamw'", &[]).expect("settings").settings;
    let text = toml::to_string(&settings).expect("TOML");
    for line in
        ["optimizer = \"adamw\"", "lr = 0.001", "betas = [0.9, 0.999]", "eps = 0.00000001", "weight-decay = 0.01"]
    {
        assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
    }
    let described = settings.optimiser.describe().expect("AdamW is not the default");
    assert_eq!(described, "AdamW: learning rate 0.001, betas 0.9, 0.999, eps 1e-8, weight decay 0.01");
    assert_eq!(config("", &[]).expect("settings").settings.optimiser.describe(), None);
}

#[test]
fn a_setting_that_the_optimiser_does_not_use_is_an_error() {
    for (recipe, flags, named) in [
        ("", &["--optimizer=adam", "--momentum=0.9"][..], "--momentum"),
        ("momentum = 0.9", &["--optimizer=adamw"], "--momentum"),
        ("optimizer = 'adam'", &["--nesterov"], "--nesterov"),
        ("", &["--betas=0.9,0.99"], "--betas"),
        ("eps = 1e-6", &[], "--eps"),
        ("optimizer = 'adam'\neps = 1e-6", &["--optimizer=sgd"], "--eps"),
        ("sgd-lr = 0.5", &[], "--sgd-lr"),
        ("sgd-momentum = 0.5", &["--optimizer=adamw"], "--sgd-momentum"),
        ("optimizer = 'muon'", &["--clip-grad-norm=1"], "--clip-grad-norm"),
        ("optimizer = 'muon'", &["--eps=1e-6"], "--eps"),
    ] {
        let error = config(recipe, flags).expect_err("the setting has no effect");
        let message = format!("{error:#}");
        assert!(error.is::<UsageError>() && message.starts_with(&format!("{named} has no effect")), "{message}");
        // The remedy that it names.
        let off = format!("--no-{}", named.trim_start_matches("--"));
        assert!(message.ends_with(&off), "{message}");
        let others: Vec<&str> = flags.iter().copied().filter(|flag| !flag.starts_with(named)).collect();
        config(recipe, &[&others[..], &[&off]].concat()).unwrap_or_else(|error| panic!("{off}: {error:#}"));
    }
    config("momentum = 0.9", &["--optimizer=adam", "--momentum=0"]).expect("no momentum");
    for betas in ["0.9", "0.9,0.99,0.5", "0.9,1", "-0.5,0.9", "a,b", "nan,0.9"] {
        let message =
            parse(&["--optimizer=adam", &format!("--betas={betas}")]).expect_err("not two numbers").to_string();
        assert!(message.contains("--betas") && message.contains("below 1"), "{message}");
    }
}

/// A new setting with its default is not recorded, so that runs of earlier versions can be resumed.
#[test]
fn new_settings_are_recorded_unless_they_have_their_defaults() {
    let fixed = |flags: &[&str]| config("", flags).expect("settings").fixed_settings().expect("values");
    let usual = fixed(&[]);
    for key in ["optimizer", "betas", "eps", "decay-norm-bias", "head-lr-scale", "bias-lr-scale"] {
        assert!(!usual.contains_key(key), "{key}");
    }
    for key in ["crop-padding-mode", "mixup", "cutmix", "class-weights", "loss-weights", "tta"] {
        assert!(!usual.contains_key(key), "{key}");
    }
    let others = fixed(&["--crop-padding=2", "--crop-padding-mode=reflect", "--tta=flip", "--mixup=0.5"]);
    for (key, value) in [("crop-padding-mode", "\"reflect\""), ("tta", "\"flip\""), ("mixup", "0.5")] {
        assert_eq!(others.get(key).map(String::as_str), Some(value), "{key}");
    }
    let all = ["--optimizer=adamw", "--no-decay-norm-bias", "--head-lr-scale=10", "--bias-lr-scale=2"];
    let given = fixed(&all);
    for (key, value) in [
        ("optimizer", "\"adamw\""),
        ("betas", "[0.9, 0.999]"),
        ("decay-norm-bias", "false"),
        ("head-lr-scale", "10"),
        ("bias-lr-scale", "2"),
        ("lr", "0.001"),
    ] {
        assert_eq!(given.get(key).map(String::as_str), Some(value), "{key}");
    }
}

/// Two convolutions, of which the first is normalised, and two linear layers.
fn network() -> Network {
    let mut net = Builder::new("grouped", Shape::new(6, 6, 1));
    let options = Conv2dOptions { out_channels: 3, ..Default::default() };
    let conv1 = net.conv2d("conv1", 0, Conv2dOptions { bias: false, ..options }).expect("conv1");
    let norm = net.batch_norm2d("bn", conv1).expect("bn");
    let conv2 = net.conv2d("conv2", norm, options).expect("conv2");
    let flat = net.flatten(conv2);
    let hidden = net.linear("fc1", flat, 5).expect("fc1");
    net.linear("fc2", hidden, 2).expect("fc2");
    net.finish().expect("a network")
}

#[test]
fn parameters_are_grouped_by_the_settings() {
    // 27 + 3 + 3 + 81 + 3 + 60 + 5 + 10 + 2 parameters.
    let grouped = |network: Network, flags: &[&str]| {
        let settings = config("", flags).expect("settings").settings;
        settings.optimiser.group(network).unwrap_or_else(|error| panic!("{flags:?}: {error:#}"))
    };
    let order = |network: &Network| {
        let mut all: Vec<_> = network.parameters.iter().map(|it| (it.offset, it.name.clone())).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(" ")
    };
    let group = |end, rate_scale, decay_scale| Group { rate_scale, decay_scale, ..Group::plain(end) };
    let usual = "conv1.weight bn.weight bn.bias conv2.weight conv2.bias fc1.weight fc1.bias fc2.weight fc2.bias";
    let plain = grouped(network(), &[]);
    assert_eq!((order(&plain).as_str(), plain.groups().expect("groups")), (usual, groups(&[Group::plain(194)])));
    let no_decay = grouped(network(), &["--no-decay-norm-bias"]);
    let weights_first =
        "conv1.weight conv2.weight fc1.weight fc2.weight bn.weight bn.bias conv2.bias fc1.bias fc2.bias";
    assert_eq!(order(&no_decay), weights_first);
    assert_eq!(no_decay.groups().expect("groups"), groups(&[group(178, 1.0, 1.0), group(194, 1.0, 0.0)]));
    let head = grouped(network(), &["--head-lr-scale=10"]);
    assert_eq!((order(&head).as_str(), head.head()), (usual, Some("fc2")));
    assert_eq!(head.groups().expect("groups"), groups(&[group(182, 1.0, 1.0), group(194, 10.0, 1.0)]));
    let frozen = network().with_first_layer(FirstLayer::GaborFrozen).expect("a convolution");
    let all = grouped(frozen, &["--no-decay-norm-bias", "--head-lr-scale=10", "--bias-lr-scale=3"]);
    let expected = [
        Group::frozen(27),
        group(168, 1.0, 1.0),
        group(171, 1.0, 0.0),
        group(182, 3.0, 0.0),
        group(192, 10.0, 1.0),
        group(194, 30.0, 0.0),
    ];
    assert_eq!(all.groups().expect("groups"), groups(&expected));
    assert!(all.is_frozen(0) && (1..9).all(|index| !all.is_frozen(index)));
    // Of the two convolutions, the second is hidden. SGD's learning rate is five times Muon's.
    let muon = grouped(network(), &["--optimizer=muon", "--no-decay-norm-bias", "--lr=0.02", "--sgd-lr=0.1"]);
    let sgd = 0.1 / 0.02;
    let matrix = Group { is_matrix: true, ..Group::plain(178) };
    let expected = [group(27, sgd, 1.0), group(97, sgd, 1.0), matrix, group(194, sgd, 0.0)];
    assert_eq!(muon.groups().expect("groups").ranges(194).len(), 3);
    let names: Vec<&str> = muon.matrices().into_iter().map(|index| muon.parameters[index].name.as_str()).collect();
    assert_eq!(names, ["conv2.weight"]);
    assert_eq!(expected[3].end, 194);
    // The order in memory changes neither initial values nor what files contain.
    for parameter in &all.parameters {
        let plain = plain.parameters.iter().find(|it| it.name == parameter.name).expect("the same parameters");
        if parameter.name != "conv1.weight" {
            let [there, here] = [&network(), &all].map(|network| network.initial_parameters(3));
            assert_eq!(there[plain.range()], here[parameter.range()], "{}", parameter.name);
        }
    }
}

fn groups(all: &[Group]) -> Groups {
    Groups::new(all).expect("few groups")
}

#[test]
fn a_network_without_a_linear_layer_has_no_head() {
    let network = || {
        let mut net = Builder::new("headless", Shape::new(3, 3, 1));
        let conv = net.conv2d("conv", 0, Conv2dOptions { out_channels: 2, ..Default::default() }).expect("conv");
        net.flatten(conv);
        net.finish().expect("a network")
    };
    let settings = |flags: &[&str]| config("", flags).expect("settings").settings.optimiser;
    settings(&[]).group(network()).expect("no head is needed");
    let error = settings(&["--head-lr-scale=10"]).group(network()).expect_err("there is no head");
    let message = format!("{error:#}");
    assert!(message.contains("--head-lr-scale") && message.contains("no linear layer"), "{message}");
}
