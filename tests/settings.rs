//! The settings of a training run: each one's flag, key, default, help and bounds agree.

mod flip;
mod optimiser;
mod weighting;

use clap::{Arg, Args, Command, CommandFactory, FromArgMatches};
use cnn_cuda::commands::Cli;
use cnn_cuda::settings::{Layer, RunConfig, Settings, SettingsFile};

const HEADINGS: [&str; 8] =
    ["Data", "Network", "Optimiser", "Training", "Fine-tuning", "Augmentation", "Device", "Output"];

/// The flags of all settings, without the `--no-` flags.
fn flags() -> Vec<Arg> {
    let command = Layer::augment_args(Command::new("train"));
    command.get_arguments().filter(|flag| !flag.get_id().as_str().starts_with("no-")).cloned().collect()
}

fn long(flag: &Arg) -> &str {
    flag.get_long().expect("a long flag")
}

fn is_switch(flag: &Arg) -> bool {
    flag.get_num_args().is_some_and(|count| count.max_values() == 0)
}

fn parse(flags: &[&str]) -> Result<Layer, clap::Error> {
    let command = Layer::augment_args(Command::new("train").no_binary_name(true));
    Layer::from_arg_matches(&command.try_get_matches_from(flags)?)
}

/// The settings in a file, each as its section, key and value.
fn keys(table: &toml::Table) -> Vec<(String, String, toml::Value)> {
    let mut all = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(section) => {
                all.extend(section.iter().map(|(inner, value)| (key.clone(), inner.clone(), value.clone())));
            }
            value => all.push((String::new(), key.clone(), value.clone())),
        }
    }
    all
}

fn to_table(settings: &Settings) -> toml::Table {
    toml::Table::try_from(settings).expect("TOML")
}

/// A valid value of each setting that is not its default.
fn sample(key: &str) -> &'static str {
    match key {
        "model" => "lenet5",
        "activation" => "leaky-relu:0.25",
        "conv1" => "gabor",
        "dataset" => "digits",
        "data" | "init" => "/some/place",
        "mean" | "std" => "0.25,0.5,0.75",
        "image-size" | "resize" => "24x48",
        "crop-scale" => "0.25,0.75",
        "crop-ratio" => "0.5,1.5",
        "rand-augment" => "2,9",
        "color-jitter" => "0.25,0.5,0.75,0.125",
        "schedule" => "step:3:0.5",
        "device" => "3",
        "precision" => "tf32",
        "conv-algo" => "implicit",
        "residency" => "stream",
        "optimizer" => "adam",
        "betas" => "0.75,0.5",
        "monitor" => "val-accuracy",
        "pretrained" => "resnet18",
        "crop-padding-mode" => "reflect",
        "flip" => "alternating",
        "tta" => "flip-shift",
        "class-weights" => "/some/weights.toml",
        "test-fraction" | "val-fraction" | "dropout" | "momentum" | "ema" | "label-smoothing" | "brightness"
        | "contrast" | "target-accuracy" | "lr" | "weight-decay" | "clip-grad-norm" | "eps" | "sgd-lr"
        | "sgd-momentum" | "crop-pct" | "random-erasing" => "0.75",
        _ => "7",
    }
}

/// The text of a settings file with one setting.
fn file(section: &str, key: &str, value: &toml::Value) -> String {
    let line = format!("{key} = {value}\n");
    if section.is_empty() { line } else { format!("[{section}]\n{line}") }
}

#[test]
fn each_flag_has_help_a_heading_and_a_key_of_the_same_name() {
    let flags = flags();
    assert!(flags.len() > 35, "{}", flags.len());
    for flag in &flags {
        let help = flag.get_help().unwrap_or_else(|| panic!("--{} has no help", long(flag))).to_string();
        assert!(!help.ends_with('.') && help.len() > 10, "--{}: {help}", long(flag));
        let heading = flag.get_help_heading().unwrap_or_else(|| panic!("--{} has no heading", long(flag)));
        assert!(HEADINGS.contains(&heading), "--{} is in {heading}", long(flag));
        assert_eq!(long(flag), flag.get_id().as_str().replace('_', "-"));
        assert!(flag.get_default_values().is_empty(), "--{}: a default would override a recipe", long(flag));
    }
    let mut names: Vec<&str> = flags.iter().map(long).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), flags.len(), "a setting is declared twice");
}

#[test]
fn a_flag_and_its_key_set_the_same_value() {
    for flag in flags() {
        let key = long(&flag).to_string();
        let given = if is_switch(&flag) { format!("--{key}") } else { format!("--{key}={}", sample(&key)) };
        // A mean and a standard deviation must be given together.
        let partner = match key.as_str() {
            "mean" => Some("--std=0.5"),
            "std" => Some("--mean=0.5"),
            _ => None,
        };
        let all: Vec<&str> = [given.as_str()].into_iter().chain(partner).collect();
        let by_flag = parse(&all).unwrap_or_else(|error| panic!("{given}: {error}"));
        let table = to_table(&by_flag.given);
        let found = keys(&table);
        let (section, _, value) =
            found.iter().find(|(_, its, _)| *its == key).unwrap_or_else(|| panic!("{given} is not written: {table}"));
        assert_eq!(found.len(), all.len(), "{given} sets more than its own key: {table}");
        let text = found.iter().map(|(section, key, value)| file(section, key, value)).collect::<String>();
        let by_key = SettingsFile::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(by_key.layer, by_flag, "{text}");
        // In the wrong section, the key is an error that says where it belongs.
        let elsewhere = if section.is_empty() { "augmentation" } else { "" };
        let error = SettingsFile::parse(&file(elsewhere, &key, value)).expect_err("the key is misplaced").to_string();
        let place = if section.is_empty() { "at the top".into() } else { format!("[{section}]") };
        assert!(error.contains(&place) && error.contains(&format!("{key} = ")), "{error}");
    }
}

#[test]
fn flags_and_keys_have_the_same_bounds() {
    let values =
        ["-1", "0", "0.5", "1", "1.5", "2", "4097", "1025", "1000001", "5000000000", "nan", "inf", "1e38", "no"];
    for flag in flags().iter().filter(|flag| !is_switch(flag) && !["mean", "std"].contains(&long(flag))) {
        let key = long(flag);
        let section =
            keys(&to_table(&parse(&[&format!("--{key}={}", sample(key))]).expect("a sample").given))[0].0.clone();
        for value in values {
            let by_flag = parse(&[&format!("--{key}={value}")]);
            let typed = value.parse().map_or_else(
                |_| toml::Value::String(value.into()),
                |_: f64| format!("x = {value}").parse::<toml::Table>().expect("a number")["x"].clone(),
            );
            let by_key = SettingsFile::parse(&file(&section, key, &typed));
            match (&by_flag, &by_key) {
                (Ok(flag), Ok(file)) => {
                    let same = flag.given == file.layer.given || typed.is_float();
                    assert!(same, "{key} {value}: {flag:?} but {file:?}");
                }
                (Err(_), Err(error)) => {
                    let message = error.to_string();
                    assert!(
                        message.contains(&format!(
                            "the value of {}",
                            if section.is_empty() { key.into() } else { format!("{section}.{key}") }
                        )),
                        "{message}"
                    );
                }
                _ => panic!("{key} = {value}: the flag gives {by_flag:?}, the key {by_key:?}"),
            }
        }
    }
}

#[test]
fn flags_switch_off_what_a_recipe_switches_on() {
    let command = Layer::augment_args(Command::new("train"));
    let exists = |key: &str| command.get_arguments().any(|flag| flag.get_id().as_str() == format!("no-{key}"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("recipe.toml");
    let config = |text: &str, flags: &[&str]| {
        std::fs::write(&path, format!("dataset = {:?}\n{text}", folder.path())).expect("write");
        let all = [&["--no-init"][..], flags].concat();
        RunConfig::new(&parse(&all).expect("flags"), Some(&path))
            .unwrap_or_else(|error| panic!("{text}{all:?}: {error:#}"))
    };
    let mut count = 0;
    for flag in flags() {
        let key = long(&flag);
        if !exists(key)
            || ["mean", "std", "shuffle", "dependent-launch", "decay-norm-bias", "report", "init", "dataset"]
                .contains(&key)
            || key == "crop-padding-mode"
        // needs a padding; tests/settings/flip.rs switches it off
        {
            continue;
        }
        let given = if is_switch(&flag) { format!("--{key}") } else { format!("--{key}={}", sample(key)) };
        let (section, _, value) = keys(&to_table(&parse(&[&given]).expect("a flag").given)).remove(0);
        let base = match key {
            "momentum" => "",
            "betas" | "eps" => "optimizer = 'adam'\n",
            "sgd-lr" | "sgd-momentum" | "ns-steps" | "muon-normalise" => "optimizer = 'muon'\n",
            "unfreeze-at" => "momentum = 0.5\nfreeze = \"conv1\"\n", // something must be frozen
            "ema-warm-up" => "momentum = 0.5\nema = 0.75\n",
            "val-seed" => "momentum = 0.5\nval-fraction = 0.5\n",
            "crop-scale" | "crop-ratio" | "resize" => "[augmentation]\nrandom-resized-crop = true\n",
            _ => "momentum = 0.5\n", // Nesterov momentum requires it
        };
        let is_open = base.starts_with(&format!("[{section}]"));
        let text = format!("{base}{}", file(if is_open { "" } else { &section }, key, &value));
        let (on, off) = (config(&text, &[]), config(&text, &[&format!("--no-{key}")]));
        assert_eq!(off, config(base, &[]), "--no-{key}");
        assert_ne!(on.settings, off.settings, "{text}");
        count += 1;
    }
    assert!(count > 20, "{count}");
    for key in ["crop-padding", "cutout", "brightness", "momentum", "weight-decay", "label-smoothing", "warm-up"] {
        assert!(exists(key), "--no-{key}");
    }
    assert!(!exists("lr") && !exists("dataset"));
    let shuffled = |flags: &[&str]| config("", flags).hyperparameters().shuffle;
    assert!(shuffled(&[]) && !shuffled(&["--no-shuffle"]) && shuffled(&["--no-shuffle", "--shuffle"]));
    let dependent = |text: &str, flags: &[&str]| config(text, flags).settings.device.dependent_launch;
    assert_eq!([dependent("", &[]), dependent("", &["--no-dependent-launch"])], [Some(true), Some(false)]);
    let decays = |text: &str, flags: &[&str]| config(text, flags).settings.optimiser.decay_norm_bias;
    assert_eq!([decays("", &[]), decays("", &["--no-decay-norm-bias"])], [Some(true), Some(false)]);
    assert_eq!(decays("decay-norm-bias = false", &["--decay-norm-bias"]), Some(true));
    let off = "dependent-launch = false";
    assert_eq!([dependent(off, &[]), dependent(off, &["--dependent-launch"])], [Some(false), Some(true)]);
    // A flag overrides the recipe even if its value is the default.
    let flat = config("[augmentation]\ncrop-padding = 4\n", &["--crop-padding=0"]);
    assert!(flat.settings.augmentation.is_none());
}

#[test]
fn errors_describe_valid_values_in_the_terms_of_the_file() {
    let message = |text: &str| SettingsFile::parse(text).expect_err("the file is invalid").to_string();
    for (text, words) in [
        ("nesterov = 1", "the value of nesterov, 1, cannot be used: it must be true or false"),
        (
            "[augmentation]\nflip = 'yes'",
            "the value of augmentation.flip, \"yes\", cannot be used: it must be one of: random, alternating",
        ),
        ("[augmentation]\nflip = 'true'", "augmentation.flip, \"true\", cannot be used: write it without quotes"),
        ("lr = '0.1'", "the value of lr, \"0.1\", cannot be used: write it without quotes"),
        ("epochs = '3'", "the value of epochs, \"3\", cannot be used: write it without quotes"),
        ("mean = '0.5'\nstd = [0.5]", "the value of mean, \"0.5\", cannot be used: write it without quotes"),
        ("lr = [0.1]", "the value of lr, [0.1], cannot be used: write it without brackets"),
        (
            "[pictures]\nimage-size = [32]",
            "pictures.image-size, [32], cannot be used: it must be a single number, or an array of 2",
        ),
        ("[pictures]\nimage-size = '32'", "pictures.image-size, \"32\", cannot be used: write it without quotes"),
        ("lr = 0.1\n\nlr = 0.2", "this is not TOML: line 3, column 1: duplicate key"),
        ("pictures = 3", "it must be a section, written as [pictures]"),
        ("[[augmentation]]\nflip = true", "it must be a section, written as [augmentation]"),
        ("mean = [0.5]", "std is missing"),
        ("std = [0.5]", "mean is missing"),
        ("mean = ['a']\nstd = [0.5]", "the value of mean"),
        ("algorithms = 3", "the value of algorithms cannot be used"),
        ("expected-accuracy = 'high'", "the value of expected-accuracy cannot be used"),
        ("conv-algo = 'fast'", "it must be one of: auto, im2col, implicit, direct, cublaslt"),
        ("ema = 1", "the value of ema, 1, cannot be used: it must be above 0 and below 1"),
        ("[augmentation]\ncontrast = 2", "augmentation.contrast, 2, cannot be used: it must be from 0 to 1"),
        ("seed = -1", "the value of seed, -1, cannot be used: it must be a whole number from 0"),
    ] {
        assert!(message(text).contains(words), "{text}: {}", message(text));
    }
    for text in ["device = '0'", "device = 0", "mean = 0.5\nstd = 0.5", "lr = 1", "[pictures]\nimage-size = '24x48'"] {
        assert!(SettingsFile::parse(text).is_ok(), "{text}");
    }
    assert!(parse(&["--seed=18446744073709551615"]).is_err(), "config.toml could not store this seed");
}

#[test]
fn a_flag_that_is_not_a_setting_is_no_key() {
    let program = Cli::command();
    let train = program.find_subcommand("train").expect("a subcommand");
    let settings: Vec<String> = flags().iter().map(|flag| long(flag).to_string()).collect();
    let others = program.get_arguments().chain(train.get_arguments()).filter(|flag| !flag.is_hide_set());
    let others: Vec<&str> = others.map(long).filter(|name| !settings.iter().any(|setting| setting == name)).collect();
    assert!(others.contains(&"out") && others.contains(&"color"), "{others:?}");
    for name in others {
        let error = SettingsFile::parse(&format!("{name} = 'x'")).expect_err("it is not a key").to_string();
        assert_eq!(error, format!("{name} is a flag only, not a recipe key"));
    }
}

#[test]
fn the_error_for_an_unknown_key_suggests_the_intended_one() {
    let message = |text: &str| SettingsFile::parse(text).expect_err("the key is unknown").to_string();
    for (text, words) in [
        ("image-size = 32", "write it as image-size = 32 in the section [pictures]"),
        ("flip = true", "write it as flip = true in the section [augmentation]"),
        ("image_size = [32, 48]", "write it as image-size = [32, 48] in the section [pictures]"),
        ("[augmentation]\nmomentum = 0.9", "write momentum = 0.9 at the top of the file"),
        ("momentun = 0.9", "did you mean momentum?"),
        ("[augmentation]\nflips = true", "did you mean augmentation.flip?"),
        ("flipp = true", "did you mean augmentation.flip?"),
        // Of two similar keys, the one that accepts such a value is suggested.
        ("epoch = 3", "did you mean epochs?"),
        ("[picture]\nimage-size = 32", "did you mean pictures?"),
        ("branchs = 1", "the keys are: "),
        ("branchs = 1", "the sections are: [augmentation], [pictures], [algorithms], [environment], [input]"),
        ("learning-rate = 0.1", "there is no key learning-rate; did you mean lr?"),
        ("[optimiser]\nlr = 0.1", "there is no section optimiser; write its keys at the top of the file"),
        ("[data]\ndataset = 'digits'", "there is no section data; write its keys at the top of the file"),
        ("[output]\nlog-steps = true", "there is no section output; write its keys at the top of the file"),
    ] {
        assert!(message(text).contains(words), "{text}: {}", message(text));
    }
}
