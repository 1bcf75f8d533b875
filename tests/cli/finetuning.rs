//! `train --pretrained`, `--freeze` and `--unfreeze-at`: what is loaded, kept and said, and what is refused.

use std::fs;
use std::path::Path;

use cnn_cuda::checkpoint::load_weights;
use cnn_cuda::models::find;
use cnn_cuda::network::{Network, Weights};

use super::train;
use crate::support::program::{command, fail, succeed};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn lenet5(classes: usize) -> Network {
    let model = find("lenet5").expect("a known model");
    (model.build)(model.input, classes).expect("a network")
}

fn weights(folder: &Path, classes: usize) -> Weights {
    load_weights(&folder.join("model.safetensors"), &lenet5(classes)).expect("weights")
}

#[test]
fn a_head_of_another_shape_gets_initial_values_and_frozen_layers_keep_their_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let [first, second, scratch] = ["first", "second", "scratch"].map(|name| folder.path().join(name));
    train(&first, &["--max-steps", "5", "--quiet"]);
    let tune = ["--pretrained", text(&first), "--classes", "11", "--quiet"];
    let ran = train(&second, &[&tune[..], &["--freeze", "backbone", "--max-steps", "3", "--seed", "4"]].concat());
    let named = "fc3 is [11, 84], but [10, 84] in";
    assert!(
        ran.stderr.contains(named) && ran.stderr.contains("it starts from the initial values of seed 4"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("60856 are frozen"), "{}", ran.stderr);
    let (before, after) = (weights(&first, 10), weights(&second, 11));
    let (old, new) = (lenet5(10), lenet5(11));
    for (then, now) in old.parameters.iter().zip(&new.parameters).take(8) {
        assert!(before.parameters[then.range()] == after.parameters[now.range()], "{} moved", then.name);
    }
    // Every layer but the head is that of the file before the first step.
    let config = fs::read_to_string(second.join("config.toml")).expect("a configuration");
    let pretrained = format!("pretrained = \"{}\"", first.display());
    assert!(config.contains("freeze = \"backbone\"") && config.contains(&pretrained), "{config}");
    let ran = train(&scratch, &[&tune[..], &["--max-steps", "1", "--lr", "1e-30"]].concat());
    assert!(!ran.stderr.contains("frozen"), "{}", ran.stderr);
    let start = weights(&scratch, 11);
    let initial = new.initial_weights(0);
    for (index, (then, now)) in old.parameters.iter().zip(&new.parameters).enumerate() {
        let expected = if index < 8 { &before.parameters[then.range()] } else { &initial.parameters[now.range()] };
        assert!(expected == &start.parameters[now.range()], "{}", now.name);
    }
    succeed(["eval", "--device", "cpu", "--weights", text(&second)]);
}

#[test]
#[ignore = "long; CI runs it"]
fn resuming_before_and_after_unfreezing_gives_the_same_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let [base, whole, cut] = ["base", "whole", "cut"].map(|name| folder.path().join(name));
    train(&base, &["--max-steps", "5", "--quiet"]);
    let tune = ["--pretrained", text(&base), "--freeze", "conv1,conv2", "--unfreeze-at", "2", "--momentum", "0.9"];
    // Ten steps an epoch: the last two are in the second.
    let tune = [&tune[..], &["--batch-size", "2000", "--quiet"]].concat();
    let ran = train(&whole, &[&tune[..], &["--max-steps", "12"]].concat());
    assert!(ran.stderr.contains("epoch 2: nothing is frozen from now on"), "{}", ran.stderr);
    for stop in ["9", "10", "11"] {
        train(&cut, &[&tune[..], &["--max-steps", stop]].concat());
        succeed(["train", "--resume", text(&cut), "--max-steps", "12", "--quiet"]);
        let [there, here] = [&whole, &cut].map(|run| fs::read(run.join("model.safetensors")).expect("read"));
        assert!(there == here, "stopped after {stop}");
        fs::remove_dir_all(&cut).expect("removed");
    }
    fail(
        1,
        ["train", "--resume", text(&whole), "--freeze", "conv1"],
        &["--freeze conv1 contradicts the run to resume"],
    );
    fail(2, ["train", "--resume", text(&whole), "--pretrained", "resnet18"], &["--pretrained", "cannot be used with"]);
}

#[test]
fn other_networks_and_impossible_settings_are_refused_with_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let (base, out) = (folder.path().join("base"), folder.path().join("out"));
    train(&base, &["--max-steps", "1", "--quiet"]);
    let weights = base.join("model.safetensors");
    let run = ["train", "--dataset", "digits", "--device", "cpu", "--model", "lenet5", "--out", text(&out)];
    let cases: [(i32, &[&str], &[&str]); 12] = [
        (
            1,
            &["--model", "mnist-cnn", "--pretrained", text(&weights)],
            &[
                "its tensors are not those of mnist-cnn",
                "missing: layer1.0.weight",
                "not of the network: conv1.bias",
                "only the shape of",
                "See --model",
            ],
        ),
        (
            2,
            &["--pretrained", "nosuch.pth"],
            &["--pretrained nosuch.pth: there is no such file, and no known weights", "resnet18"],
        ),
        (2, &["--pretrained", "resnet-18"], &["did you mean resnet18?"]),
        (2, &["--pretrained", "resnet18"], &["weights of resnet18, but the network is lenet5; add --model resnet18"]),
        (
            1,
            &["--model", "resnet18", "--pretrained", "resnet18"],
            &["the weights resnet18 are for images of 3 channels, but those of digits have 1"],
        ),
        (1, &["--pretrained", text(folder.path())], &["--pretrained", "is a folder without model.safetensors"]),
        (2, &["--pretrained", text(&weights), "--init", text(&weights)], &["--init and --pretrained are two ways"]),
        (
            2,
            &["--freeze", "conv9"],
            &["--freeze conv9: lenet5 has no layer or module \"conv9\"; there are conv1, conv2, fc1", "backbone"],
        ),
        (2, &["--freeze", "backbone,fc3"], &["nothing is left to train in lenet5"]),
        (2, &["--unfreeze-at", "2"], &["--unfreeze-at needs --freeze"]),
        (2, &["--freeze", "conv1", "--unfreeze-at", "1"], &["--unfreeze-at 1 must be from 2"]),
        (
            2,
            &["--freeze", "conv1", "--unfreeze-at", "21"],
            &["--unfreeze-at 21 must be from 2, the second epoch, to the last of 20"],
        ),
    ];
    for (code, args, words) in cases {
        let args: Vec<&str> = match args[0] {
            // Flags may be given once.
            "--model" => {
                run.iter().copied().filter(|arg| !["--model", "lenet5"].contains(arg)).chain(args.to_vec()).collect()
            }
            _ => [&run[..], args].concat(),
        };
        fail(code, args, words);
        assert!(!out.exists(), "{words:?}: the folder of the run was created");
    }
    let ran = train(&out, &["--freeze", "conv1", "--max-steps", "1", "--quiet"]);
    assert!(ran.stderr.contains("keeps weights that were never trained"), "{}", ran.stderr);
}

#[test]
fn another_normalisation_than_that_of_the_weights_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let [base, same, other] = ["base", "same", "other"].map(|name| folder.path().join(name));
    train(&base, &["--max-steps", "1", "--quiet", "--mean", "0.25", "--std", "0.5"]);
    let tune = ["--pretrained", text(&base), "--max-steps", "1", "--quiet"];
    let ran = train(&same, &[&tune[..], &["--mean", "0.25", "--std", "0.5"]].concat());
    assert!(!ran.stderr.contains("WARN"), "{}", ran.stderr);
    let ran = train(&other, &tune);
    let words = "was trained with mean [0.25] and std [0.5], this run has [0.5] and [0.5] (--mean and --std)";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
}

#[test]
fn known_weights_that_cannot_be_downloaded_say_where_to_put_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let place = data.join("weights/resnet18-f37072fd.pth");
    let dead = |args: &[&str]| {
        let output =
            command(args).env("CNN_CUDA_WEIGHTS_MIRROR", "http://127.0.0.1:9/models").output().expect("it starts");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        for words in [
            "cannot download resnet18-f37072fd.pth",
            "CNN_CUDA_WEIGHTS_MIRROR",
            &format!("put the file at {}", place.display()),
        ] {
            assert!(stderr.contains(words), "{words:?} is not in: {stderr}");
        }
        stderr
    };
    dead(&["fetch", "resnet18", "--data", text(&data)]);
    let pictures = folder.path().join("pictures");
    for class in ["a", "b"] {
        fs::create_dir_all(pictures.join(class)).expect("a folder");
        for shade in 0..10_u8 {
            let pixels: Vec<u8> = (0..32 * 32 * 3).map(|at| (at as u8).wrapping_mul(shade)).collect();
            let path = pictures.join(class).join(format!("{shade}.png"));
            image::save_buffer(path, &pixels, 32, 32, image::ExtendedColorType::Rgb8).expect("saved");
        }
    }
    let out = folder.path().join("out");
    let run = ["train", "--dataset", text(&pictures), "--device", "cpu", "--model", "resnet18", "--out", text(&out)];
    let known = ["--pretrained", "resnet18", "--data", text(&data)];
    let stderr = dead(&[&run[..], &known].concat());
    assert!(
        stderr.contains("mean [0.485, 0.456, 0.406] and std [0.229, 0.224, 0.225] are those of the weights resnet18")
    );
    assert!(!out.exists());
    // A file there that is another one is not used.
    fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
    fs::write(&place, b"something else").expect("written");
    let stderr = dead(&[&run[..], &known, &["--mean", "0.5", "--std", "0.5"]].concat());
    assert!(
        stderr.contains("is invalid (the checksum is wrong") && !stderr.contains("those of the weights"),
        "{stderr}"
    );
}
