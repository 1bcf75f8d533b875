//! `--progress` on real terminals: the dashboard leaves them as they were, however the run ends.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{numbers, short_run, train};
use crate::support::program::{command, fail, succeed};
use crate::support::pty::OnTerminal;

const COVER: &str = "\u{1b}[?1049h";
const UNCOVER: &str = "\u{1b}[?1049l\u{1b}[?25h";

/// Starts a run of many epochs on a terminal.
fn start(out: &Path, (columns, rows): (u16, u16), term: &str, more: &[&str]) -> OnTerminal {
    let args = short_run(out, &[&["--epochs", "500"], more].concat());
    OnTerminal::start(command(args), columns, rows, term)
}

fn dashboard(out: &Path) -> OnTerminal {
    start(out, (100, 30), "xterm-256color", &["--progress", "dashboard"])
}

/// How often the terminal was covered and uncovered.
fn covers(output: &str) -> [usize; 2] {
    [COVER, UNCOVER].map(|sequence| output.matches(sequence).count())
}

/// What the terminal shows after the dashboard.
fn after_dashboard(output: &str) -> &str {
    output.rsplit_once(UNCOVER).unwrap_or_else(|| panic!("the terminal is not uncovered: {output:?}")).1
}

#[test]
fn ctrl_c_leaves_the_terminal_as_it_was_and_saves_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let mut run = dashboard(&out);
    let before = run.modes();
    run.wait_until("the second epoch", |output| output.contains("epoch 3/500"));
    assert_eq!(covers(&run.output()), [1, 0]);
    assert_eq!(run.modes(), before, "the terminal's modes differ");
    run.press("\u{3}");
    assert_eq!(run.wait().code(), Some(130), "{}", run.output());
    assert_eq!(run.modes(), before, "the terminal's modes differ");
    let output = run.output();
    assert_eq!(covers(&output), [1, 1]);
    let after = after_dashboard(&output);
    // The table and the messages are in the scrollback, in the order in which they were printed.
    let rows = numbers(&out).len();
    let positions = [" 1  ", " 2  ", "finishing the step and saving", "resume with: cnn-cuda train --resume"];
    let positions = positions.map(|text| after.find(text).unwrap_or_else(|| panic!("{text:?} is missing: {after}")));
    assert!(rows >= 2 && positions.is_sorted(), "{after}");
    assert_eq!(after.matches('%').count(), 2 * rows, "{after}");
    succeed(["train", "--resume", out.to_str().expect("UTF-8"), "--quiet", "--epochs", &(rows + 1).to_string()]);
}

#[test]
fn the_end_of_a_run_an_error_and_a_lost_terminal_uncover_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("whole");
    let mut run = start(&out, (80, 20), "xterm", &["--progress", "dashboard", "--max-steps", "700"]);
    assert_eq!(run.wait().code(), Some(0), "{}", run.output());
    let (output, saved) = (run.output(), format!("saved {}", out.join("model.safetensors").display()));
    assert!(output.contains("test acc") && after_dashboard(&output).contains(&saved), "{output}");
    assert!(output.contains(" messages ") && output.contains("Accuracy"), "{output}");

    let out = folder.path().join("diverged");
    let diverging = ["--progress", "dashboard", "--lr", "1e38", "--momentum", "0.99"];
    let mut run = start(&out, (80, 24), "xterm", &diverging);
    assert_eq!(run.wait().code(), Some(1));
    let output = run.output();
    assert!(after_dashboard(&output).contains("error: ") && output.contains("training has diverged"), "{output}");

    let out = folder.path().join("lost");
    let mut run = dashboard(&out);
    run.wait_until("the dashboard", |output| output.contains(COVER));
    run.hang_up();
    assert_eq!(run.child.wait().expect("it ends").code(), Some(130));
    succeed(["verify", out.to_str().expect("UTF-8")]);
}

#[test]
fn ctrl_z_uncovers_the_terminal_until_the_run_is_continued() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = short_run(&folder.path().join("run"), &["--epochs", "500", "--progress", "dashboard"]).join("' '");
    let program = crate::support::program::binary();
    let script =
        format!("set -m; '{}' '{args}'; echo \"stopped $?\"; sleep 1; fg; echo \"ended $?\"", program.display());
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).env_remove("RUST_LOG");
    let mut run = OnTerminal::start(bash, 100, 30, "xterm");
    let before = run.modes();
    run.wait_until("the dashboard", |output| output.contains("epoch 2/500"));
    run.press("\u{1a}");
    run.wait_until("the stop", |output| output.contains("stopped 148"));
    assert_eq!(covers(&run.output()), [1, 1]);
    run.wait_until("the continuation", |output| covers(output) == [2, 1]);
    run.press("\u{3}");
    run.wait();
    let output = run.output();
    assert!(covers(&output) == [2, 2] && after_dashboard(&output).contains("ended 130"), "{output}");
    assert_eq!(run.modes(), before, "the terminal's modes differ");
}

#[test]
fn a_small_terminal_has_the_bar_until_it_is_larger() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut run = start(&folder.path().join("run"), (40, 30), "xterm", &["--progress", "dashboard"]);
    run.wait_until("a bar", |output| output.contains("epoch 1/500 ") && output.contains('╸'));
    assert!(run.output().contains("the dashboard needs 80 columns and 20 rows"), "{}", run.output());
    assert_eq!(covers(&run.output()), [0, 0]);
    run.resize(80, 20);
    run.wait_until("the dashboard", |output| output.contains(COVER));
    run.resize(79, 20);
    run.wait_until("the bar", |output| output.split(UNCOVER).nth(1).is_some_and(|after| after.contains('╸')));
    run.press("\u{3}");
    assert_eq!(run.wait().code(), Some(130), "{}", run.output());
    assert_eq!(covers(&run.output()), [1, 1]);
}

#[test]
fn a_dumb_terminal_and_plain_progress_have_no_control_characters() {
    let folder = tempfile::tempdir().expect("a folder");
    let cases = [("dumb", "dashboard"), ("dumb", "bar"), ("xterm", "plain"), ("xterm", "none")];
    for (index, (term, mode)) in cases.into_iter().enumerate() {
        let out = folder.path().join(index.to_string());
        let more = ["--progress", mode, "--max-steps", "20", "--color", if mode == "none" { "never" } else { "auto" }];
        let mut run = start(&out, (100, 30), term, &more);
        assert_eq!(run.wait().code(), Some(0), "{}", run.output());
        let output = run.output().replace("\r\n", "\n");
        assert!(!output.contains(|c: char| c.is_control() && c != '\n'), "{term} {mode}: {output:?}");
        assert_eq!(output.contains("test acc"), mode != "none", "{output}");
    }
}

/// Without a terminal, `dashboard` and `bar` are the same.
#[test]
fn output_to_a_file_is_the_table_whatever_the_progress() {
    let folder = tempfile::tempdir().expect("a folder");
    for mode in ["bar", "dashboard", "plain", "none"] {
        let ran = train(&folder.path().join(mode), &["--max-steps", "20", "--progress", mode]);
        assert_eq!(ran.stdout.lines().count(), if mode == "none" { 0 } else { 2 }, "{mode}: {}", ran.stdout);
        assert!(!(ran.stdout + &ran.stderr).contains('\u{1b}'), "{mode}");
    }
    let out = folder.path().join("both");
    fail(2, short_run(&out, &["--quiet", "--progress", "bar"]), &["--quiet", "--progress", "cannot be used with"]);
}

/// A second Ctrl-C ends the run at once, with the terminal uncovered.
#[test]
fn a_second_ctrl_c_uncovers_the_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    // A step takes longer than the time between the two.
    let mut args = short_run(&out, &["--batch-size", "3500", "--threads", "1", "--progress", "dashboard"]);
    args[4] = "mnist-cnn";
    let mut run = OnTerminal::start(command(args), 100, 30, "xterm");
    run.wait_until("the dashboard", |output| output.contains(COVER));
    run.press("\u{3}");
    std::thread::sleep(Duration::from_millis(1100));
    run.press("\u{3}");
    let code = run.wait().code();
    let output = run.output();
    assert_eq!(covers(&output), [1, 1], "{output}");
    // The step may end between the two.
    let end = if code == Some(3) { "the steps since the last save are lost" } else { "resume with" };
    assert!(matches!(code, Some(3 | 130)) && after_dashboard(&output).contains(end), "{code:?}: {output}");
}
