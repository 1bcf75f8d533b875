//! `--class-weights`: balanced or from a file, recorded with the run, and errors that name file and class.

use std::fs;
use std::path::Path;

use super::{numbers, train, weights};
use crate::support::program::{fail, succeed};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn config(run: &Path) -> String {
    fs::read_to_string(run.join("config.toml")).expect("read")
}

const MIXED: [&str; 9] =
    ["--mixup", "0.5", "--cutmix", "1", "--label-smoothing", "0.1", "--quiet", "--log-steps", "--batch-size=256"];

#[test]
fn weights_are_recorded_and_a_resumed_run_uses_the_recorded_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let [whole, cut, again] = ["whole", "cut", "again"].map(|name| folder.path().join(name));
    let file = folder.path().join("weights.toml");
    fs::write(&file, "0 = 2\n1 = 0.5\n\"2\" = 1e-1\n3=0\n4=1\n5=1\n6=1\n7=1\n8=1\n9=3.5 # the rarest\n")
        .expect("write");
    let given = ["--class-weights", text(&file)];
    let said = train(&whole, &[&MIXED[..], &given, &["--max-steps", "6"]].concat()).stderr;
    assert!(said.contains("weights of the classes in the loss: from 0 (3) to 3.5 (9)"), "{said}");
    for line in ["loss-weights = [2.0, 0.5, 0.1, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.5]", "mixup = 0.5", "cutmix = 1.0"] {
        assert!(config(&whole).lines().any(|it| it == line), "{line} is not in {}", config(&whole));
    }
    train(&cut, &[&MIXED[..], &given, &["--max-steps", "4"]].concat());
    fs::remove_file(&file).expect("removed");
    let resume = ["train", "--resume", text(&cut), "--quiet", "--max-steps", "6"];
    fail(1, [&resume[..], &["--class-weights", "balanced"]].concat(), &["--class-weights balanced contradicts"]);
    fail(1, [&resume[..], &["--no-class-weights"]].concat(), &["--no-class-weights contradicts"]);
    fail(1, [&resume[..], &["--mixup", "1"]].concat(), &["--mixup 1 contradicts", "has --mixup 0.5"]);
    let before = config(&cut);
    for (old, new, words) in [
        ("0.5, 0.1, 0.0", "0.5, 0.2, 0.0", "started with loss-weights[2] = 0.1, but its config.toml has 0.2"),
        ("mixup = 0.5", "mixup = 0.75", "started with mixup = 0.5, but its config.toml has 0.75"),
        ("loss-weights", "los-weights", "there is no key los-weights"),
    ] {
        assert!(before.contains(old), "{old} is not in {before}");
        fs::write(cut.join("config.toml"), before.replacen(old, new, 1)).expect("write");
        fail(1, resume, &[words]);
    }
    fs::write(cut.join("config.toml"), before).expect("write");
    succeed([&resume[..], &given].concat());
    assert_eq!(numbers(&cut), numbers(&whole));
    assert!(weights(&cut) == weights(&whole), "the weights differ");
    // A run's configuration repeats it, without the file.
    let recipe = whole.join("config.toml");
    succeed(["train", "--config", text(&recipe), "--out", text(&again), "--device", "cpu", "--quiet"]);
    assert!(weights(&again) == weights(&whole), "the weights differ");
    let other = folder.path().join("other");
    let other = ["train", "--config", text(&recipe), "--out", text(&other), "--device", "cpu"];
    let said = succeed([&other[..], &["--class-weights", "balanced", "--quiet"]].concat()).stderr;
    assert!(said.contains("weights of the classes in the loss: from 1 (0) to 1 (9)"), "{said}");
}

#[test]
fn bad_weights_are_errors_that_name_file_and_class() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("weights.toml");
    let all = |but: &str, line: &str| -> String {
        let others = (0..10).map(|class| class.to_string()).filter(|class| class != but);
        others.map(|class| format!("{class} = 1\n")).collect::<String>() + line
    };
    let out = folder.path().join("run");
    let run = |words: &[&str]| {
        let given = ["--class-weights", text(&file), "--out", text(&out)];
        let args = ["train", "--dataset", "digits", "--model", "lenet5", "--device", "cpu"];
        let message = fail(1, [&args[..], &given].concat(), &[&["--class-weights", text(&file)], words].concat());
        assert!(!out.exists(), "{message}");
    };
    run(&["cannot read it"]);
    for (content, words) in [
        (all("7", ""), "the class \"7\" has no weight"),
        (all("", "ten = 1\n"), "the data set has no class \"ten\""),
        ((0..10).map(|class| format!("{class} = 0\n")).collect(), "all weights are 0"),
        (all("7", "7 = -1\n"), "the weight of \"7\" is -1: it must be a finite number of at least 0"),
        (all("7", "7 = nan\n"), "the weight of \"7\" is nan"),
        (all("7", "7 = inf\n"), "the weight of \"7\" is inf"),
        (all("7", "7 = 1e39\n"), "the weight of \"7\""),
        (all("7", "7 = '1'\n"), "the weight of \"7\""),
        (all("", "7 = 2\n"), "duplicate key"),
        ("0: 1".into(), "it must have lines class = weight"),
    ] {
        fs::write(&file, content).expect("write");
        run(&[words]);
    }
    let empty = ["train", "--dataset", "digits", "--model", "lenet5", "--device", "cpu", "--classes", "11"];
    let words = ["--class-weights balanced", "the class \"class 10\" has no training images"];
    fail(1, [&empty[..], &["--class-weights", "balanced", "--out", text(&out)]].concat(), &words);
}
