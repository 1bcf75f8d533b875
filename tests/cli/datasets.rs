//! Training on folders of pictures, and using such runs in `eval`, `predict` and `--resume`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::program::{fail, succeed};
use crate::support::{Need, skip};

const SIDE: u32 = 20;
const CLASSES: [&str; 3] = ["blue", "green", "red"];

/// Writes pictures of one colour with a little noise; the colour is the class.
fn colours(root: &Path, per_class: usize) {
    for (class, name) in CLASSES.iter().enumerate() {
        for (part, count) in [("train", per_class), ("test", per_class / 4)] {
            let folder = root.join(part).join(name);
            fs::create_dir_all(&folder).expect("a folder");
            for number in 0..count {
                let noise = |pixel: usize| (pixel * 31 + number * 17 + class * 7) as u8 % 60;
                let value = |at: usize| noise(at) + if at % 3 == 2 - class { 150 } else { 20 };
                let pixels: Vec<u8> = (0..(SIDE * SIDE * 3) as usize).map(value).collect();
                let path = folder.join(format!("{number}.png"));
                image::save_buffer(path, &pixels, SIDE, SIDE, image::ExtendedColorType::Rgb8).expect("saved");
            }
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn last_record(run: &Path) -> Value {
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).expect("read");
    json(metrics.lines().last().expect("a line"))
}

/// Trains on the colours, for three epochs by default, and returns the run's folder.
fn train(folder: &Path, more: &[&str]) -> PathBuf {
    colours(&folder.join("colours"), 40);
    let out = folder.join("run");
    let data = folder.join("colours");
    let args =
        ["train", "--dataset", text(&data), "--model", "lenet5", "--device", "cpu", "--out", text(&out), "--quiet"];
    let settings = ["--batch-size", "8", "--lr", "0.02", "--momentum", "0.9"];
    let epochs: &[&str] = if more.contains(&"--epochs") { &[] } else { &["--epochs", "3"] };
    succeed([&args[..], &settings, epochs, more].concat());
    out
}

#[test]
fn streamed_runs_end_with_the_weights_of_resident_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = |name: &str, more: &[&str]| {
        let place = folder.path().join(name);
        fs::create_dir(&place).expect("a folder");
        let out = train(&place, &[&["--epochs", "2", "--flip"], more].concat());
        (fs::read(out.join("model.safetensors")).expect("read"), out)
    };
    let (resident, _) = weights("resident", &["--resident", "--max-steps", "20"]);
    let (streamed, out) = weights("streamed", &["--stream", "--max-steps", "20"]);
    assert!(resident == streamed, "streaming changes the weights");
    let (cut, interrupted) = weights("cut", &["--stream", "--max-steps", "13"]);
    assert!(cut != resident);
    succeed(["train", "--resume", text(&interrupted), "--resident", "--max-steps", "20", "--quiet"]);
    assert!(fs::read(interrupted.join("model.safetensors")).expect("read") == resident, "resuming changes the weights");
    assert!(fs::read_to_string(out.join("config.toml")).expect("read").contains("residency = \"stream\""));
    // A named set is streamed from a decoded file.
    let digits = |more: &[&str]| {
        let out = folder.path().join(more[0]);
        let args =
            ["train", "--dataset", "digits", "--model", "lenet5", "--device", "cpu", "--quiet", "--max-steps", "3"];
        succeed([&args[..], &["--out", text(&out)], more].concat());
        fs::read(out.join("model.safetensors")).expect("read")
    };
    assert!(digits(&["--stream"]) == digits(&["--resident"]), "streaming changes the weights");
    fail(2, ["train", "--stream", "--resident"], &["--stream", "--resident"]);
}

#[test]
fn eval_and_predict_use_the_runs_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = train(folder.path(), &[]);
    let record = last_record(&out);
    assert!(record["test_accuracy"].as_f64().expect("accuracy") > 0.9, "{record}");
    let weights = out.join("model.safetensors");
    // No flag gives the model, data set, image size or classes.
    let result = json(&succeed(["eval", "--device", "cpu", "--json", "--weights", text(&weights)]).stdout);
    assert_eq!((&result["accuracy"], &result["images"]), (&record["test_accuracy"], &30.into()));
    assert_eq!(result["confusion"]["classes"], serde_json::json!(CLASSES));
    let table = succeed(["eval", "--device", "cpu", "--weights", text(&weights)]).stdout;
    assert!(table.contains("\ngreen"), "{table}");
    let other = ["eval", "--device", "cpu", "--weights", text(&weights), "--dataset", "digits"];
    fail(1, other, &["these weights were trained on 3 channels, digits has 1"]);
    let picture = folder.path().join("colours/test/green/0.png");
    let stdout = succeed(["predict", "--device", "cpu", "--weights", text(&weights), text(&picture)]).stdout;
    assert!(stdout.contains("0.png: green "), "{stdout}");

    // Outside the run's folder, the file describes itself.
    let moved = folder.path().join("moved.safetensors");
    fs::copy(&weights, &moved).expect("copied");
    let alone = ["--json", "--device", "cpu", "--weights", text(&moved)];
    let with_run = ["predict", "--json", "--device", "cpu", "--weights", text(&weights), text(&picture)];
    let ran = succeed([&["predict"][..], &alone, &[text(&picture)]].concat());
    assert_eq!((ran.stderr.contains("WARN"), json(&ran.stdout)), (false, json(&succeed(with_run).stdout)));
    let data = folder.path().join("colours");
    let ran = succeed([&["eval"][..], &alone, &["--dataset", text(&data)]].concat());
    assert_eq!(json(&ran.stdout)["accuracy"], record["test_accuracy"]);
    assert!(!ran.stderr.contains("WARN"), "{}", ran.stderr);
    let words = ["the weights were trained on a data set that is missing", "./colours: there is no such file"];
    fail(1, [&["eval"][..], &alone].concat(), &words);
}

/// Another split of the run's own pictures would test on some that the run was trained on.
#[test]
fn eval_refuses_another_split_of_the_runs_pictures() {
    let folder = tempfile::tempdir().expect("a folder");
    colours(folder.path(), 20);
    // Without test/, the run sets test pictures aside.
    let data = folder.path().join("train");
    let out = folder.path().join("run");
    let args = ["train", "--dataset", text(&data), "--model", "lenet5", "--device", "cpu", "--out", text(&out)];
    let split = ["--quiet", "--max-steps", "2", "--test-fraction", "0.25", "--split-seed", "3"];
    let ran = succeed([&args[..], &split].concat());
    for words in ["): --device cpu", "images of 3×20×20 (channels×height×width), mean 0.", ", standard deviation 0."]
    {
        assert!(ran.stderr.contains(words), "{words:?} is missing from: {}", ran.stderr);
    }
    let weights = out.join("model.safetensors");
    let eval = ["eval", "--json", "--device", "cpu", "--weights", text(&weights)];
    let words = ["--test-fraction 0.25", "--split-seed 3", "trained on"];
    let named = ["--dataset", text(&data)];
    for more in [&[][..], &named] {
        fail(2, [&eval[..], more, &["--test-fraction", "0.5"]].concat(), &words);
        fail(2, [&eval[..], more, &["--split-seed", "9"]].concat(), &words);
        let same = ["--test-fraction", "0.25", "--split-seed", "3"];
        let result = json(&succeed([&eval[..], more, &same].concat()).stdout);
        assert_eq!((&result["accuracy"], &result["images"]), (&last_record(&out)["test_accuracy"], &15.into()));
    }
    // Other pictures may be split in any way.
    let other = folder.path().join("other");
    colours(&other, 8);
    succeed([&eval[..], &["--dataset", text(&other.join("train")), "--test-fraction", "0.5"]].concat());
}

#[test]
fn a_run_resumes_after_its_pictures_have_moved() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = train(folder.path(), &[]);
    let cut = folder.path().join("cut");
    fs::rename(&whole, folder.path().join("whole")).expect("renamed");
    let out = train(folder.path(), &["--max-steps", "20"]);
    fs::rename(&out, &cut).expect("renamed");
    let moved = folder.path().join("elsewhere");
    fs::rename(folder.path().join("colours"), &moved).expect("renamed");
    fail(1, ["train", "--resume", text(&cut)], &["colours: there is no such file or folder"]);
    let weights = cut.join("model.safetensors");
    let words = ["a data set that is missing", "--dataset", "colours: there is no such file or folder"];
    fail(1, ["eval", "--weights", text(&weights)], &words);
    let resume = ["train", "--quiet", "--resume", text(&cut), "--dataset", text(&moved)];
    for flag in [["--image-size", "16"], ["--max-bad", "1"], ["--classes", "4"], ["--split-seed", "1"]] {
        fail(1, [&resume[..], &flag].concat(), &["to resume"]);
    }
    fail(1, [&resume[..], &["--image-size", "16"]].concat(), &["--image-size 16x16 contradicts"]);
    fail(1, ["train", "--resume", text(&cut), "--dataset", "digits"], &["--dataset digits contradicts"]);
    succeed([&resume[..], &["--no-max-steps"]].concat());
    let files =
        [cut.clone(), folder.path().join("whole")].map(|run| fs::read(run.join("model.safetensors")).expect("read"));
    let [ours, theirs] = files.each_ref().map(|file| safetensors::SafeTensors::deserialize(file).expect("safetensors"));
    assert!(ours.names().iter().all(|name| ours.tensor(name).ok() == theirs.tensor(name).ok()), "the weights differ");
    // A run does not resume with other pictures.
    let changed = moved.join("train/red/0.png");
    fs::copy(moved.join("train/red/1.png"), changed).expect("copied");
    fail(1, [&resume[..], &["--epochs", "4"]].concat(), &["fingerprint"]);
}

#[test]
fn a_network_may_have_more_outputs_than_there_are_classes() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = train(folder.path(), &["--classes", "5", "--max-steps", "4", "--mean", "0.5", "--std", "0.5,0.4,0.3"]);
    let config = fs::read_to_string(out.join("config.toml")).expect("read");
    assert!(config.contains("\"class 3\"") && config.contains("0.4"), "{config}");
    let weights = out.join("model.safetensors");
    let result = json(&succeed(["eval", "--device", "cpu", "--json", "--weights", text(&weights)]).stdout);
    assert_eq!(result["confusion"]["classes"], serde_json::json!(["blue", "green", "red", "class 3", "class 4"]));
    assert_eq!(result["accuracy"], last_record(&out)["test_accuracy"]);
    succeed(["train", "--quiet", "--resume", text(&out), "--max-steps", "6"]);
}

#[test]
fn data_flags_that_do_not_apply_or_are_invalid_are_errors() {
    for flag in [["--image-size", "32"], ["--test-fraction", "0.2"], ["--max-bad", "1"], ["--split-seed", "1"]] {
        fail(2, [&["train", "--dataset", "digits"][..], &flag].concat(), &[flag[0], "folders of pictures"]);
    }
    for (flag, value) in [
        ("--image-size", "0"),
        ("--image-size", "3x"),
        ("--test-fraction", "1"),
        ("--classes", "1"),
        ("--max-bad", "-1"),
    ] {
        fail(2, ["train", &format!("{flag}={value}")], &[flag]);
    }
    fail(2, ["train", "--dataset", "digits", "--mean", "0.5"], &["--std"]);
    fail(2, ["train", "--dataset", "digits", "--mean", "nan", "--std", "1"], &["--mean"]);
    fail(2, ["train", "--dataset", "digits", "--classes", "3", "--model", "lenet5"], &["--classes 3", "digits", "10"]);
    let words = "the mean has 2 values and the standard deviation 1, but the images have 1 channel\n";
    fail(1, ["train", "--dataset", "digits", "--mean", "0,1", "--std", "1"], &[words]);
    fail(1, ["train", "--dataset", "no/such/folder"], &["--dataset no/such/folder", "no such file or folder"]);
    fail(1, ["train", "--dataset", "Cargo.toml"], &["Cargo.toml: this is not a tar archive"]);
}

/// Loads the folder and trains for one step; returns the log.
fn log_of(data: &Path) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let args = ["train", "--dataset", text(data), "--model", "lenet5", "--device", "cpu", "--max-steps", "1"];
    succeed([&args[..], &["--out", text(&out), "--batch-size", "8", "--quiet"]].concat()).stderr
}

#[test]
fn classes_that_lack_pictures_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    colours(folder.path(), 8);
    let log = log_of(folder.path());
    assert!(!log.contains("skipping") && !log.contains("no test pictures"), "{log}");
    let nothing = folder.path().join("train/nothing");
    fs::create_dir(&nothing).expect("a folder");
    fail(1, ["train", "--dataset", text(folder.path())], &["the folder train/nothing holds no PNG or JPEG pictures"]);
    fs::remove_dir(&nothing).expect("removed");
    fs::remove_dir_all(folder.path().join("test/red")).expect("removed");
    let log = log_of(folder.path());
    assert!(log.contains("class red has no test pictures\n"), "{log}");
    fs::remove_dir_all(folder.path().join("test/blue")).expect("removed");
    let log = log_of(folder.path());
    assert!(log.contains("classes without test pictures: blue, red\n"), "{log}");
    // Without a test folder and below a folder that contains all classes, as in many archives.
    let set = folder.path().join("set");
    fs::create_dir_all(set.join("other")).expect("a folder");
    fs::rename(folder.path().join("train"), set.join("inner")).expect("renamed");
    fail(1, ["train", "--dataset", text(&set)], &["the folder other holds no PNG or JPEG pictures"]);
    fs::remove_dir(set.join("other")).expect("removed");
    let log = log_of(&set);
    assert!(!log.contains("test pictures:") && !log.contains("no test pictures"), "{log}");
}

#[test]
fn files_that_are_skipped_are_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    colours(folder.path(), 8);
    fs::write(folder.path().join("train/red/a.gif"), b"").expect("write");
    let log = log_of(folder.path());
    assert!(log.contains("skipping 1 picture in other formats (.gif); convert them to PNG or JPEG"), "{log}");
    assert!(!log.contains("ignored"), "{log}");
    fs::write(folder.path().join("train/red/b.TIFF"), b"").expect("write");
    fs::write(folder.path().join("labels.csv"), b"").expect("write");
    let log = log_of(folder.path());
    assert!(log.contains("skipping 2 pictures in other formats (.gif, .tiff)"), "{log}");
    assert!(log.contains("ignored 1 other file\n") && !log.contains(" links"), "{log}");
}

#[test]
fn corrupt_pictures_are_explained_once_and_the_counts_are_corrected() {
    let folder = tempfile::tempdir().expect("a folder");
    colours(folder.path(), 8);
    fs::write(folder.path().join("train/red/0.png"), b"").expect("write");
    let args = ["train", "--dataset", text(folder.path()), "--model", "lenet5", "--device", "cpu", "--max-steps", "1"];
    let args = [&args[..], &["--batch-size", "8"]].concat();
    let stderr =
        fail(1, args.clone(), &["WARN train/red/0.png: the file is empty", "1 picture is corrupt or unreadable ("]);
    assert_eq!(stderr.matches("the file is empty").count(), 1, "{stderr}");
    let out = folder.path().join("run");
    let stderr = succeed([&args[..], &["--max-bad", "1", "--out", text(&out), "--quiet"]].concat()).stderr;
    let words = "skipped 1 corrupt or unreadable picture, which leaves 23 training pictures, 6 test pictures\n";
    assert!(stderr.contains("3 classes, 24 training pictures, 6 test pictures\n"), "{stderr}");
    assert!(stderr.contains(words), "{stderr}");
}

/// Reads 60,000 JPEG pictures from an archive. Their mean and standard deviation match the published ones, except for
/// what JPEG loses.
#[test]
#[ignore = "long; CI runs it"]
fn trains_on_cifar10_as_pictures() {
    let data = std::env::var_os("CNN_CUDA_DATA").map_or_else(|| PathBuf::from("data"), PathBuf::from);
    let archive = data.join("cifar10/cifar10-jpeg.tar.xz");
    if !archive.is_file() {
        return skip(Need::Cifar10, &format!("{} does not exist", archive.display()));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let args = ["train", "--dataset", text(&archive), "--model", "lenet5", "--device", "cpu", "--out", text(&out)];
    let ran = succeed([&args[..], &["--max-steps", "150", "--lr", "0.02", "--momentum", "0.9"]].concat());
    assert!(ran.stderr.contains("10 classes, 50000 training pictures, 10000 test pictures"), "{}", ran.stderr);
    let config: toml::Table = fs::read_to_string(out.join("config.toml")).expect("read").parse().expect("TOML");
    let input = &config["input"];
    let near = |key: &str, published: [f64; 3]| {
        let found = input[key].as_array().expect("a list");
        assert_eq!(found.len(), 3);
        for (found, published) in found.iter().zip(published) {
            assert!((found.as_float().expect("a number") - published).abs() < 0.002, "{key}: {found} for {published}");
        }
    };
    near("mean", [0.4914, 0.4822, 0.4465]);
    near("std", [0.2470, 0.2435, 0.2616]);
    assert_eq!((input["height"].as_integer(), input["channels"].as_integer()), (Some(32), Some(3)));
    assert_eq!((input["classes"][0].as_str(), input["classes"][9].as_str()), (Some("airplane"), Some("truck")));
    // Random guesses have an accuracy of 0.1.
    let record = last_record(&out);
    assert!(record["test_accuracy"].as_f64().expect("accuracy") > 0.2, "{record}");
}
