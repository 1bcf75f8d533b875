//! Recipes: settings from a file instead of flags, their errors, and the recipes in the repository.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use clap::{Args, Command, FromArgMatches};
use cnn_cuda::models;
use cnn_cuda::settings::{Layer, RunConfig};

use super::train;
use crate::support::program::{fail, succeed};

fn table(path: &Path) -> toml::Table {
    toml::from_str(&fs::read_to_string(path).expect("read")).expect("TOML")
}

#[test]
fn flags_override_a_recipe_and_a_recipe_overrides_the_defaults() {
    let folder = tempfile::tempdir().expect("a folder");
    let (recipe, out) = (folder.path().join("recipe.toml"), folder.path().join("run"));
    let text = "model = 'lenet5'\ndataset = 'digits'\ndevice = 'cpu'\nepochs = 3\nlr = 0.25\nmomentum = 0.5\n\
                nesterov = true\nshuffle = false\nschedule = 'cosine'\nexpected-accuracy = 0.75";
    fs::write(&recipe, text).expect("write");
    let (file, name) = (recipe.to_str().expect("UTF-8"), out.to_str().expect("UTF-8"));
    let args = ["train", "--config", file, "--out", name, "--lr", "0.125", "--batch-size", "500", "--max-steps", "2"];
    let ran = succeed(args);
    assert!(ran.stderr.contains("final test accuracy is at least 75.00%"), "{}", ran.stderr);
    let config = table(&out.join("config.toml"));
    let expected: toml::Table = toml::from_str(text).expect("TOML");
    for (key, value) in expected.iter().filter(|(key, _)| *key != "lr") {
        assert_eq!(config[key], *value, "{key}");
    }
    assert_eq!((config["lr"].as_float(), config["batch-size"].as_integer()), (Some(0.125), Some(500)));
    assert_eq!(config["eval-batch-size"].as_integer(), Some(128));
    fail(2, ["train", "--config", file, "--resume", name], &["--config", "--resume"]);
}

#[test]
fn a_runs_config_reproduces_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let settings = ["--seed", "3", "--momentum", "0.9", "--batch-size", "256", "--max-steps", "3", "--quiet"];
    train(&first, &[&settings[..], &["--std", "0.5", "--mean", "0.25", "--classes", "12"]].concat());
    let config = first.join("config.toml");
    let args = ["train", "--config", config.to_str().expect("UTF-8"), "--out", second.to_str().expect("UTF-8")];
    succeed([&args[..], &["--quiet"]].concat());
    let weights = [&first, &second].map(|run| fs::read(run.join("model.safetensors")).expect("read"));
    assert!(weights[0] == weights[1], "model.safetensors");
    let configs = [&first, &second].map(|run| {
        let mut config = table(&run.join("config.toml"));
        config.remove("environment").expect("the machine and the time");
        config
    });
    assert_eq!(configs[0], configs[1]);
    // A different number of classes means different data, so the recorded input is not used.
    let third = folder.path().join("third");
    let args = ["train", "--config", config.to_str().expect("UTF-8"), "--out", third.to_str().expect("UTF-8")];
    succeed([&args[..], &["--quiet", "--classes", "11"]].concat());
    assert_eq!(table(&third.join("config.toml"))["input"]["classes"].as_array().expect("names").len(), 11);
}

#[test]
fn errors_in_a_recipe_name_the_file_and_the_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("recipe.toml");
    let file = path.to_str().expect("UTF-8");
    let refused = |text: &str, words: &[&str]| {
        fs::write(&path, text).expect("write");
        fail(1, ["train", "--config", file], &[words, &[file]].concat());
    };
    refused("batch_size = 64", &["batch_size", "did you mean batch-size?"]);
    refused("momentun = 0.9", &["momentun", "did you mean momentum?"]);
    refused("zzzzzzzzzzzzzzz = 1", &["zzzzzzzzzzzzzzz", "weight-decay"]);
    refused("epochs = 'ten'", &["the value of epochs", "ten"]);
    refused("epochs = -1", &["the value of epochs"]);
    refused("schedule = 'quadratic'", &["the value of schedule", "one-cycle"]);
    refused("device = 'gpu'", &["the value of device", "gpu"]);
    refused("lr = 0.0", &["the value of lr, 0", "above 0"]);
    refused("batch-size = 0", &["the value of batch-size, 0", "at least 1"]);
    refused("threads = 0", &["the value of threads, 0", "at least 1"]);
    refused("threads = 100000", &["threads", "1024"]);
    refused("max-steps = 0", &["the value of max-steps, 0", "at least 1"]);
    refused("dropout = 1.0", &["the value of dropout, 1", "below 1"]);
    refused("expected-accuracy = 98.8", &["expected-accuracy"]);
    refused("dataset = 'digits'\n[pictures]\nimage-sise = [32, 32]", &["did you mean pictures.image-size?"]);
    refused("model = \"lenet5", &["not TOML"]);
    refused("[augmentation]\ncropping = 4", &["did you mean augmentation.crop-padding?"]);
    refused("[augmentation]\nbrightness = 2.0", &["the value of augmentation.brightness, 2"]);
    fail(1, ["train", "--config", "no/such.toml"], &["--config no/such.toml"]);
    // Unknown names are usage errors, as in flags.
    for (text, words) in [("model = 'lenet6'", ["lenet6", "lenet5"]), ("dataset = 'nothing'", ["nothing", "mnist"])] {
        fs::write(&path, text).expect("write");
        fail(2, ["train", "--config", file], &words);
    }
    fs::write(&path, "dataset = 'digits'\n[pictures]\nimage-size = 32").expect("write");
    fail(2, ["train", "--config", file], &["[pictures]", "not for digits"]);
}

/// A recipe without a data set is for any: its options for pictures apply to the folder that a flag names. Those of a
/// recipe for one folder do not apply to another.
#[test]
fn options_for_pictures_apply_to_the_folder_that_they_are_meant_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = folder.path().join("recipe.toml");
    let folders = ["one", "two"].map(|name| folder.path().join(name));
    for folder in &folders {
        fs::create_dir(folder).expect("a folder");
    }
    let size_with = |text: &str| {
        fs::write(&recipe, text).expect("write");
        let command = Layer::augment_args(Command::new("train").no_binary_name(true));
        let matches = command.get_matches_from([OsStr::new("--dataset"), folders[0].as_os_str()]);
        let flags = Layer::from_arg_matches(&matches).expect("flags");
        RunConfig::new(&flags, Some(&recipe)).expect("a configuration").pictures().image_size
    };
    assert_eq!(size_with("[pictures]\nimage-size = 32"), Some((32, 32)));
    assert_eq!(size_with(&format!("dataset = {:?}\n[pictures]\nimage-size = 32", folders[0])), Some((32, 32)));
    assert_eq!(size_with(&format!("dataset = {:?}\n[pictures]\nimage-size = 32", folders[1])), None);
}

/// Every recipe in the repository is valid, is named after its model, its data set and, if there are several for them, what
/// distinguishes it, and states its expected accuracy.
#[test]
fn the_recipes_in_the_repository_are_valid() {
    let mut count = 0;
    for entry in fs::read_dir("recipes").expect("recipes/") {
        let path = entry.expect("an entry").path();
        let recipe = table(&path);
        let (model, dataset) = (recipe["model"].as_str().expect("a name"), recipe["dataset"].as_str().expect("a name"));
        assert!(models::find(model).is_ok(), "{}", path.display());
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let rest = stem.strip_prefix(&format!("{model}-{dataset}")).unwrap_or_else(|| panic!("{stem}"));
        assert!(rest.is_empty() || rest.starts_with('-'), "{stem}");
        assert!(recipe["expected-accuracy"].as_float().is_some_and(|accuracy| accuracy > 0.5 && accuracy < 1.0));
        // The whole recipe is read before the missing device is reported.
        let args = ["train", "--config", path.to_str().expect("UTF-8"), "--device", "99"];
        fail(1, args, &["expected final test accuracy", "99"]);
        count += 1;
    }
    assert!(count >= 2);
}
