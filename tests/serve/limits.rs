//! Requests that nobody should send: foreign hosts, malformed bytes, too much, too slow, too many at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use cnn_cuda::rng::{Philox, Purpose};
use serde_json::Value;

use super::TRAINED;
#[cfg(unix)]
use crate::support::program::heeding_interrupts;
use crate::support::program::{command, fail};
use crate::support::server::Server;

/// What a process may grow by, in kilobytes: buffers of its threads and connections, but not what requests leave.
const MAX_GROWTH: u64 = 48 << 10;

const DRAWING: usize = 28;

fn server() -> Server {
    Server::start(["--weights".as_ref(), TRAINED.as_os_str()])
}

/// A drawing that differs with `number`.
fn drawing(number: u64) -> Vec<u8> {
    (0..DRAWING * DRAWING).map(|at| if (at as u64 * 7 + number).is_multiple_of(11) { 255 } else { 0 }).collect()
}

fn predict(server: &Server, number: u64) -> Value {
    server.picture("/api/picture?width=28&height=28", "application/octet-stream", &drawing(number))["logits"].clone()
}

#[test]
fn only_loopback_names_and_the_own_page_are_answered() {
    let server = server();
    let with = |headers: &str| {
        server.send(format!("GET /api/state HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").as_bytes())
    };
    for host in ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:1", "127.9.9.9:80", "[::1]:8080", "[::1]"] {
        assert_eq!(with(&format!("Host: {host}\r\n")).status, 200, "{host}");
    }
    let foreign =
        ["evil.example", "evil.example:8080", "localhost.evil.example", "192.168.0.1", "0.0.0.0", "[::2]", "", "a:b:c"];
    for host in foreign {
        assert_eq!(with(&format!("Host: {host}\r\n")).status, 421, "{host}");
    }
    assert_eq!(with("").status, 400);
    assert_eq!(with("Host: localhost\r\nHost: localhost\r\n").status, 400);
    for origin in ["http://evil.example", "null", "https://localhost", "http://localhost:9"] {
        assert_eq!(with(&format!("Host: localhost\r\nOrigin: {origin}\r\n")).status, 403, "{origin}");
    }
    assert_eq!(with("Host: localhost:8\r\nOrigin: http://localhost:8\r\n").status, 200);
    for (site, expected) in [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)] {
        assert_eq!(with(&format!("Host: localhost\r\nSec-Fetch-Site: {site}\r\n")).status, expected, "{site}");
    }
    // A link elsewhere may open the page, but nothing else of it.
    let link = |target: &str, dest: &str| {
        let headers = format!("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: {dest}\r\n");
        server.request("GET", target, &headers, &[]).status
    };
    assert_eq!([link("/", "document"), link("/", "iframe"), link("/api/state", "document")], [200, 403, 403]);
    // Without these, no other page can read an answer.
    let response = with("Host: localhost\r\n");
    assert_eq!(response.header("access-control-allow-origin"), None);
    assert_eq!(response.header("cross-origin-resource-policy"), Some("same-origin"));
}

#[test]
fn another_address_is_used_only_if_it_is_given_and_says_what_that_means() {
    let open = Server::start(["--weights".as_ref(), TRAINED.as_os_str(), "--host".as_ref(), "0.0.0.0".as_ref()]);
    assert!(open.messages.contains("everyone who can reach port"), "{}", open.messages);
    let response = open.send(b"GET /api/state HTTP/1.1\r\nHost: somewhere.example\r\nConnection: close\r\n\r\n");
    assert_eq!(response.status, 200);
    let closed = server();
    assert!(!closed.messages.contains("everyone"), "{}", closed.messages);
    assert!(closed.address.ip().is_loopback());
}

#[test]
fn wrong_arguments_are_named() {
    let server = server();
    let weights = TRAINED.to_string_lossy().into_owned();
    let port = server.address.port().to_string();
    fail(1, ["serve", "--device", "cpu", "--weights", &weights, "--port", &port], &["--port", &port, "is in use"]);
    fail(2, ["serve", "--weights", &weights, "--run", &weights], &["--run", "cannot be used with"]);
    fail(2, ["serve", "--port", "70000"], &["--port"]);
    fail(2, ["serve", "--host", "example.org"], &["--host"]);
    fail(1, ["serve", "--weights", &weights, "--host", "192.0.2.1", "--device", "cpu"], &["--host 192.0.2.1"]);
    fail(1, ["serve", "--run", "tests/reference"], &["--run tests/reference is not the folder of a run"]);
    fail(1, ["serve", "--weights", "nothing.safetensors"], &["nothing.safetensors: there is no such file"]);
    let empty = tempfile::tempdir().expect("a folder");
    let output = command(["serve"]).current_dir(empty.path()).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("serve needs --weights FILE or --run DIR"));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_server_at_once() {
    use std::os::unix::process::ExitStatusExt;
    let mut command = command(["serve", "--port", "0", "--device", "cpu"]);
    command.arg("--weights").arg(TRAINED.as_os_str()).stdout(std::process::Stdio::piped());
    let mut child = heeding_interrupts(&mut command).spawn().expect("the program starts");
    let mut line = [0; 24];
    child.stdout.as_mut().expect("stdout").read_exact(&mut line).expect("the address");
    // SAFETY: sends a signal to a process of this test.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let start = Instant::now();
    let status = loop {
        match child.try_wait().expect("the process") {
            Some(status) => break status,
            None if start.elapsed() < Duration::from_secs(30) => thread::sleep(Duration::from_millis(20)),
            None => {
                child.kill().expect("the end");
                panic!("the server does not end");
            }
        }
    };
    // Shells report that as 130.
    assert_eq!(status.signal(), Some(libc::SIGINT));
}

#[test]
fn what_is_too_large_is_refused() {
    let server = server();
    let head = |headers: &str| format!("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    let refused = |bytes: &[u8]| matches!(server.send_malformed(bytes).status, 0 | 400 | 404 | 414 | 431);
    assert!(refused(head(&format!("X: {}\r\n", "x".repeat(1 << 20))).as_bytes()));
    assert!(refused(head(&"X: y\r\n".repeat(500)).as_bytes()));
    assert!(refused(format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(1 << 20)).as_bytes()));
    let large = vec![0; (24 << 20) + 1];
    let response = server.request("POST", "/api/picture", "Content-Type: image/png\r\n", &large);
    assert!(matches!(response.status, 0 | 413), "{}", response.status);
    // The length is promised, and the rest never comes.
    let promise = "POST /api/picture HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: image/png\r\nContent-Length: 99999999999\r\n\r\nabc";
    assert!(matches!(server.send_malformed(promise.as_bytes()).status, 0 | 400 | 413));
    assert_eq!(predict(&server, 1), predict(&server, 1));
}

/// A request that is nearly right, or not at all.
fn malformed(number: u32) -> Vec<u8> {
    let mut random = Philox::new(11, Purpose::Explanation, number);
    let body = drawing(u64::from(number));
    let templates = [
        format!("POST /api/picture?width=28&height=28 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n", body.len()),
        "GET /api/maps?picture=00&layer=1&first=0&count=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".into(),
        "POST /api/picture HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n".into(),
        "GET /api/unit?picture=&layer=&channel=&row=&column= HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".into(),
        "POST /api/sample?class=1&index=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".into(),
    ];
    let mut bytes = templates[random.below(5) as usize].clone().into_bytes();
    bytes.extend(body);
    if random.below(10) == 0 {
        // The beginning of a PNG file, then anything.
        let rest: Vec<u8> = (0..random.below(400)).map(|_| random.below(256) as u8).collect();
        let head = b"POST /api/picture HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: image/png\r\nContent-Length: ";
        let png = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(), &rest].concat();
        bytes = [head.as_slice(), format!("{}\r\n\r\n", png.len()).as_bytes(), &png].concat();
    }
    for _ in 0..random.below(8) {
        let at = random.below((bytes.len() as u32 - 1).max(1)) as usize;
        match random.below(5) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes.insert(at, random.below(256) as u8),
            2 => drop(bytes.drain(at..(at + 1 + random.below(9) as usize).min(bytes.len() - 1))),
            3 => bytes.truncate(at.max(2)),
            _ => {
                let part = bytes[at..].to_vec();
                bytes.extend(part);
            }
        }
    }
    bytes
}

/// Sends malformed requests from several clients at once. Returns what the process grew by after the first half, in
/// kilobytes.
fn send_malformed(server: &Server, count: u32) -> Option<u64> {
    let expected = predict(server, 5);
    let half = |first: u32, last: u32| {
        thread::scope(|scope| {
            for client in 0..8 {
                scope.spawn(move || {
                    for number in (first..last).filter(|number| number % 8 == client) {
                        let status = server.send_malformed(&malformed(number)).status;
                        // An error of the server itself would be a fault.
                        assert!(status < 500, "request {number} is answered with {status}");
                    }
                });
            }
        });
        server.memory()
    };
    let (before, after) = (half(0, count / 2), half(count / 2, count));
    assert_eq!(predict(server, 5), expected);
    Some(after?.saturating_sub(before?))
}

#[test]
fn malformed_requests_do_no_harm() {
    let mut server = server();
    let growth = send_malformed(&server, 600);
    assert!(growth.is_none_or(|growth| growth < MAX_GROWTH), "{growth:?} kB");
    assert!(server.is_running());
}

#[test]
#[ignore = "takes a minute; `just test-long` runs it"]
fn ten_thousand_malformed_requests_and_a_hundred_clients_leave_the_memory_as_it_was() {
    let mut server = server();
    let growth = send_malformed(&server, 10_000);
    println!("10,000 malformed requests: {growth:?} kB");
    assert!(growth.is_none_or(|growth| growth < MAX_GROWTH), "{growth:?} kB");
    ask_from(&server, 100, 10);
    let before = server.memory();
    ask_from(&server, 100, 100);
    let growth = server.memory().zip(before).map(|(after, before)| after.saturating_sub(before));
    println!("100 clients with 100 requests each: {growth:?} kB");
    assert!(growth.is_none_or(|growth| growth < MAX_GROWTH), "{growth:?} kB");
    assert!(server.is_running());
}

/// Asks from many clients at once, each with its own pictures, and compares the answers with those of a single client.
fn ask_from(server: &Server, clients: u64, requests: u64) {
    let expected: Vec<Value> = (0..11).map(|number| predict(server, number)).collect();
    let expected = &expected;
    thread::scope(|scope| {
        for client in 0..clients {
            scope.spawn(move || {
                for number in 0..requests {
                    let number = (client + number) % 11;
                    let target = "/api/picture?width=28&height=28";
                    let kind = "Content-Type: application/octet-stream\r\n";
                    let response = server.request("POST", target, kind, &drawing(number));
                    match response.status {
                        200 => assert_eq!(response.json()["logits"], expected[number as usize]),
                        // The queue is full.
                        status => assert_eq!(status, 503, "{}", response.text()),
                    }
                }
            });
        }
    });
}

#[test]
fn a_hundred_clients_at_once_get_their_own_answers() {
    let mut server = server();
    ask_from(&server, 100, 5);
    assert!(server.is_running());
}

/// The server's limits of time are 15 seconds for headers and 20 for a picture.
#[test]
#[ignore = "long; CI runs it"]
fn slow_clients_are_left_and_others_are_answered_meanwhile() {
    let server = server();
    let connect = |bytes: &str| {
        let mut stream = TcpStream::connect(server.address).expect("a connection");
        stream.write_all(bytes.as_bytes()).expect("bytes");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        stream
    };
    let start = Instant::now();
    let half_a_head = "GET /api/state HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";
    let mut slow: Vec<TcpStream> = (0..100).map(|_| connect(half_a_head)).collect();
    let body =
        "POST /api/picture HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nx";
    slow.extend((0..3).map(|_| connect(body)));
    slow.extend((0..20).map(|_| connect("")));
    let mut count = 0;
    while start.elapsed() < Duration::from_secs(5) {
        let asked = Instant::now();
        predict(&server, count);
        assert!(asked.elapsed() < Duration::from_secs(5));
        count += 1;
    }
    for mut stream in slow {
        let mut answer = Vec::new();
        // Closed with or without a reset.
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || text.starts_with("HTTP/1.1 408"), "{text}");
    }
    assert!(start.elapsed() < Duration::from_secs(50), "{:?}", start.elapsed());
}
