//! Bad input causes a clear error that names the file or flag, the right exit code, and no loss of data.

use std::fs;
use std::process::Command;

use cnn_cuda::checkpoint::{load_state, save_state};
use cnn_cuda::run::identity;
use cnn_cuda::settings::{RunConfig, build_network};
use cnn_cuda::{data, models};

use super::{numbers, short_run, train, weights};
use crate::support::program::{binary, fail, succeed};

#[test]
fn values_out_of_range_are_usage_errors() {
    let cases = [
        ("--lr", "nan"),
        ("--lr", "0"),
        ("--lr", "-1"),
        ("--lr", "inf"),
        ("--batch-size", "0"),
        ("--batch-size", "-3"),
        ("--batch-size", "18446744073709551615"),
        ("--eval-batch-size", "0"),
        ("--epochs", "0"),
        ("--epochs", "99999999999"),
        ("--threads", "0"),
        ("--threads", "1000000"),
        ("--momentum", "1"),
        ("--dropout", "1"),
        ("--label-smoothing", "-0.1"),
        ("--momentum", "nan"),
        ("--weight-decay", "-0.1"),
        ("--schedule", "linear:1"),
        ("--schedule", "step:0:0.1"),
        ("--warm-up", "-1"),
        ("--warm-up-steps", "0"),
        ("--target-accuracy", "99"),
        ("--patience", "0"),
        ("--max-steps", "0"),
        ("--seed", "-1"),
        ("--device", "gpu"),
        ("--device", "-1"),
        ("--precision", "fp8"),
    ];
    for (flag, value) in cases {
        fail(2, ["train", &format!("{flag}={value}")], &[flag]);
        fail(2, ["train", flag, value], &[flag]);
    }
    fail(2, ["bench", "--steps", "18446744073709551615"], &["--steps"]);
    fail(2, ["trian"], &["trian"]);
    fail(2, ["predict", "--weights", "x"], &["IMAGE"]);
}

#[test]
fn contradictory_settings_are_errors() {
    fail(2, ["train", "--dataset", "digits", "--nesterov"], &["--nesterov", "--momentum"]);
    fail(2, ["train", "--dataset", "digits", "--epochs", "2", "--warm-up", "2"], &["--warm-up 2", "2 epochs"]);
    fail(2, ["train", "--dataset", "digits", "--ema-warm-up"], &["--ema-warm-up needs --ema"]);
    let twice = ["train", "--dataset", "digits", "--warm-up", "1", "--warm-up-steps", "5"];
    fail(2, twice, &["--warm-up-steps", "--no-warm-up"]);
    fail(2, ["train", "--dataset", "digits", "--device", "cpu", "--precision", "fp16"], &["--precision", "CPU"]);
    fail(2, ["train", "--model", "resnet9000", "--dataset", "digits"], &["resnet9000", "mnist-cnn"]);
    fail(2, ["train", "--dataset", "imagenet-22k"], &["imagenet-22k", "digits"]);
    for name in ["LeNet5", "lenet-5", "lenet"] {
        fail(2, ["summary", "--model", name], &["did you mean lenet5?"]);
    }
    fail(2, ["train", "--dataset", "Mnist"], &["did you mean mnist?"]);
    let other = fail(2, ["train", "--dataset", "imagenet-22k"], &[]);
    assert!(!other.contains("did you mean"), "{other}");
}

/// A batch of one image that the network reduces to one pixel has no variance.
#[test]
fn a_batch_too_small_for_batch_normalisation_is_refused_before_a_folder_is_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let args = ["train", "--model", "resnet18", "--dataset", "digits", "--device", "cpu", "--batch-size", "1"];
    fail(1, [&args[..], &["--out", out.to_str().expect("UTF-8")]].concat(), &["no variance", "--batch-size"]);
    assert!(!out.exists(), "a run that never started left a folder");
}

#[test]
fn a_network_that_does_not_fit_in_memory_is_an_error() {
    let huge = ["bench", "--model", "resnet20", "--image-size", "4096", "--batch-size", "1000000", "--device", "cpu"];
    fail(1, huge, &["not enough memory", "--batch-size"]);
}

#[test]
fn control_characters_in_file_names_are_not_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let bad = folder.path().join("train/a/\u{1b}[31mred\u{7}\u{202e}.png");
    for class in ["a", "b"] {
        fs::create_dir_all(folder.path().join("train").join(class)).expect("a folder");
    }
    fs::write(bad, "no picture").expect("write");
    fs::write(folder.path().join("train/b/1.png"), "no picture either").expect("write");
    let dataset = folder.path().to_str().expect("UTF-8");
    let stderr = fail(1, ["train", "--device", "cpu", "--dataset", dataset], &["[31mred"]);
    assert!(!stderr.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{stderr:?}");
}

#[test]
fn a_missing_device_is_an_error() {
    // No machine has a hundred devices.
    let output = Command::new(binary())
        .args(["train", "--dataset", "digits", "--device", "99", "--max-steps", "1"])
        .output()
        .expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("99") && stderr.contains("device"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
#[ignore = "long; CI runs it"]
fn a_batch_that_does_not_fit_in_memory_is_an_error() {
    fail(1, ["bench", "--device", "cpu", "--batch-size", "1000000"], &["not enough memory", "--batch-size"]);
}

#[test]
fn an_output_folder_that_cannot_be_created_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, b"precious").expect("write");
    fail(1, short_run(&file, &["--max-steps", "1"]), &["--out", "is a file"]);
    fail(1, short_run(&file.join("below"), &["--max-steps", "1"]), &["--out"]);
    assert_eq!(fs::read(&file).expect("read"), b"precious");
}

#[test]
fn foreign_files_are_not_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["model.safetensors", "metrics.jsonl", "curves.svg", "config.toml"] {
        let out = folder.path().join(name).join("out");
        fs::create_dir_all(&out).expect("a folder");
        fs::write(out.join(name), b"precious").expect("write");
        fail(1, short_run(&out, &["--max-steps", "1"]), &["--out", name]);
        assert_eq!(fs::read(out.join(name)).expect("read"), b"precious");
    }
}

#[test]
fn weights_far_too_large_for_the_network_are_refused_without_reading_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sparse.safetensors");
    // Zeros alone would be refused for what they are.
    fs::write(&path, [0xf3; 16]).expect("write");
    fs::OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
    let name = path.to_str().expect("UTF-8");
    fail(1, ["eval", "--dataset", "digits", "--weights", name], &[name, "far more"]);
}

#[test]
fn evaluating_diverged_weights_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = models::find("lenet5").expect("a model");
    let network = (model.build)(model.input, model.classes).expect("a network");
    let weights: Vec<f32> = network.initial_parameters(0).iter().map(|weight| 3e38_f32.copysign(*weight)).collect();
    let path = folder.path().join("huge.safetensors");
    cnn_cuda::checkpoint::save_weights(&path, &network, &weights, &network.initial_statistics()).expect("saved");
    let args = ["eval", "--dataset", "digits", "--model", "lenet5", "--weights", path.to_str().expect("UTF-8")];
    fail(1, args, &["diverged"]);
}

/// If messages cannot be printed, the run continues and the exit code is still right.
#[cfg(unix)]
#[test]
fn a_run_survives_output_that_cannot_be_printed() {
    if !std::path::Path::new("/dev/full").exists() {
        return;
    }
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let status = crate::support::program::command(short_run(&out, &["--max-steps", "2"])).stderr(full()).status();
    assert_eq!(status.expect("it runs").code(), Some(0));
    assert!(out.join("model.safetensors").exists());
    let status = crate::support::program::command(["eval", "--weights", "none"]).stderr(full()).status();
    assert_eq!(status.expect("it runs").code(), Some(1));
    for args in [&["--version"][..], &["--help"], &["train", "--help"], &["completions", "bash"], &["man"]] {
        let status = crate::support::program::command(args).stdout(full()).status();
        assert_eq!(status.expect("it runs").code(), Some(1), "{args:?} was not printed");
    }
    let status = crate::support::program::command(short_run(&folder.path().join("b"), &["--max-steps", "2"]))
        .stdout(full())
        .status();
    assert_eq!(status.expect("it runs").code(), Some(0), "a table that could not be printed ended the run");
}

#[test]
fn a_missing_data_set_is_reported_with_its_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("UTF-8");
    // A mirror that refuses the connection simulates a machine without a network.
    let output = crate::support::program::command(["train", "--data", data, "--max-steps", "1"])
        .env("CNN_CUDA_MNIST_MIRROR", "http://127.0.0.1:1/,http://127.0.0.1:2/")
        .output()
        .expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for word in [data, "train-images-idx3-ubyte", "--dataset digits", "trying the next mirror"] {
        assert!(stderr.contains(word), "{word:?} is missing from: {stderr}");
    }
    for mirror in ["127.0.0.1:1/", "127.0.0.1:2/"] {
        assert_eq!(stderr.matches(mirror).count(), 1, "{mirror} is not reported once: {stderr}");
    }
}

#[test]
fn missing_or_foreign_weights_are_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--max-steps", "1", "--quiet"]);
    let weights = out.join("model.safetensors");
    let weights = weights.to_str().expect("UTF-8");
    fail(1, ["eval", "--dataset", "digits", "--weights", "no/such.safetensors"], &["no/such.safetensors"]);
    let model = ["--model", "mnist-cnn", "--dataset", "digits"];
    fail(1, [&["eval", "--weights", weights][..], &model].concat(), &[weights, "layer1.0.weight", "--model"]);
    let init = folder.path().join("init");
    fail(1, ["train", "--dataset", "digits", "--init", weights, "--out", init.to_str().expect("UTF-8")], &[weights]);
    assert!(!init.exists(), "a run that never started left a folder");
    fail(1, ["predict", "--model", "lenet5", "--weights", weights, "no.png"], &["no.png"]);
}

/// `--weights` and `--init` take a file, `--resume` takes a folder; where one is given for the other, it is taken as meant.
#[test]
fn a_folder_given_for_its_weights_or_the_reverse_is_taken_as_meant() {
    let folder = tempfile::tempdir().expect("a folder");
    let (out, second) = (folder.path().join("run"), folder.path().join("second"));
    train(&out, &["--max-steps", "1", "--quiet"]);
    let (name, file) = (out.to_str().expect("UTF-8"), out.join("model.safetensors"));
    let file = file.to_str().expect("UTF-8");
    let result = |weights| succeed(["eval", "--device", "cpu", "--weights", weights]).stdout;
    let accuracy = |table: &str| table.split(" in ").next().map(String::from);
    assert_eq!(accuracy(&result(name)), accuracy(&result(file)));
    fail(1, ["predict", "--weights", name, "no.png"], &["no.png"]);
    train(&second, &["--max-steps", "1", "--quiet", "--init", name]);
    let parent = folder.path().to_str().expect("UTF-8");
    let words = ["--weights", "is a folder without model.safetensors; a .safetensors file is expected"];
    fail(1, ["eval", "--weights", parent], &words);
    for name in ["model.safetensors", "checkpoint.safetensors", "config.toml"] {
        let file = out.join(name);
        let ran = succeed(["train", "--resume", file.to_str().expect("UTF-8"), "--quiet"]);
        assert!(ran.stderr.contains("nothing left to do after 1 step: reached --max-steps"), "{}", ran.stderr);
    }
    let other = folder.path().join("other");
    fs::write(&other, b"").expect("write");
    fail(1, ["train", "--resume", other.to_str().expect("UTF-8")], &["--resume", "not in the folder of a run"]);
}

/// A limit on file sizes simulates a full disk: writes past it fail in the same places.
#[cfg(unix)]
#[test]
fn a_full_disk_does_not_damage_the_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--max-steps", "3", "--quiet"]);
    let before = fs::read(out.join("checkpoint.safetensors")).expect("read");
    let script = format!(
        "trap '' XFSZ; ulimit -f 64; exec '{}' train --resume '{}' --max-steps 5 --quiet",
        binary().display(),
        out.display()
    );
    let output = Command::new("bash").args(["-c", &script]).output().expect("bash");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot write") && stderr.contains("model.safetensors"), "{stderr}");
    assert!(stderr.contains("last good checkpoint"), "{stderr}");
    assert_eq!(fs::read(out.join("checkpoint.safetensors")).expect("read"), before);
    let hidden = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    let left = fs::read_dir(&out).expect("list").filter_map(Result::ok).filter(hidden).count();
    assert_eq!(left, 0, "temporary files are left behind");
    succeed(["train", "--resume", out.to_str().expect("UTF-8"), "--max-steps", "5", "--quiet"]);
}

/// If writing an epoch's files fails while the next epoch runs, the run ends with an error.
#[cfg(unix)]
#[test]
fn a_failed_write_in_the_background_ends_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let (out, whole) = (folder.path().join("run"), folder.path().join("whole"));
    let name = out.to_str().expect("UTF-8");
    train(&out, &["--max-steps", "3", "--log-steps", "--quiet"]);
    let before = fs::read(out.join("checkpoint.safetensors")).expect("read");
    let script = format!(
        "trap '' XFSZ; ulimit -f 128; exec '{}' train --resume '{name}' --epochs 50 --no-max-steps --log-steps",
        binary().display()
    );
    let output = Command::new("bash").args(["-c", &script]).output().expect("bash");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for words in ["cannot write", "model.safetensors", "last good checkpoint"] {
        assert!(stderr.contains(words), "{words:?} is missing from: {stderr}");
    }
    assert!(stdout.lines().count() <= 2, "there is more than the epoch that could not be saved: {stdout}");
    assert_eq!(fs::read(out.join("checkpoint.safetensors")).expect("read"), before);
    // An epoch has 313 steps. The failure is noticed before the second epoch ends.
    let steps = numbers(&out).iter().filter(|record| record["kind"] == "step").count();
    assert!((313..626).contains(&steps), "the run ended after {steps} steps");
    succeed(["train", "--resume", name, "--max-steps", "20", "--quiet", "--log-steps"]);
    train(&whole, &["--max-steps", "20", "--log-steps", "--quiet"]);
    assert!(weights(&out) == weights(&whole), "the weights differ");
    assert_eq!(numbers(&out), numbers(&whole));
}

#[test]
fn divergence_stops_the_run_and_keeps_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let message = fail(1, short_run(&out, &["--lr", "1e38"]), &["loss became", "at step", "--lr"]);
    assert!(message.contains("last good checkpoint"), "{message}");
    // The last good checkpoint is the initial one, whose weights are finite.
    let weights = out.join("model.safetensors");
    let args = ["eval", "--model", "lenet5", "--dataset", "digits", "--weights", weights.to_str().expect("UTF-8")];
    succeed(args);
    // Let a run diverge after a good checkpoint by giving that checkpoint large weights.
    let out = folder.path().join("later");
    train(&out, &["--max-steps", "4", "--quiet"]);
    let config = RunConfig::read(&out).expect("a configuration");
    let dataset = data::load("digits", &config.load_options()).expect("digits");
    let network = build_network(models::find("lenet5").expect("LeNet-5"), dataset.shape, 10).expect("a network");
    let (path, identity) = (out.join("checkpoint.safetensors"), identity(&config, &dataset).expect("an identity"));
    let mut state = load_state(&path, &network, &identity).expect("a checkpoint");
    state.parameters.iter_mut().for_each(|weight| *weight = 3e38_f32.copysign(*weight));
    save_state(&path, &network, &identity, &state).expect("saved");
    let before = fs::read(&path).expect("read");
    let resume = ["train", "--resume", out.to_str().expect("UTF-8"), "--quiet", "--no-max-steps"];
    fail(1, resume, &["loss became", "last good checkpoint"]);
    assert_eq!(fs::read(&path).expect("read"), before);
}

/// A terminal would interpret C1 and other control characters of an argument.
#[test]
fn errors_of_the_command_line_escape_control_characters() {
    for args in [&["train", "--lr", "\u{9b}31m1"][..], &["train", "--none\u{9b}"], &["trai\u{9b}n\u{7f}"]] {
        let ran = crate::support::program::run(args.iter().copied());
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains("\\u{9b}"), "{}", ran.stderr);
        assert!(!ran.stderr.chars().any(|c| c.is_control() && c != '\n'), "{:?}", ran.stderr);
    }
}
