//! The report of a run: what `train` leaves, what `report` makes again, and what happens when it cannot.

use std::fs;
use std::path::Path;

use super::{numbers, weights};
use crate::support::program::{Ran, fail, run, succeed};

const FILES: [&str; 3] = ["report.html", "confusion.png", "train_batch.png"];

/// Trains with a report on a data set.
fn train(out: &Path, more: &[&str]) -> Ran {
    let out = out.to_str().expect("UTF-8");
    succeed([&["train", "--model", "lenet5", "--device", "cpu", "--out", out], more].concat())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn page(out: &Path) -> String {
    fs::read_to_string(out.join("report.html")).expect("a report")
}

/// A set of two classes, one of which has a name that would be markup.
fn nasty_set(folder: &Path) -> String {
    let set = folder.join("set <b>&\"'");
    for (class, name) in ["plain", "<img src=x onerror=alert(1)>&\"'"].iter().enumerate() {
        for (split, count) in [("train", 8), ("test", 3)] {
            let class_folder = set.join(split).join(name);
            fs::create_dir_all(&class_folder).expect("a folder");
            for number in 0..count {
                let level = |at: usize| ((at * 7 + number * 31) % 97 + 90 * class) as u8;
                let pixels: Vec<u8> = (0..32 * 32 * 3).map(level).collect();
                let path = class_folder.join(format!("{number}.png"));
                image::save_buffer(path, &pixels, 32, 32, image::ExtendedColorType::Rgb8).expect("saved");
            }
        }
    }
    text(&set).to_string()
}

#[test]
fn a_run_leaves_a_report_that_changes_no_number() {
    let folder = tempfile::tempdir().expect("a folder");
    let [with, without] = ["with", "without"].map(|name| folder.path().join(name));
    let settings = ["--dataset", "digits", "--max-steps", "30", "--crop-padding", "2", "--log-steps", "--quiet"];
    let ran = train(&with, &settings);
    assert!(ran.stderr.contains("report: ") && ran.stderr.contains("report.html"), "{}", ran.stderr);
    train(&without, &[&settings[..], &["--no-report"]].concat());
    assert!(weights(&with) == weights(&without), "the weights differ");
    assert_eq!(numbers(&with), numbers(&without));
    for name in FILES {
        assert!(with.join(name).is_file() && !without.join(name).exists(), "{name}");
    }
    let verified = succeed(["verify", text(&with)]).stdout;
    assert_eq!(verified.matches(": complete").count(), 5, "{verified}");
    // The page has the accuracy of the table, the settings and the machine.
    let accuracy = numbers(&with).last().expect("an epoch")["test_accuracy"].as_f64().expect("a number");
    let html = page(&with);
    for words in [&format!("{:.2}%", 100.0 * accuracy), "crop-padding", "of 2,000", "UTC", "CPU (", "lenet5 on digits"]
    {
        assert!(html.contains(words), "{words} is missing");
    }
    assert!(!html.contains("Left out"), "a part is missing");
    // The same again, but for a run of a version that wrote none; and elsewhere.
    for name in FILES {
        let path = with.join(name);
        let damaged = [&fs::read(&path).expect("read")[..200], b"?"].concat();
        fs::write(&path, damaged).expect("write");
        assert!(run(["verify", text(&with)]).stdout.contains(&format!("{name}: FAILED")), "{name}");
    }
    fs::remove_file(with.join("train_batch.png")).expect("removed");
    let ran = succeed(["report", "--run", text(&with), "--device", "cpu"]);
    assert!(!ran.stderr.contains("lacks"), "{}", ran.stderr);
    let again = page(&with);
    assert_eq!(again.matches("Left out").count(), 1);
    assert!(again.contains("Left out: the run&#39;s folder has no train_batch.png"));
    let matrix = |html: &str| {
        html.split("Confusion matrix").nth(1).map(|it| it.split("First training").next().map(String::from))
    };
    assert_eq!(matrix(&again), matrix(&html), "the evaluation differs");
    succeed(["verify", text(&with)]);
    let elsewhere = folder.path().join("elsewhere.html");
    fs::remove_file(with.join("confusion.png")).expect("removed");
    succeed(["report", "--run", text(&with), "--device", "cpu", "--out", text(&elsewhere)]);
    assert!(fs::read_to_string(&elsewhere).expect("read") == again && !with.join("confusion.png").exists());
}

#[test]
fn names_are_escaped_and_a_missing_data_set_is_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let (set, out) = (nasty_set(folder.path()), folder.path().join("run"));
    for residency in ["resident", "stream"] {
        let _ = fs::remove_dir_all(&out);
        let flags = ["--dataset", &set, "--image-size", "28", "--batch-size", "4", "--max-steps", "3", "--quiet"];
        train(&out, &[&flags[..], &["--residency", residency]].concat());
        let html = page(&out);
        assert!(!html.contains("<img src=x") && !html.contains("<b>&"), "a name is not escaped");
        assert!(html.contains("&lt;img src=x onerror=alert(1)&gt;&amp;&quot;&#39;"), "the name is missing");
        assert!(html.contains("of 6") && !html.contains("Left out"), "there is no evaluation");
    }
    // With another test image, the set is not that of the run.
    let [image, more] = ["0.png", "9.png"].map(|name| Path::new(&set).join("test/plain").join(name));
    fs::copy(image, &more).expect("copied");
    let ran = succeed(["report", "--run", text(&out), "--device", "cpu"]);
    assert!(ran.stderr.contains("the test images are not those of the run"), "{}", ran.stderr);
    assert!(page(&out).contains("Left out: the test images cannot be used: the test images are not those of the run"));
    fs::remove_file(more).expect("removed");
    fs::rename(&set, folder.path().join("moved")).expect("renamed");
    let ran = succeed(["report", "--run", text(&out), "--device", "cpu"]);
    assert!(ran.stderr.contains("the report lacks the evaluation"), "{}", ran.stderr);
    let html = page(&out);
    assert!(html.contains("Left out: the test images cannot be used") && html.contains("data-curve"));
    assert_eq!(html.matches("Left out").count(), 1, "the filters and the batch are in the folder");
    fs::remove_file(out.join("model.safetensors")).expect("removed");
    succeed(["report", "--run", text(&out), "--device", "cpu"]);
    assert_eq!(page(&out).matches("Left out").count(), 2);
}

#[test]
fn a_run_that_continues_has_no_report_until_it_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let name = text(&out);
    train(&out, &["--dataset", "digits", "--max-steps", "2", "--quiet"]);
    let (first, batch) = (page(&out), fs::read(out.join("train_batch.png")).expect("read"));
    succeed(["train", "--resume", name, "--max-steps", "4", "--quiet"]);
    let second = page(&out);
    assert!(first.contains("2 steps") && second.contains("4 steps"));
    assert!(fs::read(out.join("train_batch.png")).expect("read") == batch, "the first batch is that of the first step");
    succeed(["train", "--resume", name, "--max-steps", "5", "--no-report", "--quiet"]);
    assert!(!out.join("report.html").exists() && !out.join("confusion.png").exists(), "the old report is kept");
    succeed(["report", "--run", name, "--device", "cpu"]);
    assert!(page(&out).contains("5 steps"));
}

#[test]
fn a_report_that_cannot_be_written_does_not_lose_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--dataset", "digits", "--max-steps", "2", "--quiet"]);
    fs::remove_file(out.join("report.html")).expect("removed");
    fs::create_dir(out.join("report.html")).expect("a folder in its place");
    let ran = succeed(["train", "--resume", text(&out), "--max-steps", "4", "--quiet"]);
    let words = ["the run is saved, but has no report", "report.html: it is a folder", "cnn-cuda report --run"];
    assert!(words.iter().all(|words| ran.stderr.contains(words)), "{}", ran.stderr);
    assert_eq!(numbers(&out).last().expect("an epoch")["steps"], 4);
    fail(1, ["report", "--run", text(&out), "--device", "cpu"], &["report.html: it is a folder"]);
    fail(1, ["report", "--run", text(&out.join("model.safetensors"))], &["--run", "is not a folder"]);
    fail(1, ["report", "--run", text(folder.path())], &["--run", "config.toml"]);
}

#[test]
fn a_recipe_can_switch_the_report_off() {
    let folder = tempfile::tempdir().expect("a folder");
    let (recipe, out) = (folder.path().join("recipe.toml"), folder.path().join("run"));
    fs::write(&recipe, "dataset = \"digits\"\nmax-steps = 1\nreport = false\n").expect("write");
    train(&out, &["--config", text(&recipe), "--quiet"]);
    assert!(!out.join("report.html").exists());
    // A run's configuration is a recipe without its machine.
    let config = fs::read_to_string(out.join("config.toml")).expect("read");
    assert!(config.contains("[environment]") && config.contains("started = "), "{config}");
    let again = folder.path().join("again");
    train(&again, &["--config", text(&out.join("config.toml")), "--report", "--quiet"]);
    assert!(again.join("report.html").is_file());
}

#[test]
fn a_report_replaces_no_other_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--dataset", "digits", "--max-steps", "1"]);
    let report =
        |target: &Path| ["report", "--device", "cpu", "--run", text(&out), "--out", text(target)].map(String::from);
    for name in ["model.safetensors", "config.toml", "checkpoint.safetensors"] {
        let before = fs::read(out.join(name)).expect("read");
        fail(1, report(&out.join(name)), &["--out", name, "exists and is not a report"]);
        assert!(fs::read(out.join(name)).expect("read") == before, "{name} has changed");
    }
    fail(1, report(folder.path()), &["exists and is not a report"]);
    let page = folder.path().join("page.html");
    for _ in 0..2 {
        succeed(report(&page)); // the second replaces the first
        assert!(fs::read_to_string(&page).expect("a page").ends_with("</html>\n"));
    }
}
