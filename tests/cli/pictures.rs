//! A user's pictures from the command line: channels of a run, names with control characters, and what `eval` may write.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::train;
use crate::support::program::{Ran, command, fail, succeed};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Writes two classes, bright and dark, in colour or in gray.
fn write_set(root: &Path, classes: [&str; 2], colour: bool) {
    for (class, level) in classes.into_iter().zip([200, 20]) {
        for (split, count) in [("train", 8), ("test", 4)] {
            let folder = root.join(split).join(class);
            fs::create_dir_all(&folder).expect("a folder");
            for number in 0..count {
                let value = |at: usize| level + ((at * 31 + number * 17) % 40) as u8;
                let (channels, kind) =
                    if colour { (3, image::ExtendedColorType::Rgb8) } else { (1, image::ExtendedColorType::L8) };
                let pixels: Vec<u8> = (0..32 * 32 * channels).map(value).collect();
                image::save_buffer(folder.join(format!("{number}.png")), &pixels, 32, 32, kind).expect("saved");
            }
        }
    }
}

/// Trains on the folder and returns the weights.
fn weights_of(data: &Path, out: &Path) -> PathBuf {
    let args =
        ["train", "--dataset", text(data), "--model", "lenet5", "--device", "cpu", "--quiet", "--out", text(out)];
    succeed([&args[..], &["--epochs", "6", "--batch-size", "4", "--lr", "0.05"]].concat());
    out.join("model.safetensors")
}

#[test]
fn a_run_reads_all_pictures_in_its_own_channels() {
    let folder = tempfile::tempdir().expect("a folder");
    let [gray, colour] = [("gray", false), ("colour", true)].map(|(name, colour)| {
        let data = folder.path().join(name);
        write_set(&data, ["bright", "dark"], colour);
        (weights_of(&data, &folder.path().join(format!("{name}-run"))), data)
    });
    for (weights, data) in [(&gray.0, &colour.1), (&colour.0, &gray.1)] {
        let args = ["eval", "--json", "--device", "cpu", "--weights", text(weights), "--dataset", text(data)];
        let result = json(&succeed(args).stdout);
        assert_eq!((&result["accuracy"], &result["images"]), (&1.0.into(), &8.into()), "{result}");
        let picture = data.join("test/dark/0.png");
        let stdout = succeed(["predict", "--device", "cpu", "--weights", text(weights), text(&picture)]).stdout;
        assert!(stdout.contains("0.png: dark "), "{stdout}");
    }
}

#[test]
fn control_characters_of_names_are_printed_escaped() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    let classes = ["red\u{9b}31m", "ring\u{7}\u{7f}"];
    write_set(&data, classes, false);
    let weights = weights_of(&data, &out);
    let picture = folder.path().join("bell\u{7}\u{85}.png");
    fs::copy(data.join("test").join(classes[1]).join("0.png"), &picture).expect("copied");
    let run = |args: &[&str]| -> Ran {
        let ran = succeed([args, &["--device", "cpu", "--weights", text(&weights)]].concat());
        for output in [&ran.stdout, &ran.stderr] {
            assert!(!output.contains(|c: char| c.is_control() && c != '\n'), "{output:?}");
        }
        ran
    };
    let matrix = run(&["eval"]).stdout;
    assert!(matrix.contains("\nred\\u{9b}31m ") && matrix.contains("\nring\\u{7}\\u{7f} "), "{matrix}");
    assert_eq!(json(&run(&["eval", "--json"]).stdout)["confusion"]["classes"], serde_json::json!(classes));
    assert!(run(&["predict", text(&picture)]).stdout.contains("bell\\u{7}\\u{85}.png: ring\\u{7}\\u{7f} "));
    let predicted = json(&run(&["predict", "--json", text(&picture)]).stdout);
    assert_eq!((&predicted["image"], &predicted["classes"][0]["class"]), (&text(&picture).into(), &classes[1].into()));
}

/// A file from elsewhere could otherwise name any set and any folder.
#[test]
fn eval_does_not_download_what_only_a_file_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let (out, elsewhere) = (folder.path().join("run"), folder.path().join("elsewhere"));
    train(&out, &["--max-steps", "1", "--quiet"]);
    fs::create_dir(&elsewhere).expect("a folder");
    let config = fs::read_to_string(out.join("config.toml")).expect("read");
    let data = config.lines().find(|line| line.starts_with("data = ")).expect("a data folder");
    let changed = config
        .replace(data, &format!("data = {:?}", text(&elsewhere)))
        .replace("dataset = \"digits\"", "dataset = \"mnist\"");
    fs::write(out.join("config.toml"), changed).expect("written");
    let weights = out.join("model.safetensors");
    let eval = |more: &[&str]| -> Ran {
        let args = [&["eval", "--device", "cpu", "--weights", text(&weights)][..], more].concat();
        let mirror = "http://127.0.0.1:1/";
        command(args).env("CNN_CUDA_MNIST_MIRROR", mirror).output().expect("the program starts").into()
    };
    let refused = eval(&[]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("there are no MNIST files in") && !refused.stderr.contains("downloading"),
        "{}",
        refused.stderr
    );
    assert_eq!(fs::read_dir(&elsewhere).expect("read").count(), 0);
    assert!(refused.stderr.contains(&format!("run `cnn-cuda fetch mnist --data {}`", text(&elsewhere))));
    let refused = eval(&["--data", text(&elsewhere)]);
    assert!(refused.stderr.contains("there are no MNIST files in") && !refused.stderr.contains("downloading"));
    let wanted = eval(&["--dataset", "mnist", "--data", text(&elsewhere)]);
    assert!(wanted.stderr.contains("cannot download"), "{}", wanted.stderr);
}

/// Pictures would be scaled to that size, which took gigabytes.
#[test]
fn a_config_toml_with_huge_images_is_an_error() {
    let out = tempfile::tempdir().expect("a folder");
    train(&out.path().join("run"), &["--max-steps", "1", "--quiet"]);
    let path = out.path().join("run/config.toml");
    let config = fs::read_to_string(&path).expect("read");
    fs::write(&path, config.replace("\nheight = 28", "\nheight = 1000000")).expect("written");
    let weights = out.path().join("run/model.safetensors");
    let args = ["eval", "--device", "cpu", "--dataset", "digits", "--model", "lenet5", "--weights", text(&weights)];
    fail(1, args, &["config.toml", "[1, 1000000, 28]; each must be from 1 to 4096"]);
}
