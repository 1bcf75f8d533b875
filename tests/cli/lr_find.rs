//! `lr-find`: its files, its suggestion, and what it refuses.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{numbers, train};
use crate::support::program::{Ran, fail, run, succeed};

const SET: [&str; 7] = ["lr-find", "--dataset", "digits", "--model", "lenet5", "--device", "cpu"];

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn find(out: &Path, more: &[&str]) -> Ran {
    succeed([&SET[..], &["--out", text(out)], more].concat())
}

fn report(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("lr-find.json")).expect("read")).expect("JSON")
}

fn list(report: &Value, key: &str) -> Vec<f64> {
    report[key].as_array().expect(key).iter().map(|value| value.as_f64().expect("a number")).collect()
}

#[test]
fn the_suggested_rate_trains_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("find");
    let ran = find(&out, &["--momentum", "0.9", "--nesterov"]);
    let report = report(&out);
    let (rates, losses, smoothed) = (list(&report, "rates"), list(&report, "losses"), list(&report, "smoothed_losses"));
    assert!(rates.len() == losses.len() && losses.len() == smoothed.len());
    assert_eq!(report["settings"]["nesterov"], Value::Bool(true));
    for (at, rate) in rates.iter().enumerate() {
        let expected = 1e-7 * 1e8_f64.powf(at as f64 / 99.0);
        assert!((rate / expected - 1.0).abs() < 1e-6, "step {at}: {rate} instead of {expected}");
        let weights = (0..=at).map(|before| 0.98_f64.powi((at - before) as i32));
        let sum: f64 = weights.clone().zip(&losses).map(|(weight, loss)| weight * loss).sum();
        assert!((smoothed[at] - sum / weights.sum::<f64>()).abs() < 1e-9, "step {at}");
    }
    let counted = &smoothed[10..smoothed.len() - 1];
    let slope = |at: &usize| counted[at + 1] - counted[at - 1];
    let steepest = (1..counted.len() - 1).min_by(|a, b| slope(a).total_cmp(&slope(b))).expect("a slope");
    let suggestion = report["suggestion"].as_f64().expect("a suggestion");
    assert_eq!(report["steepest"].as_f64(), Some(rates[10 + steepest]));
    let lowest = (0..counted.len()).min_by(|&a, &b| counted[a].total_cmp(&counted[b])).expect("a minimum");
    assert_eq!(report["lowest"].as_f64(), Some(rates[10 + lowest]));
    let lower = rates[10 + steepest].min(rates[10 + lowest] / 10.0);
    assert!((suggestion / lower - 1.0).abs() < 1e-6, "{suggestion} instead of {lower}");
    assert!(ran.stdout.starts_with("suggested learning rate: 0.0"), "{}", ran.stdout);
    let svg = fs::read_to_string(out.join("lr-find.svg")).expect("read");
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("suggested: 0.0"), "{svg}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    let run = folder.path().join("run");
    let rate = suggestion.to_string();
    train(&run, &["--quiet", "--epochs", "2", "--lr", &rate, "--momentum", "0.9", "--nesterov"]);
    let accuracy = numbers(&run).last().expect("an epoch")["test_accuracy"].as_f64().expect("a number");
    assert!(accuracy > 0.9, "{accuracy} with a learning rate of {rate}");
}

/// Weights of the classes are part of the loss that is tested.
#[test]
fn a_test_uses_the_weights_of_the_classes() {
    let folder = tempfile::tempdir().expect("a folder");
    let losses = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        // So few steps may not suffice for a suggestion.
        run([&SET[..], &["--out", text(&out), "--steps", "12", "--max-lr", "1"], more].concat());
        list(&report(&out), "losses")
    };
    let file = folder.path().join("weights.toml");
    fs::write(&file, (0..10).map(|class| format!("{class} = {}\n", class + 1)).collect::<String>()).expect("write");
    let (usual, weighted) = (losses("usual", &[]), losses("weighted", &["--class-weights", text(&file)]));
    assert_eq!(usual.len(), weighted.len());
    assert_ne!(usual, weighted);
}

#[test]
fn a_test_without_a_suggestion_fails_and_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("find");
    let shared = [&SET[..], &["--out", text(&out), "--steps", "20"]].concat();
    let words = "no learning rate can be suggested: the smoothed loss hardly fell";
    fail(1, [&shared[..], &["--min-lr", "1e-12", "--max-lr", "1e-10"]].concat(), &[words, "--max-lr", "lr-find.svg"]);
    let report = report(&out);
    assert_eq!((report["suggestion"].clone(), &report["ending"]), (Value::Null, &Value::from("complete")));
    assert!(report["reason"].as_str().expect("a reason").contains("hardly fell"));
    assert!(fs::read_to_string(out.join("lr-find.svg")).expect("read").contains("hardly fell"));
    fail(
        1,
        [&shared[..], &["--min-lr", "1e20", "--max-lr", "1e30"]].concat(),
        &["the loss diverged after", "--min-lr"],
    );
    let report = self::report(&out);
    assert_eq!(report["ending"], "diverged");
    let rates = report["rates"].as_array().expect("rates").len();
    assert!(rates < 20 && report["losses"].as_array().expect("losses").len() == rates);
}

#[test]
fn a_run_is_not_touched_and_bad_input_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--quiet", "--max-steps", "2"]);
    let files = || {
        let mut files: Vec<_> = fs::read_dir(&out).expect("a folder").map(|it| it.expect("a file").path()).collect();
        files.sort();
        files.into_iter().map(|path| (fs::read(&path).expect("read"), path)).collect::<Vec<_>>()
    };
    let before = files();
    fail(1, [&SET[..], &["--out", text(&out)]].concat(), &["already contains a run"]);
    assert!(files() == before);
    for (flags, words) in [
        (&["--min-lr", "1", "--max-lr", "0.1"][..], "--min-lr 1 must be below --max-lr 0.1"),
        (&["--min-lr", "0"], "--min-lr"),
        (&["--max-lr", "inf"], "--max-lr"),
        (&["--steps", "9"], "--steps 9 are too few; at least 10"),
        (&["--nesterov"], "--momentum"),
        (&["--resume", "x"], "--resume"),
    ] {
        let ran = run([&SET[..], flags].concat());
        assert!(ran.code == Some(2) && ran.stderr.contains(words), "{flags:?}: {}", ran.stderr);
    }
}
