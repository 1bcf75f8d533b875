//! What a resumed run keeps, refuses and mends; `verify`; and that a folder belongs to one run.

use std::fs;
use std::path::Path;

use super::{numbers, short_run, train, weights};
use crate::support::program::{fail, run, succeed};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Replaces the first occurrence of `old` in a run's configuration.
fn edit(out: &Path, old: &str, new: &str) {
    let path = out.join("config.toml");
    let config = fs::read_to_string(&path).expect("read");
    assert!(config.contains(old), "{old:?} is not in {config}");
    fs::write(path, config.replacen(old, new, 1)).expect("write");
}

#[test]
fn a_limit_of_steps_stays_until_it_is_lifted() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let resume = ["train", "--resume", text(&out), "--quiet"];
    train(&out, &["--max-steps", "3", "--epochs", "1", "--batch-size", "4000", "--quiet"]);
    // As if the process had been killed before it reached the limit.
    edit(&out, "max-steps = 3", "max-steps = 4");
    succeed(resume);
    let ran = succeed(resume);
    let words = "nothing left to do after 4 steps: reached --max-steps; to train longer: --no-max-steps";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    let ran = succeed(["train", "--resume", &format!("{}/", text(&out)), "--quiet", "--no-max-steps"]);
    assert!(ran.stderr.contains(&format!("saved {}/model.safetensors and", text(&out))), "{}", ran.stderr);
    assert!(!fs::read_to_string(out.join("config.toml")).expect("read").contains("max-steps"));
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).expect("read");
    assert!(metrics.contains("\"steps\":5"), "{metrics}");
    let ran = succeed(resume);
    let words = "nothing left to do after 1 epoch (5 steps); to train longer: --epochs N";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
}

#[test]
fn an_edited_or_cut_configuration_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--max-steps", "2", "--momentum", "0.5", "--schedule", "step:3:0.5", "--quiet"]);
    let config = fs::read_to_string(out.join("config.toml")).expect("read");
    let resume = ["train", "--resume", text(&out), "--quiet", "--max-steps", "3"];
    let edits = [
        ("lr = 0.1", "lr = 0.2", "started with lr = 0.1, but its config.toml has 0.2"),
        ("momentum = 0.5", "momentum = 0.9", "momentum = 0.5"),
        ("weight-decay = 0.0", "weight-decay = 0.1", "weight-decay"),
        ("schedule = \"step:3:0.5\"", "schedule = \"constant\"", "schedule"),
        (
            "[input]",
            "[augmentation]\nflip = true\n\n[input]",
            "started with flip = false, but its config.toml has true",
        ),
        ("label-smoothing = 0.0", "label-smoothing = 0.1", "label-smoothing"),
        ("lr = 0.1", "lr = 0.1\nema = 0.5", "started with ema = nothing"),
        ("lr = 0.1", "lr = 0.1\ndropout = 0.5", "started with dropout = nothing"),
        ("seed = 0", "seed = 1", "started with seed = 0, but its config.toml has 1; restore 0"),
        ("batch-size = 64", "batch-size = 32", "batch-size = 64, but its config.toml has 32; restore 64"),
        ("model = \"lenet5\"", "model = \"mnist-cnn\"", "model = \"lenet5\", but its config.toml has \"mnist-cnn\""),
        ("dataset = \"digits\"", "dataset = \"mnist\"", "dataset = \"digits\", but its config.toml has \"mnist\""),
        ("height = 28", "height = 32", "started with height = 28, but its config.toml has 32"),
        ("\"3\"", "\"drei\"", "started with classes[3] = \"3\", but its config.toml has \"drei\""),
    ];
    for (old, new, words) in edits {
        edit(&out, old, new);
        fail(1, resume, &["checkpoint.safetensors", words]);
        let ran = run(["verify", text(&out)]);
        assert_eq!(ran.code, Some(1), "{}", ran.stdout);
        assert!(ran.stdout.contains("config.toml: FAILED") && ran.stdout.contains(words), "{}", ran.stdout);
        fs::write(out.join("config.toml"), &config).expect("write");
    }
    edit(&out, "dataset = \"digits\"", "dataset = \"nosuch\"");
    fail(1, resume, &["config.toml: there is no data set \"nosuch\""]);
    fs::write(out.join("config.toml"), &config).expect("write");
    // As a recipe, it must describe the data set.
    let recipe = out.with_extension("toml");
    fs::write(&recipe, config.replacen("height = 28", "height = 32", 1)).expect("write");
    let words = ["[input] in config.toml", "the height is 32, but now it is 28"];
    fail(1, ["train", "--config", text(&recipe), "--out", text(&out.with_extension("again"))], &words);
    // Wherever the file is cut, it is refused.
    for length in (0..config.len()).step_by(97).filter(|&length| config.is_char_boundary(length)) {
        fs::write(out.join("config.toml"), &config[..length]).expect("write");
        fail(1, resume, &["config.toml is damaged, or not the configuration of a run"]);
    }
    fs::write(out.join("config.toml"), &config).expect("write");
    succeed(resume);
}

/// Flips a bit in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(path, bytes).expect("write");
}

#[test]
fn a_complete_run_mends_its_files_and_verify_names_damage() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--epochs", "1", "--batch-size", "1000", "--quiet"]);
    let original = weights(&out);
    let ran = succeed(["verify", text(&out)]);
    assert_eq!(ran.stdout.matches("SHA-256 matches").count(), 2, "{}", ran.stdout);
    assert_eq!(ran.stdout.lines().count(), 5, "{}", ran.stdout);
    let model = out.join("model.safetensors");
    let resume = ["train", "--resume", text(&out), "--quiet"];
    let damages: [(&str, &dyn Fn()); 6] = [
        ("model.safetensors", &|| flip(&model)),
        ("model.safetensors", &|| fs::remove_file(&model).expect("removed")),
        ("metrics.jsonl", &|| fs::write(out.join("metrics.jsonl"), [0; 99]).expect("write")),
        ("metrics.jsonl", &|| fs::remove_file(out.join("metrics.jsonl")).expect("removed")),
        ("curves.svg", &|| fs::remove_file(out.join("curves.svg")).expect("removed")),
        ("curves.svg", &|| fs::write(out.join("curves.svg"), []).expect("write")),
    ];
    for (name, damage) in damages {
        damage();
        let ran = run(["verify", text(&out)]);
        assert_eq!(ran.code, Some(1), "{}", ran.stdout);
        assert!(ran.stderr.contains(name) && ran.stdout.contains("FAILED"), "{}{}", ran.stdout, ran.stderr);
        let ran = succeed(resume);
        assert!(ran.stderr.contains("nothing left to do"), "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("{name} in {}", text(&out))), "{}", ran.stderr);
        assert!(ran.stderr.contains("missing, damaged or incomplete"), "{}", ran.stderr);
        assert!(weights(&out) == original && out.join("curves.svg").is_file());
        // The records are lost, but not without a word.
        if name == "metrics.jsonl" {
            assert!(ran.stderr.contains("the record of epoch 1 is lost"), "{}", ran.stderr);
            let again = run(["verify", text(&out)]);
            assert!(again.stdout.contains("metrics.jsonl: FAILED: it lacks epoch 1"), "{}", again.stdout);
            let record = r#"{"kind":"epoch","epoch":1,"steps":1,"train_loss":1,"train_accuracy":0,"test_loss":1,"test_accuracy":0,"seconds":1,"images_per_second":1}"#;
            fs::write(out.join("metrics.jsonl"), record).expect("write");
        }
        succeed(["verify", text(&out)]);
    }
    assert_eq!(fs::read(out.join("metrics.jsonl.damaged")).expect("kept"), [0; 99]);
    let path = out.join("checkpoint.safetensors");
    flip(&path);
    fail(1, ["verify", text(&out)], &["checkpoint.safetensors"]);
    // Nothing is said of weights that cannot be compared.
    let stdout = run(["verify", text(&out)]).stdout;
    let words = "model.safetensors: SHA-256 matches; there is no usable checkpoint to compare it with";
    assert!(stdout.contains(words) && !stdout.contains("up to epoch"), "{stdout}");
    fail(1, resume, &["checkpoint.safetensors", "does not match its SHA-256", "--init"]);
    fail(1, ["verify", text(&path)], &["is not a folder"]);
    fs::remove_file(&path).expect("removed");
    let stdout = run(["verify", text(&out)]).stdout;
    assert!(stdout.contains(words), "{stdout}");
}

/// A checkpoint of the first version, without digest and settings, continues to the same weights.
#[test]
fn a_run_of_the_first_version_resumes_bit_identically() {
    let folder = tempfile::tempdir().expect("a folder");
    let [new, old] = ["new", "old"].map(|name| folder.path().join(name));
    for out in [&new, &old] {
        train(out, &["--max-steps", "3", "--momentum", "0.9", "--log-steps", "--quiet"]);
    }
    let path = old.join("checkpoint.safetensors");
    let bytes = fs::read(&path).expect("read");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
    let entry = &metadata.metadata().as_ref().expect("metadata")["cnn-cuda"];
    let mut header: serde_json::Value = serde_json::from_str(entry).expect("JSON");
    header["version"] = 1.into();
    header.as_object_mut().expect("an object").remove("evaluation_pending");
    for key in ["test_images", "test_fingerprint", "settings"] {
        header["run"].as_object_mut().expect("an object").remove(key);
    }
    let metadata = std::collections::HashMap::from([("cnn-cuda".to_string(), header.to_string())]);
    fs::write(&path, safetensors::serialize(file.tensors(), Some(metadata)).expect("serialised")).expect("write");
    fs::remove_file(old.join("model.safetensors")).expect("removed");
    for out in [&new, &old] {
        succeed(["train", "--resume", text(out), "--max-steps", "6", "--quiet"]);
    }
    assert!(weights(&new) == weights(&old), "the weights differ");
    assert_eq!(numbers(&new), numbers(&old));
    let checkpoints = [&new, &old].map(|out| fs::read(out.join("checkpoint.safetensors")).expect("read").len());
    assert!(
        checkpoints[0].abs_diff(checkpoints[1]) < 64,
        "the old checkpoint is replaced by one of the current version"
    );
}

/// Saving within an epoch changes no number.
#[test]
fn a_run_saves_within_epochs_if_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let [plain, often] = ["plain", "often"].map(|name| folder.path().join(name));
    let settings = ["--max-steps", "9", "--momentum", "0.9", "--ema", "0.9", "--log-steps", "--quiet"];
    train(&plain, &settings);
    train(&often, &[&settings[..], &["--save-every", "2"]].concat());
    assert!(weights(&plain) == weights(&often), "the weights differ");
    assert_eq!(numbers(&plain), numbers(&often));
    for value in ["0", "-1", "m", "10s", "1.5m", "always"] {
        fail(2, ["train", "--save-every", value], &["--save-every"]);
    }
    succeed(["train", "--resume", text(&often), "--save-every", "10m", "--max-steps", "10", "--quiet"]);
    assert!(fs::read_to_string(often.join("config.toml")).expect("read").contains("save-every = \"10m\""));
}

/// What is left of a start that died before its first checkpoint is no reason to refuse the same command.
#[test]
fn an_abandoned_start_does_not_block_its_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--max-steps", "2", "--quiet"]);
    let expected = weights(&out);
    for name in ["model.safetensors", "checkpoint.safetensors", "curves.svg"] {
        fs::remove_file(out.join(name)).expect("removed");
    }
    // With records there was more than a start.
    fail(1, short_run(&out, &["--max-steps", "2"]), &["--out", "choose another folder"]);
    fs::write(out.join("metrics.jsonl"), []).expect("write");
    fs::write(out.join(".checkpoint.safetensors.Ab12.tmp"), "a part").expect("write");
    let ran = train(&out, &["--max-steps", "2", "--quiet"]);
    assert!(ran.stderr.contains("ended before it saved anything"), "{}", ran.stderr);
    assert!(weights(&out) == expected && !out.join(".checkpoint.safetensors.Ab12.tmp").exists());
    succeed(["verify", text(&out)]);
}
