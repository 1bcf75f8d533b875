//! A run that is still training: before its first weights, with new ones, and with damaged files.

use std::fs;
use std::path::Path;

use crate::support::server::Server;

use super::TRAINED;

/// The configuration and the metrics of the trained run, without weights.
fn without_weights(folder: &Path) {
    for name in ["config.toml", "metrics.jsonl"] {
        fs::copy(TRAINED.join(name), folder.join(name)).expect("a copy");
    }
}

/// Replaces a file at once, as a run does.
fn replace(path: &Path, content: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, content).and_then(|()| fs::rename(&new, path)).expect("a file");
}

#[test]
fn a_run_is_waited_for_and_its_new_weights_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    without_weights(folder.path());
    let server = Server::start(["--run".as_ref(), folder.path().as_os_str()]);
    let state = server.state(|state| state["history"]["epochs"].as_array().is_some_and(|epochs| epochs.len() == 1));
    assert_eq!(state["generation"], 0);
    let predict = || {
        let kind = "Content-Type: application/octet-stream\r\n";
        server.request("POST", "/api/picture?width=2&height=2", kind, &[0, 255, 0, 0])
    };
    let response = predict();
    assert_eq!(response.status, 409, "{}", response.text());
    assert!(response.text().contains("has not saved weights yet"), "{}", response.text());

    let (weights, last) = (folder.path().join("model.safetensors"), fs::read(TRAINED.join("model.safetensors")));
    let last = last.expect("weights");
    replace(&weights, &last);
    server.state(|state| state["generation"] == 1);
    let first = predict().json();

    // Half a file, which no run leaves, is reported, and the page keeps what it has.
    replace(&weights, &last[..last.len() / 2]);
    let state = server.state(|state| state["error"].is_string());
    assert!(state["error"].as_str().is_some_and(|error| error.contains("model.safetensors")), "{state}");
    assert_eq!(state["generation"], 1);
    assert_eq!(predict().json()["logits"], first["logits"]);

    replace(&weights, &last);
    let state = server.state(|state| state["generation"] == 2);
    assert!(state["error"].is_null(), "{state}");
    assert_eq!(predict().json()["logits"], first["logits"]);
}

#[test]
fn damaged_metrics_are_shown_as_far_as_they_can_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    without_weights(folder.path());
    let metrics = folder.path().join("metrics.jsonl");
    let whole = fs::read(&metrics).expect("metrics");
    let server = Server::start(["--run".as_ref(), folder.path().as_os_str()]);
    let has_epochs = |count: usize| {
        move |state: &serde_json::Value| {
            state["history"]["epochs"].as_array().is_some_and(|epochs| epochs.len() == count)
        }
    };
    assert!(server.state(has_epochs(1))["history"]["fault"].is_null());
    let curves = server.get("/api/curves");
    assert_eq!(curves.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(curves.text().matches("<svg").count(), 2);

    // A second epoch, of which half is there.
    let second = String::from_utf8_lossy(&whole).replace("\"epoch\":1", "\"epoch\":2");
    replace(&metrics, &[whole.as_slice(), &second.as_bytes()[..second.len() / 2]].concat());
    let state = server.state(|state| state["history"]["fault"].is_string());
    assert_eq!(state["history"]["fault"], "metrics.jsonl is damaged in line 2");
    assert!(has_epochs(1)(&state), "{state}");

    replace(&metrics, &[whole.as_slice(), second.as_bytes()].concat());
    let state = server.state(has_epochs(2));
    assert!(state["history"]["fault"].is_null(), "{state}");

    replace(&metrics, &[0xff; 100]);
    assert!(has_epochs(0)(&server.state(|state| state["history"]["fault"].is_string())));
    fs::remove_file(&metrics).expect("it can be removed");
    let state = server.state(|state| state["history"]["fault"].as_str().is_some_and(|it| it.contains("is missing")));
    assert!(has_epochs(0)(&state), "{state}");
}
