//! The dashboard: what it shows of which run, and how much time it says is left.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cnn_cuda::report::{EpochRecord, Record, RunFacts, RunState, View, clock};
use cnn_cuda::train::{LearningRate, Monitor, Schedule, WarmUp};
use ratatui::buffer::Buffer;

use super::{epoch, validated};
use crate::support::screenshot::{drawn, svg, text};

/// `cnn-cuda train --config recipes/lenet5-mnist.toml --val-fraction 0.1` in its eleventh epoch.
fn state() -> RunState {
    let lines = fs::read_to_string("tests/report/lenet5.jsonl").expect("the records");
    let record = |line: &str| match serde_json::from_str(line).expect("a record") {
        Record::Epoch(epoch) => epoch,
        Record::Step(step) => panic!("{step:?}"),
    };
    let facts = RunFacts {
        title: "lenet5 on mnist, seed 0".into(),
        device: "CPU (2 threads, AVX-512)".into(),
        epochs: 20,
        steps_per_epoch: 844,
        steps: 20 * 844,
        images_per_step: 64,
        train_images: 54_000,
        learning_rate: LearningRate {
            rate: 0.05,
            schedule: Schedule::OneCycle { rise: 0.3 },
            warm_up: WarmUp::Epochs(0),
        },
        monitor: Some(Monitor::ValLoss),
    };
    let mut state = RunState {
        facts: Arc::new(facts),
        elapsed: Duration::from_secs(130),
        epoch: 10,
        memory: Some(("memory", 183_000_000)),
        records: Arc::new(lines.lines().map(record).collect()),
        images_per_second: Some(4198.0),
        ..RunState::default()
    };
    (1..=500).for_each(|step| state.step(10, step, Some([0.0304, 0.9913])));
    state
}

fn messages() -> Vec<String> {
    let lines = [
        "recipes/lenet5-mnist.toml: the expected final test accuracy is at least 98.80%",
        "device: CPU (2 threads, AVX-512): --device cpu",
        "lenet5: 61706 parameters; runs/lenet5-mnist-0",
    ];
    lines.iter().map(|line| format!("\u{1b}[32m INFO\u{1b}[0m {line}")).collect()
}

fn screen(state: &RunState, columns: u16, rows: u16) -> Buffer {
    drawn(columns, rows, View { state, messages: &messages(), coloured: true })
}

/// Compares with a file. `CNN_CUDA_RENEW=1` writes it.
fn compare(path: &str, found: &str) {
    if std::env::var_os("CNN_CUDA_RENEW").is_some() {
        fs::write(path, found).expect("written");
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(found == expected, "{path} differs; `just screenshots` renews it:\n{found}");
}

#[test]
fn the_dashboard_looks_as_in_the_documentation() {
    for (columns, rows) in [(80, 20), (80, 24), (120, 40)] {
        compare(&format!("tests/report/dashboard-{columns}x{rows}.txt"), &text(&screen(&state(), columns, rows)));
    }
    let monochrome = View { state: &state(), messages: &messages(), coloured: false };
    let monochrome = drawn(80, 24, monochrome);
    assert!(monochrome.content.iter().all(|cell| cell.fg == ratatui::style::Color::Reset), "there are colours");
    compare("tests/report/dashboard-80x24-monochrome.txt", &text(&monochrome));
    compare("docs/images/dashboard.svg", &svg(&screen(&state(), 100, 28)));
    assert!(Path::new("docs/images/dashboard.svg").metadata().expect("a file").len() < 60_000);
}

/// Every size, also those that are never shown, and any run.
#[test]
fn the_dashboard_accepts_any_run_and_size() {
    let nan = |number| EpochRecord {
        train_loss: f64::NAN,
        test_loss: f64::INFINITY,
        test_accuracy: f64::NAN,
        images_per_second: f64::NAN,
        ..validated(number, f64::NAN, f64::NAN)
    };
    let huge = |number| EpochRecord { train_loss: f64::MAX, test_loss: 1e29, seconds: 1e300, ..epoch(number) };
    let runs: [Vec<EpochRecord>; 6] = [
        vec![],
        vec![epoch(1)],
        (1..=1000).map(epoch).collect(),
        (1..=3).map(nan).collect(),
        (1..=3).map(huge).collect(),
        (1..=9).map(|number| validated(number, 0.5, 0.5)).collect(),
    ];
    for records in runs {
        let epochs = records.len() as u32;
        let facts = RunFacts {
            title: "模型 on e\u{301}\u{1f600}\u{7}\u{1b}[2J, seed 0".repeat(3),
            epochs,
            steps_per_epoch: if epochs == 0 { 0 } else { 10 },
            ..RunFacts::default()
        };
        let mut state =
            RunState { facts: Arc::new(facts), epoch: epochs, records: Arc::new(records), ..RunState::default() };
        state.step(epochs, 3, Some([f64::NAN, 0.5]));
        for (columns, rows) in [(1, 1), (7, 3), (40, 10), (79, 19), (80, 24), (300, 90)] {
            let text = text(&screen(&state, columns, rows));
            assert!(!text.contains(['\u{7}', '\u{1b}']), "control characters:\n{text}");
            assert!(columns < 80 || text.contains("模 型") && text.contains("Accuracy"), "{text}");
        }
    }
}

#[test]
fn the_time_left_follows_from_steps_and_evaluations() {
    let facts = RunFacts {
        epochs: 4,
        steps: 400,
        steps_per_epoch: 100,
        images_per_step: 10,
        train_images: 1000,
        ..RunFacts::default()
    };
    let mut state = RunState { facts: Arc::new(facts.clone()), ..RunState::default() };
    assert_eq!(state.seconds_left(), None, "the speed is not known");
    state.step(0, 50, None);
    state.images_per_second = Some(100.0);
    assert_eq!(state.step_seconds(), Some(0.1));
    // 50 steps, and 3 epochs of 100.
    assert_eq!(state.seconds_left(), Some([5.0, 35.0]));
    // An epoch of 12 seconds at 100 images/s has an evaluation of 2.
    state.evaluated(EpochRecord { seconds: 12.0, images_per_second: 100.0, ..epoch(1) });
    assert_eq!((state.epoch, state.step_in_epoch), (1, 0));
    assert_eq!(state.seconds_left(), Some([12.0, 36.0]));
    state.facts = Arc::new(RunFacts { steps: 150, ..facts });
    assert_eq!(state.seconds_left(), Some([7.0, 7.0]));
    assert_eq!(state.part_done(), 100.0 / 150.0);
    assert_eq!([0.4, 65.0, 3599.6, 36_000.0].map(clock), ["0:00", "1:05", "1:00:00", "10:00:00"]);
}

/// However long an epoch is, its curve has at most about a hundred points, the last of which is the newest.
#[test]
fn the_curve_of_an_epoch_stays_short() {
    let facts = RunFacts { epochs: 2, steps_per_epoch: 100_000, ..RunFacts::default() };
    let mut state = RunState { facts: Arc::new(facts), ..RunState::default() };
    (1..=100_000).for_each(|step| state.step(0, step, Some([step as f64, 0.5])));
    assert!((100..=102).contains(&state.trace.len()), "{}", state.trace.len());
    assert!(state.trace.windows(2).all(|pair| pair[0].at < pair[1].at));
    assert_eq!(state.trace.last().map(|last| (last.at, last.loss)), Some((1.0, 100_000.0)));
    state.step(1, 1, Some([0.5, 0.5]));
    assert_eq!(state.trace.len(), 1);
}
