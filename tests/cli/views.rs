//! `--tta`: runs and their weights are evaluated with the same views, unless a flag says otherwise.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{numbers, train};
use crate::support::program::{fail, succeed};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn eval(weights: &Path, more: &[&str]) -> Value {
    let args = ["eval", "--device", "cpu", "--json", "--weights", text(weights)];
    serde_json::from_str(&succeed([&args[..], more].concat()).stdout).expect("JSON")
}

#[test]
#[ignore = "long; CI runs it"]
fn weights_are_evaluated_with_the_views_of_their_run_unless_a_flag_says_otherwise() {
    let folder = tempfile::tempdir().expect("a folder");
    let [run, plain, resumed] = ["run", "plain", "resumed"].map(|name| folder.path().join(name));
    let settings = ["--batch-size", "512", "--epochs", "1", "--quiet"];
    train(&run, &[&settings[..], &["--tta", "flip-shift"]].concat());
    train(&plain, &settings);
    let loss = |run: &Path| numbers(run).pop().expect("an epoch")["test_loss"].as_f64().expect("a loss");
    let close = |found: &Value, expected: f64| (found["loss"].as_f64().expect("a loss") - expected).abs() < 1e-6;
    assert!((loss(&run) - loss(&plain)).abs() > 1e-3, "the views have no effect");
    let model = run.join("model.safetensors");
    let alone = folder.path().join("alone.safetensors");
    fs::copy(&model, &alone).expect("copied");
    for file in [&model, &alone] {
        let found = eval(file, &[]);
        assert!(found["tta"] == "flip-shift" && close(&found, loss(&run)), "{found}");
        let found = eval(file, &["--tta", "none"]);
        assert!(found["tta"] == "none" && close(&found, loss(&plain)), "{found}");
    }
    let flip = eval(&plain.join("model.safetensors"), &["--tta=flip"]);
    assert!(flip["tta"] == "flip" && !close(&flip, loss(&plain)) && !close(&flip, loss(&run)), "{flip}");
    let shown = succeed(["eval", "--device", "cpu", "--weights", text(&run)]).stdout;
    assert!(shown.contains("images/s), with --tta flip-shift\n"), "{shown}");
    train(&resumed, &[&settings[..], &["--tta", "flip", "--max-steps", "1"]].concat());
    let resume = ["train", "--resume", text(&resumed), "--quiet", "--no-max-steps"];
    fail(1, [&resume[..], &["--tta", "none"]].concat(), &["--tta none contradicts", "has --tta flip"]);
    fail(1, [&resume[..], &["--no-tta"]].concat(), &["--no-tta contradicts", "has --tta flip"]);
    succeed(resume);
    let found = eval(&resumed, &[]);
    assert!(found["tta"] == "flip" && close(&found, loss(&resumed)), "{found}");
}

#[test]
fn predictions_are_made_with_the_views_of_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let (run, picture) = (folder.path().join("run"), folder.path().join("picture.png"));
    train(&run, &["--max-steps", "20", "--tta", "flip", "--quiet"]);
    let pixels: Vec<u8> = (0..28 * 28).map(|at| if at % 28 > at / 28 { 250 } else { 0 }).collect();
    image::save_buffer(&picture, &pixels, 28, 28, image::ExtendedColorType::L8).expect("saved");
    let mirrored = folder.path().join("mirrored.png");
    let pixels: Vec<u8> = pixels.chunks(28).flat_map(|row| row.iter().rev().copied()).collect();
    image::save_buffer(&mirrored, &pixels, 28, 28, image::ExtendedColorType::L8).expect("saved");
    let args = ["predict", "--device", "cpu", "--json", "--weights", text(&run), text(&picture), text(&mirrored)];
    let predict = |more: &[&str]| {
        let ran = succeed([&args[..], more].concat());
        let logits = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["logits"].clone();
        (ran.stdout.lines().map(logits).collect::<Vec<_>>(), ran.stderr)
    };
    let (both, said) = predict(&[]);
    assert!(said.contains("mean of several views of each picture (flip)"), "{said}");
    let (single, said) = predict(&["--tta", "none"]);
    assert!(!said.contains("several views"), "{said}");
    for class in 0..10 {
        let value = |logits: &Value| logits[class].as_f64().expect("a logit");
        let mean = 0.5 * value(&single[0]) + 0.5 * value(&single[1]);
        for logits in &both {
            assert!((value(logits) - mean).abs() < 1e-5, "{logits} is not the mean of {single:?}");
        }
    }
    assert!(single[0] != single[1], "the pictures do not differ");
}
