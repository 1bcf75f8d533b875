//! A headless Chromium, controlled through `chromedriver` (W3C WebDriver over HTTP).

use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

use super::{Need, skip};

/// How long the browser may take to reach a state that a test waits for. Machines that run other tests are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// The window of a browser.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub width: u32,
    pub height: u32,
    pub is_dark: bool,
    /// A phone's: its pixels are small, and it is touched.
    pub is_phone: bool,
}

pub const DESKTOP: Window = Window { width: 1280, height: 900, is_dark: false, is_phone: false };
pub const PHONE: Window = Window { width: 390, height: 844, is_dark: false, is_phone: true };

/// A browser with one tab, which ends with this value.
pub struct Browser {
    driver: Child,
    agent: ureq::Agent,
    session: String,
    window: Window,
}

impl Browser {
    /// Starts the browser, or skips the test on a machine without one.
    pub fn start(window: Window) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port").port();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let driver = match command.spawn() {
            Ok(driver) => driver,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                skip(Need::Browser, "no chromedriver (Debian: apt-get install chromium chromium-driver)");
                return None;
            }
            Err(error) => panic!("chromedriver does not start: {error}"),
        };
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        let agent = config.timeout_global(Some(2 * PATIENCE)).build().into();
        let mut browser = Self { driver, agent, session: format!("http://127.0.0.1:{port}"), window };
        let start = Instant::now();
        while browser.agent.get(format!("{}/status", browser.session)).call().is_err() {
            assert!(start.elapsed() < PATIENCE, "chromedriver does not answer");
            thread::sleep(Duration::from_millis(50));
        }
        // Without the sandbox, which does not work for root; the only page is our own.
        let mut arguments =
            ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
                .map(String::from)
                .to_vec();
        arguments.push(format!("--window-size={},{}", window.width, window.height));
        if window.is_dark {
            arguments.push("--blink-settings=preferredColorScheme=0".into());
        }
        let mut options = json!({ "args": arguments });
        if window.is_phone {
            let metrics = json!({ "width": window.width, "height": window.height, "pixelRatio": 2.0, "touch": true });
            options["mobileEmulation"] = json!({ "deviceMetrics": metrics });
        }
        let logs = json!({ "browser": "ALL" });
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs });
        let created = browser.call("/session", json!({ "capabilities": { "alwaysMatch": wanted } }));
        let id = created["sessionId"].as_str().expect("a session").to_string();
        browser.session += &format!("/session/{id}");
        Some(browser)
    }

    /// A command of WebDriver, which must succeed.
    fn call(&self, path: &str, parameters: Value) -> Value {
        let request = self.agent.post(format!("{}{path}", self.session)).header("Content-Type", "application/json");
        let mut response = request.send(parameters.to_string()).unwrap_or_else(|error| panic!("{path}: {error}"));
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string().expect("text");
        assert!(response.status().is_success(), "{path} {parameters}: {text}");
        let mut answer: Value = serde_json::from_str(&text).expect("an object");
        answer["value"].take()
    }

    pub fn open(&self, url: &str) {
        self.call("/url", json!({ "url": url }));
    }

    /// The value that a script returns.
    pub fn run(&self, script: &str) -> Value {
        self.call("/execute/sync", json!({ "script": script, "args": [] }))
    }

    /// The text that a script returns.
    pub fn text(&self, script: &str) -> String {
        self.run(script).as_str().unwrap_or_else(|| panic!("{script} returns no text")).to_string()
    }

    /// Waits until a script returns true.
    pub fn wait(&self, script: &str) {
        let start = Instant::now();
        while self.run(script) != true {
            assert!(start.elapsed() < PATIENCE, "{script} stays false; the console says {:?}", self.console());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Left, top, width and height of the first element that matches, after it was scrolled to the middle of the window.
    fn place(&self, selector: &str) -> [f64; 4] {
        let script = format!(
            "const it = document.querySelector({}); it.scrollIntoView({{ block: 'center', behavior: 'instant' }}); \
             const box = it.getBoundingClientRect(); return [box.left, box.top, box.width, box.height];",
            json!(selector)
        );
        let place = self.run(&script);
        [0, 1, 2, 3].map(|at| place[at].as_f64().unwrap_or_else(|| panic!("{selector} is not on the page")))
    }

    /// Moves the pointer to a point of an element, a fraction of its width and height.
    pub fn hover(&self, selector: &str, (x, y): (f64, f64)) {
        let [left, top, width, height] = self.place(selector);
        let [x, y] = [left + x * width, top + y * height].map(f64::round);
        let moved = json!({ "type": "pointerMove", "duration": 0, "x": x as i64, "y": y as i64 });
        let pointer = json!({ "type": "pointer", "id": "mouse", "actions": [moved] });
        self.call("/actions", json!({ "actions": [pointer] }));
    }

    /// Presses at the first of some points of an element, each a fraction of its width and height, and moves over the others.
    pub fn stroke(&self, selector: &str, points: &[(f64, f64)]) {
        let [left, top, width, height] = self.place(selector);
        let moves = points.iter().map(|(x, y)| {
            let [x, y] = [left + x * width, top + y * height].map(f64::round);
            json!({ "type": "pointerMove", "duration": 10, "x": x as i64, "y": y as i64 })
        });
        let mut actions: Vec<Value> = moves.collect();
        actions.insert(1.min(actions.len()), json!({ "type": "pointerDown", "button": 0 }));
        // A finger rests for a while, without which a touch may not count as one.
        actions.push(json!({ "type": "pause", "duration": if self.window.is_phone { 80 } else { 0 } }));
        actions.push(json!({ "type": "pointerUp", "button": 0 }));
        let kind = if self.window.is_phone { "touch" } else { "mouse" };
        let pointer =
            json!({ "type": "pointer", "id": kind, "parameters": { "pointerType": kind }, "actions": actions });
        self.call("/actions", json!({ "actions": [pointer] }));
    }

    /// Clicks or touches the middle of an element.
    pub fn click(&self, selector: &str) {
        self.stroke(selector, &[(0.5, 0.5)]);
    }

    /// Presses keys; those without a character have codes of WebDriver.
    pub fn press(&self, keys: &[char]) {
        let actions =
            keys.iter().flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key })));
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions.collect::<Vec<_>>() });
        self.call("/actions", json!({ "actions": [keyboard] }));
    }

    /// The window as a PNG file.
    pub fn screenshot(&self) -> Vec<u8> {
        let response = self.agent.get(format!("{}/screenshot", self.session)).call().expect("a screenshot");
        let text = response.into_body().with_config().limit(64 << 20).read_to_string().expect("text");
        let answer: Value = serde_json::from_str(&text).expect("an object");
        BASE64_STANDARD.decode(answer["value"].as_str().expect("a picture")).expect("base64")
    }

    /// What the page has written to the console since the last call, and what failed to load.
    pub fn console(&self) -> Vec<String> {
        let entries = self.call("/se/log", json!({ "type": "browser" }));
        entries.as_array().expect("entries").iter().map(|entry| entry["message"].to_string()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its session; the driver may have ended already.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
