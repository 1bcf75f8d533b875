//! What a run reports: metrics.jsonl and resuming it, the table, the progress bar, the curves, the confusion matrix.

mod dashboard;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cnn_cuda::report::{
    ClassScores, Confusion, EpochRecord, MetricsLog, Progress, ProgressLines, Record, StepRecord, Table, best_epoch,
    curves_svg, grouped, loss,
};
use cnn_cuda::train::Monitor;
use indicatif::{ProgressDrawTarget, TermLike};

mod evaluation;
mod page;
mod picture;
mod run_page;

fn epoch(epoch: u32) -> EpochRecord {
    EpochRecord {
        epoch,
        steps: 10 * u64::from(epoch),
        train_loss: 0.1 + 1.0 / (3.0 * f64::from(epoch)),
        train_accuracy: 0.94211,
        val_loss: None,
        val_accuracy: None,
        test_loss: 0.0611,
        test_accuracy: 0.9825,
        seconds: 1.5,
        images_per_second: 48_774.2,
    }
}

/// An epoch with a validation set.
fn validated(number: u32, loss: f64, accuracy: f64) -> EpochRecord {
    EpochRecord { val_loss: Some(loss), val_accuracy: Some(accuracy), ..epoch(number) }
}

fn step(step: u64) -> Record {
    Record::Step(StepRecord { step, loss: 2.5, accuracy: 0.125 })
}

#[test]
fn lines_have_the_documented_fields_in_order() {
    let line = serde_json::to_string(&Record::Epoch(EpochRecord { train_loss: 0.5, ..epoch(1) })).unwrap();
    let expected = r#"{"kind":"epoch","epoch":1,"steps":10,"train_loss":0.5,"train_accuracy":0.94211,"test_loss":0.0611,"test_accuracy":0.9825,"seconds":1.5,"images_per_second":48774.2}"#;
    assert_eq!(line, expected);
    let line = serde_json::to_string(&Record::Epoch(validated(1, 0.25, 0.75))).unwrap();
    assert!(
        line.contains(r#""train_accuracy":0.94211,"val_loss":0.25,"val_accuracy":0.75,"test_loss":0.0611"#),
        "{line}"
    );
    assert_eq!(serde_json::to_string(&step(0)).unwrap(), r#"{"kind":"step","step":0,"loss":2.5,"accuracy":0.125}"#);
}

#[test]
fn resuming_a_log_drops_the_records_of_steps_that_will_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut log = MetricsLog::create(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
    for number in 1..=3 {
        (10 * (number - 1)..10 * number).for_each(|index| log.push(step(index)));
        log.push(Record::Epoch(epoch(number as u32)));
    }
    log.save().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 33);

    let whole = fs::read(&path).unwrap();
    assert_eq!(MetricsLog::resume(&path, 30, 3).unwrap().epochs(), [epoch(1), epoch(2), epoch(3)]);
    assert_eq!(fs::read(&path).unwrap(), whole, "resuming at the end changed the file");
    assert_eq!(MetricsLog::resume(&path, 25, 2).unwrap().epochs(), [epoch(1), epoch(2)]);
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 27);
}

/// The files in a folder, without that of the log.
fn kept(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != "metrics.jsonl").collect();
    names.sort();
    names
}

#[test]
fn a_missing_or_damaged_log_is_kept_aside_and_its_good_records_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let resume = || MetricsLog::resume(&path, 10, 1).unwrap().epochs();
    assert!(!MetricsLog::is_complete(&path, 0) && resume().is_empty());
    // An empty file has nothing to keep.
    assert!(MetricsLog::is_complete(&path, 0) && !MetricsLog::is_complete(&path, 1) && resume().is_empty());
    assert!(kept(folder.path()).is_empty());

    let line = serde_json::to_string(&Record::Epoch(epoch(1))).unwrap();
    let damaged = [
        format!("{line}\n{}", &line[..40]).into_bytes(),
        [line.as_bytes(), b"\n{\"kind\":\"ep\xFF"].concat(),
        format!("{}\n{line}\n", &line[..40]).into_bytes(),
        vec![0; 300],
    ];
    for (count, content) in damaged.iter().enumerate() {
        fs::write(&path, content).unwrap();
        assert!(!MetricsLog::is_complete(&path, 0));
        let expected = if content[0] == 0 { vec![] } else { vec![epoch(1)] };
        assert_eq!(resume(), expected);
        let names = kept(folder.path());
        assert_eq!(names.len(), count + 1, "{names:?}");
        let name =
            if count == 0 { "metrics.jsonl.damaged".into() } else { format!("metrics.jsonl.damaged-{}", count + 1) };
        assert_eq!(&fs::read(folder.path().join(name)).unwrap(), content);
    }
    assert!(MetricsLog::create(&folder.path().join("missing").join("metrics.jsonl")).is_err());
}

/// Earlier versions wrote `null` for the speed of an epoch that took no measurable time.
#[test]
fn a_speed_that_is_null_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let line = serde_json::to_string(&Record::Epoch(epoch(1))).unwrap();
    let (begin, _) = line.split_once("\"images_per_second\":").unwrap();
    fs::write(&path, format!("{begin}\"images_per_second\":null}}\n")).unwrap();
    assert!(MetricsLog::is_complete(&path, 1));
    let lack = |path: &Path, epochs| MetricsLog::check(path, epochs).expect_err("it lacks something").to_string();
    assert_eq!((lack(&path, 2), lack(&path, 3)), ("it lacks epoch 2".into(), "it lacks epochs 2, 3".into()));
    assert_eq!(lack(&path.with_extension("none"), 0), "it is missing");
}

/// The file is a socket because opening one fails, while opening a named pipe would block forever.
#[cfg(unix)]
#[test]
fn a_log_that_is_not_a_regular_file_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let message = format!("{:#}", MetricsLog::resume(&path, 10, 1).unwrap_err());
    assert!(message.contains("metrics.jsonl") && message.contains("not a regular file"), "{message}");
}

#[test]
fn a_nan_loss_round_trips_through_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut log = MetricsLog::create(&path).unwrap();
    log.push(Record::Epoch(EpochRecord { train_loss: f64::NAN, ..epoch(1) }));
    log.save().unwrap();
    assert!(fs::read_to_string(&path).unwrap().contains("\"train_loss\":null"));
    assert!(MetricsLog::resume(&path, 10, 1).unwrap().epochs()[0].train_loss.is_nan());
}

#[test]
fn the_table_is_aligned() {
    let mut out = Vec::new();
    let mut table = Table::new(&mut out, false).unwrap();
    table.row(&epoch(1)).unwrap();
    table.row(&EpochRecord { train_loss: 3e30, test_loss: f64::NAN, test_accuracy: 1.0, ..epoch(1234) }).unwrap();
    let text = String::from_utf8(out).unwrap();
    let expected = "
epoch  train loss  train acc   test loss   test acc    seconds    images/s
    1      0.4333     94.21%      0.0611     98.25%       1.50      48,774
 1234     3.00e30     94.21%         NaN    100.00%       1.50      48,774
";
    assert_eq!(text, expected.trim_start_matches('\n'));
    assert_eq!([grouped(999.6), grouped(7.0), grouped(1_234_567.0)], ["1,000", "7", "1,234,567"]);
    assert_eq!(loss(f64::INFINITY), "inf");
}

#[test]
fn a_validation_set_has_columns_and_curves_of_its_own() {
    let mut out = Vec::new();
    Table::new(&mut out, true).unwrap().row(&validated(1, 0.25, 0.75)).unwrap();
    let expected = "
epoch  train loss  train acc    val loss    val acc   test loss   test acc    seconds    images/s
    1      0.4333     94.21%      0.2500     75.00%      0.0611     98.25%       1.50      48,774
";
    assert_eq!(String::from_utf8(out).unwrap(), expected.trim_start_matches('\n'));
    let epochs = [validated(1, 0.3, 0.5), validated(2, 0.2, 0.5), validated(3, 0.2, 0.6)];
    for (monitor, best) in [(Monitor::ValLoss, 2), (Monitor::ValAccuracy, 3), (Monitor::TestLoss, 1)] {
        assert_eq!(best_epoch(&epochs, monitor).unwrap().epoch, best, "{monitor}");
    }
    let svg = curves_svg(&epochs, "run", Some(Monitor::ValLoss));
    assert!(svg.contains("test accuracy 98.25% in epoch 2, the best by validation loss"), "{svg}");
    assert_eq!(svg.matches("class=\"line val-line\" d=").count(), 2, "{svg}");
    assert!(!curves_svg(&[epoch(1)], "run", None).contains("\"line val-line\""));
    assert_eq!(best_epoch(&[epoch(1)], Monitor::ValLoss), None);
}

#[test]
fn progress_accepts_any_values() {
    let progress = Progress::on(ProgressDrawTarget::hidden(), 10, 1, 2);
    progress.tick(1, None, None);
    progress.tick(20, Some(f64::NAN), Some(f64::INFINITY));
    progress.message(20, "evaluating");
    progress.finish();
}

#[test]
fn lines_of_progress_have_no_control_characters() {
    let mut out = Vec::new();
    let mut lines = ProgressLines::new(&mut out, Duration::ZERO);
    lines.step([3, 20], [120, 938], [Some(0.12345), Some(48_774.2)]);
    lines.step([3, 20], [121, 938], [None, None]);
    let expected = "epoch 3/20  step 120/938  loss 0.1235  48,774 images/s\nepoch 3/20  step 121/938\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    let mut out = Vec::new();
    ProgressLines::new(&mut out, Duration::from_secs(60)).step([1, 1], [1, 2], [None, None]);
    assert!(out.is_empty(), "a line came too soon");
}

/// A terminal of the given width that records what is written to it.
#[derive(Clone, Debug)]
struct Screen {
    columns: u16,
    lines: Arc<Mutex<Vec<String>>>,
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        self.columns
    }
    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        self.lines.lock().unwrap().push(text.trim_end().to_string());
        Ok(())
    }
    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn progress_stays_on_one_line() {
    for columns in [200, 80, 60, 44] {
        let screen = Screen { columns, lines: Arc::default() };
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 1);
        let progress = Progress::on(target, 12_345, 19, 20);
        (1..100).for_each(|step| progress.tick(100 * step, Some(1.2345), Some(1_234_567.0)));
        progress.message(12_345, "evaluating");
        let lines: Vec<String> = screen.lines.lock().unwrap().iter().filter(|line| !line.is_empty()).cloned().collect();
        assert!(lines.iter().all(|line| line.chars().count() <= usize::from(columns)), "{columns}: {lines:#?}");
        let last = lines.last().unwrap();
        assert!(last.starts_with("epoch 19/20 ━━━") && last.contains("12345/12345"), "{last}");
        // A message is drawn regardless of the refresh rate.
        assert!(columns < 60 || last.ends_with("  evaluating"), "{last}");
        // A run may end within an epoch.
        progress.message(40, "evaluating");
        let last = screen.lines.lock().unwrap().iter().rfind(|line| !line.is_empty()).unwrap().clone();
        assert!(last.contains("40/12345"), "{last}");
    }
}

#[test]
fn the_longest_progress_line_fits_80_columns() {
    let screen = Screen { columns: 80, lines: Arc::default() };
    let progress = Progress::on(ProgressDrawTarget::term_like(Box::new(screen.clone())), 938, 99, 100);
    progress.tick(400, None, None);
    std::thread::sleep(Duration::from_millis(20));
    progress.tick(401, Some(1.2345), Some(1_234_567.0));
    let last = screen.lines.lock().unwrap().iter().rfind(|line| !line.is_empty()).unwrap().clone();
    assert!(last.contains("401/938  loss 1.2345  ") && last.ends_with(" left  1,234,567 images/s"), "{last}");
}

#[test]
fn curves_are_valid_for_any_run() {
    let constant: Vec<EpochRecord> =
        (1..=5).map(|number| EpochRecord { train_loss: 0.0, test_loss: 0.0, ..epoch(number) }).collect();
    let diverged: Vec<EpochRecord> =
        (1..=5).map(|number| EpochRecord { train_loss: f64::NAN, test_loss: f64::INFINITY, ..epoch(number) }).collect();
    let huge: Vec<EpochRecord> =
        (1..=5).map(|number| EpochRecord { train_loss: f64::MAX, test_loss: 1e-300, ..epoch(number) }).collect();
    let long: Vec<EpochRecord> = (1..=200).map(epoch).collect();
    for run in [&[][..], &long[..1], &long[..], &constant, &diverged, &huge] {
        let svg = curves_svg(run, "mnist-cnn <\"a\" & b>\u{7}", None);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("mnist-cnn &lt;&quot;a&quot; &amp; b&gt; </text>"), "the title is not escaped");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "a coordinate is not a number");
        assert!(svg.len() < 60_000);
    }
    let svg = curves_svg(&long, "long", None);
    assert!(svg.contains(">98.25%</text>") && svg.contains(">200</text>") && svg.contains(">99%</text>"));
}

fn confusion() -> Confusion {
    let mut confusion = Confusion::new(["cat", "automobile", "no"].map(String::from).to_vec());
    for (truth, predicted, times) in [(0, 0, 9), (0, 1, 1), (1, 1, 120)] {
        (0..times).for_each(|_| confusion.add(truth, predicted));
    }
    confusion
}

#[test]
fn the_confusion_matrix_counts_and_prints() {
    let confusion = confusion();
    assert_eq!(confusion.accuracy(), Some(129.0 / 130.0));
    let scores = |recall, precision, f1| ClassScores { recall, precision, f1 };
    let expected = [
        scores(Some(0.9), Some(1.0), Some(18.0 / 19.0)),
        scores(Some(1.0), Some(120.0 / 121.0), Some(240.0 / 241.0)),
        scores(None, None, None),
    ];
    assert_eq!(confusion.per_class(), expected);
    assert_eq!(confusion.macro_f1(), Some((18.0 / 19.0 + 240.0 / 241.0) / 2.0));
    assert_eq!(Confusion::new(Vec::new()).macro_f1(), None);
    assert_eq!(Confusion::new(Vec::new()).accuracy(), None);
    let mut out = Vec::new();
    confusion.print(&mut out).unwrap();
    let expected = "
true \\ predicted     cat  autom…      no    recall  precision        F1
cat                    9       1       0    90.00%    100.00%    94.74%
automobile             0     120       0   100.00%     99.17%    99.59%
no                     0       0       0         –          –         –
accuracy 99.23%, macro F1 97.16%
";
    assert_eq!(String::from_utf8(out).unwrap(), expected.trim_start_matches('\n'));
    let json = serde_json::to_value(&confusion).unwrap();
    assert_eq!(json["counts"], serde_json::json!([[9, 1, 0], [0, 120, 0], [0, 0, 0]]));
    assert_eq!(json["per_class"], serde_json::json!([0.9, 1.0, null]));
    assert_eq!(json["precision"], serde_json::json!([1.0, 120.0 / 121.0, null]));
    assert_eq!(json["f1"][0], serde_json::json!(18.0 / 19.0));
}

/// Names are aligned by the columns that they take in a terminal.
#[test]
fn the_confusion_matrix_aligns_wide_characters() {
    let mut confusion = Confusion::new(["日本", "日本語学校", "no"].map(String::from).to_vec());
    (0..3).for_each(|class| confusion.add(class, class));
    let mut out = Vec::new();
    confusion.print(&mut out).unwrap();
    let expected = "
true \\ predicted   日本  日本…     no    recall  precision        F1
日本                  1      0      0   100.00%    100.00%   100.00%
日本語学校            0      1      0   100.00%    100.00%   100.00%
no                    0      0      1   100.00%    100.00%   100.00%
accuracy 100.00%, macro F1 100.00%
";
    assert_eq!(String::from_utf8(out).unwrap(), expected.trim_start_matches('\n'));
}

#[test]
fn with_many_classes_the_worst_confusions_are_printed() {
    let mut confusion = Confusion::new((0..100).map(|class| format!("class {class}")).collect());
    (0..100).for_each(|class| confusion.add(class, class));
    (0..3).for_each(|_| confusion.add(7, 93));
    let mut out = Vec::new();
    confusion.print(&mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.ends_with("accuracy 97.09%, macro F1 98.80%\nclass 7 classified as class 93: 3\n"), "{text}");
}
