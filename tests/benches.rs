//! The Python scripts in `benches/`: their own tests, and whether they read what the program prints.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::program::{Ran, succeed};
use crate::support::{Need, skip};

/// Runs Python without packages, so that PyTorch is missing even where it is installed. Without Python, reports that the
/// test is skipped and returns None.
fn python(args: &[&str]) -> Option<Ran> {
    match Command::new("python3").args(["-B", "-S"]).args(args).output() {
        Ok(output) => Some(output.into()),
        Err(error) => {
            skip(Need::Python, &format!("python3 does not start: {error}"));
            None
        }
    }
}

/// Gives what `bench --json` printed to `benches/kernels.py`, whose table must have `count` sites. Without PyTorch, it
/// lists the program's side.
pub fn compare_kernels(printed: &str, count: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let [ours, out] = ["ours.jsonl", "out.jsonl"].map(|name| folder.path().join(name));
    fs::write(&ours, printed).expect("written");
    let [ours, out] = [&ours, &out].map(|path| path.to_str().expect("UTF-8"));
    let Some(ran) = python(&["benches/kernels.py", "--ours", ours, "--out", out]) else { return };
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("PyTorch is missing") && !ran.stderr.contains("Traceback"), "{}", ran.stderr);
    let text = fs::read_to_string(out).expect("records");
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(records[0]["kind"], "run");
    let sites: Vec<&Value> = records.iter().filter(|record| record["kind"] == "site").collect();
    assert_eq!(sites.len(), count, "{text}");
    for site in sites {
        assert!(site["ours"].as_f64().is_some_and(|time| time > 0.0), "{site}");
        assert!(ran.stdout.contains(site["site"].as_str().expect("a name")), "{site}: {}", ran.stdout);
    }
    let again = python(&["benches/kernels.py", "--tables", out]).expect("Python");
    assert_eq!(again.stdout, ran.stdout);
}

#[test]
fn scripts_pass_their_own_tests() {
    let Some(ran) = python(&["-m", "unittest", "discover", "--start-directory", "benches"]) else { return };
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("\nOK") && !ran.stderr.contains("Ran 0 tests"), "{}", ran.stderr);
}

/// A profile names the operators that PyTorch has too, with their shapes.
#[test]
fn kernels_are_compared_by_the_names_in_a_profile() {
    let args = ["bench", "--model", "resnet20", "--device", "cpu", "--steps", "1", "--batch-size", "2", "--profile"];
    let printed = succeed([&args[..], &["--json"]].concat()).stdout;
    let result: Value = serde_json::from_str(&printed).expect("JSON");
    let parts = result["profile"]["parts"].as_array().expect("parts");
    let mut sites: Vec<&str> = parts.iter().filter_map(|part| part["site"].as_str()).collect();
    let first = |name: &str| parts.iter().find(|part| part["label"] == name).expect(name)["site"].clone();
    assert_eq!(first("gather"), "gather 3×32×32, batch 2, fp32");
    assert_eq!(first("loss"), "softmax_cross_entropy 10, batch 2, with bias gradient, fp32");
    let all = sites.len();
    sites.sort_unstable();
    sites.dedup();
    for name in [
        "batch_norm2d_forward 16×32×32, batch 2, with relu, fp32",
        "batch_norm2d_forward 64×8×8, batch 2, with sum and relu, fp32",
        "batch_norm2d_backward 32×16×16, batch 2, fp32",
        "batch_norm2d_backward 32×16×16, batch 2, with relu, fp32",
    ] {
        assert!(sites.contains(&name), "{name} is not among {sites:#?}");
    }
    assert!(all > 40 && sites.len() < 25, "{all} {sites:#?}");
    compare_kernels(&printed, sites.len());
}
