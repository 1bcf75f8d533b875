//! Runs with other optimisers than SGD, and with groups of parameters.

use std::fs;
use std::path::Path;

use super::{numbers, train, weights};
use crate::support::program::{fail, run, succeed};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn config(out: &Path) -> String {
    fs::read_to_string(out.join("config.toml")).expect("read")
}

const ADAMW: [&str; 9] =
    ["--optimizer", "adamw", "--no-decay-norm-bias", "--head-lr-scale", "2", "--ema", "0.5", "--quiet", "--log-steps"];

#[test]
fn a_run_with_adamw_says_its_settings_and_resumes_bit_identically() {
    let folder = tempfile::tempdir().expect("a folder");
    let [whole, cut] = ["whole", "cut"].map(|name| folder.path().join(name));
    let ran = train(&whole, &[&ADAMW[..], &["--max-steps", "6"]].concat());
    let words = "AdamW: learning rate 0.001, betas 0.9, 0.999, eps 1e-8, weight decay 0.01";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    assert!(ran.stderr.contains("the learning rate of the head, fc3, is multiplied by 2"), "{}", ran.stderr);
    for line in ["optimizer = \"adamw\"", "lr = 0.001", "decay-norm-bias = false", "head-lr-scale = 2.0"] {
        assert!(config(&whole).lines().any(|it| it == line), "{line} is not in {}", config(&whole));
    }
    train(&cut, &[&ADAMW[..], &["--max-steps", "4"]].concat());
    let verified = run(["verify", text(&cut)]);
    assert_eq!(verified.code, Some(0), "{}", verified.stdout);
    let bytes = fs::read(cut.join("checkpoint.safetensors")).expect("read");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    for name in ["fc3.bias", "exp_avg.fc3.bias", "exp_avg_sq.fc3.bias", "average.fc3.bias"] {
        assert_eq!(file.tensor(name).expect(name).shape(), [10], "{name}");
    }
    let resume = ["train", "--resume", text(&cut), "--quiet", "--max-steps", "6"];
    for (flags, words) in [
        (&["--optimizer", "adam"][..], "--optimizer adam contradicts the run to resume, which has --optimizer adamw"),
        (&["--optimizer", "sgd"], "--optimizer sgd contradicts the run to resume, which has --optimizer adamw"),
        (&["--betas", "0.9,0.99"], "--betas 0.9,0.99 contradicts the run to resume, which has --betas 0.9,0.999"),
        (&["--head-lr-scale", "3"], "--head-lr-scale 3 contradicts the run"),
        (&["--decay-norm-bias"], "--decay-norm-bias contradicts the run to resume, which has --no-decay-norm-bias"),
    ] {
        fail(1, [&resume[..], flags].concat(), &[words]);
    }
    for (old, new, words) in [
        ("\"adamw\"", "\"adam\"", "started with optimizer = \"adamw\", but its config.toml has \"adam\""),
        ("betas = [0.9, 0.999]", "betas = [0.9, 0.99]", "started with betas[1] = 0.999"),
        ("eps = 0.00000001", "eps = 0.000001", "started with eps = 0.00000001"),
        ("head-lr-scale = 2.0", "head-lr-scale = 1.0", "started with head-lr-scale = 2"),
    ] {
        let before = config(&cut);
        assert!(before.contains(old), "{old} is not in {before}");
        fs::write(cut.join("config.toml"), before.replacen(old, new, 1)).expect("write");
        fail(1, resume, &["checkpoint.safetensors", words]);
        fs::write(cut.join("config.toml"), before).expect("write");
    }
    succeed(resume);
    assert!(weights(&whole) == weights(&cut), "the weights differ");
    assert_eq!(numbers(&whole), numbers(&cut));
}

/// A run of an earlier version has no settings of optimisers and groups in its files.
#[test]
fn a_run_that_does_not_know_other_optimisers_resumes() {
    let folder = tempfile::tempdir().expect("a folder");
    let [new, old] = ["new", "old"].map(|name| folder.path().join(name));
    for out in [&new, &old] {
        train(out, &["--max-steps", "3", "--momentum", "0.9", "--quiet"]);
    }
    let newer = ["optimizer = ", "decay-norm-bias = ", "head-lr-scale = ", "bias-lr-scale = "];
    let is_newer = |line: &&str| newer.iter().any(|key| line.starts_with(key));
    let whole = config(&old);
    assert_eq!(whole.lines().filter(is_newer).count(), newer.len(), "{whole}");
    let earlier: Vec<&str> = whole.lines().filter(|line| !is_newer(line)).collect();
    fs::write(old.join("config.toml"), earlier.join("\n")).expect("write");
    let verified = run(["verify", text(&old)]);
    assert_eq!(verified.code, Some(0), "{}", verified.stdout);
    for out in [&new, &old] {
        succeed(["train", "--resume", text(out), "--optimizer", "sgd", "--max-steps", "6", "--quiet"]);
    }
    assert!(weights(&new) == weights(&old), "the weights differ");
}

#[test]
fn a_setting_that_the_optimiser_does_not_use_is_a_usage_error_that_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let flags = ["train", "--dataset", "digits", "--out", text(&out)];
    for (more, words) in [
        (["--optimizer", "adam", "--momentum", "0.9"], "--momentum has no effect with --optimizer adam"),
        (["--optimizer", "sgd", "--eps", "1e-6"], "--eps has no effect with --optimizer sgd"),
    ] {
        fail(2, [&flags[..], &more].concat(), &[words]);
        assert!(!out.exists(), "a folder was created");
    }
    fail(2, [&flags[..], &["--optimizer", "adagrad"]].concat(), &["adagrad", "sgd, adam, adamw, muon"]);
}

#[test]
fn a_run_with_muon_resumes_bit_identically() {
    let folder = tempfile::tempdir().expect("a folder");
    let [whole, cut] = ["whole", "cut"].map(|name| folder.path().join(name));
    let flags = ["--optimizer", "muon", "--weight-decay", "0.01", "--quiet", "--log-steps"];
    let ran = train(&whole, &[&flags[..], &["--max-steps", "6"]].concat());
    let words = "Muon for all convolutions but the first: learning rate 0.02, momentum 0.95, weight decay 0.01; SGD for \
                 other parameters: learning rate 0.1, momentum 0.9";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    for line in ["optimizer = \"muon\"", "sgd-lr = 0.1", "sgd-momentum = 0.9", "momentum = 0.95", "nesterov = true"] {
        assert!(config(&whole).lines().any(|it| it == line), "{line} is not in {}", config(&whole));
    }
    train(&cut, &[&flags[..], &["--max-steps", "4"]].concat());
    let resume = ["train", "--resume", text(&cut), "--quiet", "--max-steps", "6"];
    let words = "--sgd-lr 0.2 contradicts the run to resume, which has --sgd-lr 0.1";
    fail(1, [&resume[..], &["--sgd-lr", "0.2"]].concat(), &[words]);
    succeed(resume);
    assert!(weights(&whole) == weights(&cut), "the weights differ");
    assert_eq!(numbers(&whole), numbers(&cut));
}

const ACCUMULATED: [&str; 10] = [
    "--batch-size",
    "16",
    "--grad-accum-steps",
    "3",
    "--warm-up-steps",
    "5",
    "--ema",
    "0.9",
    "--ema-warm-up",
    "--quiet",
];

#[test]
fn a_run_with_accumulation_and_warm_ups_resumes_bit_identically() {
    let folder = tempfile::tempdir().expect("a folder");
    let [whole, cut] = ["whole", "cut"].map(|name| folder.path().join(name));
    let flags = [&ACCUMULATED[..], &["--schedule", "linear:0.1", "--epochs", "2"]].concat();
    train(&whole, &[&flags[..], &["--max-steps", "9"]].concat());
    for line in ["grad-accum-steps = 3", "warm-up-steps = 5", "ema-warm-up = true", "schedule = \"linear:0.1\""] {
        assert!(config(&whole).lines().any(|it| it == line), "{line} is not in {}", config(&whole));
    }
    train(&cut, &[&flags[..], &["--max-steps", "4"]].concat());
    assert_eq!(run(["verify", text(&cut)]).code, Some(0));
    let resume = ["train", "--resume", text(&cut), "--quiet", "--max-steps", "9"];
    for (flags, words) in [
        (&["--grad-accum-steps", "2"][..], "--grad-accum-steps 2 contradicts"),
        (&["--warm-up-steps", "6"], "--warm-up-steps 6 contradicts"),
        (&["--no-ema-warm-up"], "--no-ema-warm-up contradicts"),
        (&["--epochs", "3"], "--epochs 3 contradicts"),
    ] {
        fail(1, [&resume[..], flags].concat(), &[words]);
    }
    for (key, words) in [("grad-accum-steps = 3", "grad-accum-steps = 4"), ("warm-up-steps = 5", "warm-up-steps = 4")] {
        let original = config(&cut);
        fs::write(cut.join("config.toml"), original.replace(key, words)).expect("write");
        fail(1, resume, &["the run was started with", key]);
        fs::write(cut.join("config.toml"), original).expect("write");
    }
    succeed(resume);
    assert!(numbers(&cut) == numbers(&whole) && weights(&cut) == weights(&whole));
    let images = numbers(&whole).last().expect("an epoch")["steps"].as_u64();
    assert_eq!(images, Some(9));
}
