//! Random transforms of training images: runs on a folder, on both backends, and settings that contradict.

use std::fs;
use std::path::Path;

use super::cuda::{run_with, step_losses};
use super::numbers;
use crate::support::emulator::emulator;
use crate::support::program::{fail, run, succeed};

/// Each with the settings that a run accepts with any data set.
const TRANSFORMS: [&[&str]; 5] = [
    &["--random-resized-crop", "--flip"],
    &["--random-resized-crop", "--crop-scale", "0.5,1", "--crop-ratio", "0.9,1.1"],
    &["--rand-augment", "2,9", "--crop-padding", "4", "--flip"],
    &["--color-jitter", "0.4,0.4,0.4,0.1"],
    &["--random-erasing", "0.5", "--flip"],
];

const ALL: [&str; 8] = [
    "--random-resized-crop",
    "--flip",
    "--rand-augment",
    "2,9",
    "--color-jitter",
    "0.4,0.4,0.4,0.1",
    "--random-erasing",
    "0.25",
];

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Writes three classes of pictures in colour of 40×48, in which the class is the place of a bright square.
fn write_set(root: &Path) {
    for (class, place) in [("left", 4), ("middle", 18), ("right", 32)] {
        for (split, count) in [("train", 9), ("test", 3)] {
            let folder = root.join(split).join(class);
            fs::create_dir_all(&folder).expect("a folder");
            for number in 0..count {
                let picture = image::RgbImage::from_fn(48, 40, |x, y| {
                    let inside = (place..place + 12).contains(&x) && (12..24).contains(&y);
                    image::Rgb([if inside { 220 } else { 30 }, (x * 4) as u8, (y * 5 + number) as u8])
                });
                picture.save(folder.join(format!("{number}.png"))).expect("saved");
            }
        }
    }
}

#[test]
fn every_transform_changes_the_losses() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    write_set(&data);
    let losses = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let args = ["train", "--dataset", text(&data), "--image-size", "28", "--model", "lenet5", "--device", "cpu"];
        let steps = ["--quiet", "--log-steps", "--batch-size", "9", "--max-steps", "3", "--out", text(&out)];
        succeed([&args[..], &steps, more].concat());
        step_losses(&out)
    };
    let mut seen = vec![losses("usual", &[])];
    for (number, transforms) in TRANSFORMS.iter().enumerate() {
        let ours = losses(&number.to_string(), transforms);
        assert!(ours.iter().all(|loss| loss.is_finite()) && !seen.contains(&ours), "{transforms:?}: {ours:?}");
        seen.push(ours);
    }
}

#[test]
#[ignore = "long; CI runs it"]
fn a_run_on_the_device_equals_one_on_the_cpu_and_resumes_to_the_same_bits() {
    let Some(libraries) = emulator() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    write_set(&data);
    let args = |out: &Path, device: &str, more: &[&str]| -> Vec<String> {
        let fixed = ["train", "--dataset", text(&data), "--model", "lenet5", "--image-size", "28", "--batch-size", "8"];
        let run = ["--epochs", "2", "--log-steps", "--quiet", "--device", device, "--out", text(out)];
        let quick = ["--conv-algo", "direct"];
        [&fixed[..], &run, &quick, more].concat().into_iter().map(String::from).collect()
    };
    let ran = |args: Vec<String>| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ran = run_with(libraries, &[], &args);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    };
    for (number, transforms) in TRANSFORMS.into_iter().chain([&ALL[..]]).enumerate() {
        let [cpu, device, half] = ["cpu", "0", "half"].map(|name| folder.path().join(format!("{number}-{name}")));
        ran(args(&cpu, "cpu", transforms));
        ran(args(&device, "0", transforms));
        let [on_cpu, on_device] = [&cpu, &device].map(|out| step_losses(out));
        assert_eq!((on_cpu.len(), on_device.len()), (8, 8));
        for (ours, cpu) in on_device.iter().zip(&on_cpu) {
            assert!((ours - cpu).abs() <= 1e-3 * cpu, "{transforms:?}: {ours} on the device, {cpu} on the CPU");
        }
        if transforms != ALL {
            continue;
        }
        ran([args(&half, "0", transforms), vec!["--max-steps".into(), "3".into()]].concat());
        ran(["train", "--resume", text(&half), "--no-max-steps", "--quiet"].map(String::from).to_vec());
        let weights = |out: &Path| fs::read(out.join("model.safetensors")).expect("read");
        assert!(weights(&half) == weights(&device), "{transforms:?}: a resumed run ends with other weights");
    }
}

#[test]
fn streamed_pictures_are_transformed_in_the_same_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    write_set(&data);
    let [resident, streamed] = ["resident", "stream"].map(|residency| {
        let out = folder.path().join(residency);
        let fixed = ["train", "--dataset", text(&data), "--model", "lenet5", "--image-size", "28", "--batch-size", "8"];
        let run = ["--epochs", "2", "--quiet", "--device", "cpu", "--residency", residency, "--out", text(&out)];
        let crop = ["--crop-pct", "0.8", "--resize", "34", "--val-fraction", "0.3"];
        succeed([&fixed[..], &run, &ALL, &crop].concat());
        numbers(&out)
    });
    assert_eq!(resident, streamed);
}

#[test]
fn settings_without_effect_or_that_contradict_are_refused() {
    let digits = ["train", "--dataset", "digits", "--model", "lenet5", "--device", "cpu"];
    let refused = |more: &[&str], words: &[&str]| fail(2, [&digits[..], more].concat(), words);
    refused(&["--crop-scale", "0.5,1"], &["--crop-scale has no effect without --random-resized-crop"]);
    refused(&["--resize", "32"], &["--resize has no effect without --random-resized-crop"]);
    refused(&["--random-resized-crop", "--resize", "32"], &["--resize is for folders of pictures"]);
    refused(&["--random-resized-crop", "--crop-padding", "4"], &["two random crops"]);
    refused(&["--crop-scale", "1,0.5"], &["--crop-scale", "the smaller first"]);
    refused(&["--crop-ratio", "0,1"], &["--crop-ratio", "above 0"]);
    refused(&["--rand-augment", "0,9"], &["--rand-augment", "from 1 to 8"]);
    refused(&["--rand-augment", "2,31"], &["--rand-augment", "magnitude from 0 to 30"]);
    refused(&["--color-jitter", "0.4,0.4,0.4,0.6"], &["--color-jitter", "at most 0.5"]);
    refused(&["--color-jitter", "0.4"], &["--color-jitter", "four numbers"]);
    refused(&["--random-erasing", "2"], &["--random-erasing", "from 0 to 1"]);
    let folder = tempfile::tempdir().expect("a folder");
    let (recipe, out) = (folder.path().join("recipe.toml"), folder.path().join("run"));
    let text_of = "[augmentation]\nrandom-resized-crop = true\ncrop-scale = [0.5, 1.0]\nrand-augment = [2, 9]\n\
                   color-jitter = [0.4, 0.4, 0, 0.1]\nrandom-erasing = 0.25\n";
    fs::write(&recipe, text_of).expect("written");
    let steps = ["--config", text(&recipe), "--max-steps", "2", "--quiet", "--out", text(&out)];
    succeed([&digits[..], &steps].concat());
    let config = fs::read_to_string(out.join("config.toml")).expect("read");
    for line in
        ["random-resized-crop = true", "rand-augment = [2, 9]", "random-erasing = 0.25", "crop-scale = [0.5, 1.0]"]
    {
        assert!(config.contains(line), "{line} is missing from {config}");
    }
    let resume = |more: &[&str]| run([&["train", "--resume", text(&out), "--no-max-steps", "--quiet"], more].concat());
    let refused = resume(&["--rand-augment", "2,10"]);
    let words = "--rand-augment 2,10 contradicts the run to resume, which has --rand-augment 2,9";
    assert!(refused.code == Some(1) && refused.stderr.contains(words), "{}", refused.stderr);
    let again = folder.path().join("again");
    let off = ["--no-random-resized-crop", "--no-crop-scale", "--no-rand-augment", "--no-color-jitter"];
    let steps =
        ["--config", text(&recipe), "--max-steps", "2", "--quiet", "--no-random-erasing", "--out", text(&again)];
    succeed([&digits[..], &steps, &off].concat());
    let config = fs::read_to_string(again.join("config.toml")).expect("read");
    assert!(!config.contains("[augmentation]"), "{config}");
}
