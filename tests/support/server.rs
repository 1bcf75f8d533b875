//! `cnn-cuda serve` in a process of its own, and HTTP requests to it, well-formed or not.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::program::command;

/// A server, which ends with this value.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// What it has printed on stderr until it listened.
    pub messages: String,
}

/// An answer, or as much of it as arrived.
#[derive(Debug)]
pub struct Response {
    /// 0 if the server closed the connection without an answer.
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
}

impl Server {
    /// Starts the server on a free port of the CPU.
    pub fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        let mut command = command(["serve", "--port", "0", "--device", "cpu", "--threads", "2"]);
        let child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout");
        BufReader::new(stdout).read_line(&mut line).expect("a line of text");
        let address = line.trim().strip_prefix("http://").and_then(|rest| rest.strip_suffix('/'));
        let address = address.and_then(|address| address.parse().ok());
        let mut stderr = child.stderr.take().expect("stderr");
        let Some(address) = address else {
            let mut messages = String::new();
            let _ = stderr.read_to_string(&mut messages);
            panic!("the server printed {line:?}: {messages}");
        };
        // What it prints before its address is already there; what follows must be read for it not to wait.
        let mut buffer = vec![0; 1 << 16];
        let count = stderr.read(&mut buffer).expect("messages");
        let messages = String::from_utf8_lossy(&buffer[..count]).into_owned();
        thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { child, address, messages }
    }

    /// The address of the page.
    pub fn page(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Sends bytes and reads until the server closes the connection.
    pub fn send(&self, bytes: &[u8]) -> Response {
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut all = Vec::new();
        if let Err(error) = stream.read_to_end(&mut all) {
            assert!(error.kind() != ErrorKind::WouldBlock, "the server neither answers nor closes the connection");
        }
        Response::new(&all)
    }

    /// A request with `headers`, each with its end of line.
    pub fn request(&self, method: &str, target: &str, headers: &str, body: &[u8]) -> Response {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let host = self.address;
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}{length}\r\n");
        self.send(&[head.as_bytes(), body].concat())
    }

    pub fn get(&self, target: &str) -> Response {
        self.request("GET", target, "", &[])
    }

    /// The answer to a picture, which must be accepted.
    pub fn picture(&self, target: &str, kind: &str, body: &[u8]) -> Value {
        let response = self.request("POST", target, &format!("Content-Type: {kind}\r\n"), body);
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    }

    /// The state of the page, once `is_reached` holds for it.
    pub fn state(&self, is_reached: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..600 {
            let state = self.get("/api/state").json();
            if is_reached(&state) {
                return state;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("the state is {}", self.get("/api/state").text());
    }

    /// Kilobytes of memory that the process uses, according to Linux.
    pub fn memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the process").is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Response {
    fn new(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(bytes.len());
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = bytes.get(end + 4..).unwrap_or_default().to_vec();
        Self { status, head, body }
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.head, self.text()))
    }

    /// The values of a binary answer.
    pub fn floats(&self) -> Vec<f32> {
        assert_eq!(self.status, 200, "{}", self.text());
        self.body.chunks_exact(4).map(|it| f32::from_le_bytes(it.try_into().expect("four bytes"))).collect()
    }
}
