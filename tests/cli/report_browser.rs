//! The report in a real browser, through WebDriver: no error on the console, and values at the pointer and by keys.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::program::succeed;
use crate::support::{Need, skip};

/// A browser without a window, which ends with this value.
struct Browser {
    driver: Child,
    session: String,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = ureq::delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

impl Browser {
    /// `None` without chromium and chromedriver; the test is then skipped.
    fn open() -> Option<Self> {
        let mut driver = Command::new("chromedriver");
        let driver = driver.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let has_browser = Command::new("chromium").arg("--version").output().is_ok_and(|it| it.status.success());
        let Some(mut driver) = driver.ok().filter(|_| has_browser) else {
            skip(Need::Browser, "chromium and chromedriver are not installed (Debian: chromium, chromium-driver)");
            return None;
        };
        let lines = BufReader::new(driver.stdout.take().expect("its output")).lines();
        let (send, port) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, port)) = line.split_once("successfully on port ") {
                    let _ = send.send(port.trim_end_matches('.').to_string());
                }
            }
        });
        let port = port.recv_timeout(Duration::from_secs(60)).expect("chromedriver starts");
        let mut browser = Self { driver, session: format!("http://127.0.0.1:{port}/session") };
        let options = json!({
            "args": ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,1000"],
        });
        let wanted = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let session = browser.post("", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session += &format!("/{}", session["sessionId"].as_str().expect("a session"));
        Some(browser)
    }

    fn post(&self, command: &str, body: &Value) -> Value {
        let url = self.session.clone() + command;
        let mut answer =
            ureq::post(&url).config().http_status_as_error(false).build().send(body.to_string()).expect("an answer");
        let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string().expect("text")).expect("JSON");
        assert!(answer["value"].get("error").is_none(), "{command}: {answer}");
        answer["value"].clone()
    }

    fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Moves the pointer to a point of the window.
    fn point(&self, x: f64, y: f64) {
        let moved = json!({ "type": "pointerMove", "duration": 0, "x": x as i64, "y": y as i64 });
        self.post("/actions", &json!({ "actions": [{ "type": "pointer", "id": "mouse", "actions": [moved] }] }));
    }

    fn press(&self, key: &str) {
        let actions = [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })];
        self.post("/actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] }));
    }

    fn readout(&self) -> String {
        self.run("return document.querySelector('.readout').textContent").as_str().expect("text").to_string()
    }
}

#[test]
fn the_report_answers_to_pointer_and_keys_without_an_error() {
    let Some(browser) = Browser::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let name = out.to_str().expect("UTF-8");
    let args = ["--dataset", "digits", "--model", "lenet5", "--device", "cpu", "--epochs", "2", "--quiet"];
    succeed([&["train", "--batch-size", "1000", "--out", name], &args[..]].concat());
    let file = std::fs::canonicalize(out.join("report.html")).expect("a report");
    browser.post("/url", &json!({ "url": format!("file://{}", file.display()) }));
    assert_eq!(browser.readout(), "");
    // At the right end of the first plot is the last epoch, at its left end the first.
    let place = browser.run(
        "const box = document.querySelector('svg[data-curve]').getBoundingClientRect(); \
         return [box.left, box.right, box.top, box.bottom]",
    );
    let [left, right, top, bottom] = [0, 1, 2, 3].map(|at| place[at].as_f64().expect("a number"));
    let middle = f64::midpoint(top, bottom);
    browser.point(right - 10.0, middle);
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).expect("read");
    let epochs: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let expect = |epoch: usize| {
        let number = |key: &str| epochs[epoch - 1][key].as_f64().expect("a number");
        let shown = browser.readout();
        assert!(shown.contains(&format!("Epoch {epoch}")), "{shown}");
        for part in [
            format!("train {:.4}", number("train_loss")),
            format!("test {:.4}", number("test_loss")),
            format!("test {:.2}%", 100.0 * number("test_accuracy")),
        ] {
            assert!(shown.contains(&part), "{part} is not in {shown}");
        }
    };
    expect(2);
    browser.point(left + 10.0, middle);
    expect(1);
    assert_eq!(browser.run("return document.querySelectorAll('svg .cursor').length"), 2, "a line in each plot");
    browser.point(2.0, 2.0);
    assert_eq!(browser.readout(), "");
    // Tab leads to the first plot; the arrow keys choose the epoch.
    let [tab, arrow_left, home] = ["\u{e004}", "\u{e012}", "\u{e011}"];
    browser.press(tab);
    expect(2);
    browser.press(arrow_left);
    expect(1);
    browser.press(home);
    expect(1);
    let spoken = browser.run("return document.activeElement.getAttribute('aria-valuetext')");
    assert!(spoken.as_str().is_some_and(|text| text.starts_with("epoch 1, loss: train ")), "{spoken}");
    // Nothing is wider than a phone, apart from what scrolls by itself.
    browser.post("/window/rect", &json!({ "width": 500, "height": 900 }));
    let widths = browser.run("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]");
    assert_eq!(widths[0], widths[1], "the page scrolls sideways");
    let log = browser.post("/se/log", &json!({ "type": "browser" }));
    assert_eq!(log, json!([]), "the console has messages");
}
