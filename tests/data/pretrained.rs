//! Known weights: their table, and their download, which is verified by the digits in the file's name.

use std::fs;

use cnn_cuda::data;
use cnn_cuda::data::pretrained::{KnownWeights, TABLE, find};
use cnn_cuda::models;
use sha2::{Digest, Sha256};

use super::fetch::{dead_mirror, from, serve_bytes};
use super::{assert_contains, message};

#[test]
fn known_weights_are_of_known_networks_and_have_names_of_their_own() {
    for known in TABLE {
        models::find(known.model).expect("a known model");
        assert_eq!(find(known.name), Some(known));
        assert_eq!(TABLE.iter().filter(|other| other.name == known.name || other.digits == known.digits).count(), 1);
        assert!(known.digits.len() == 8 && known.digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert!(!data::fetchable().contains(&known.name));
        // The parameters of ImageNet's 1000 classes, in fp32, and less than a tenth for everything else.
        let model = models::find(known.model).expect("a known model");
        let network = (model.build)(model.input, model.classes).expect("a network");
        let megabytes = network.parameter_count() as f64 * 4e-6;
        assert!(known.megabytes as f64 > megabytes && (known.megabytes as f64) < 1.1 * megabytes, "{}", known.name);
    }
}

#[test]
fn known_weights_are_downloaded_once_and_verified() {
    let body = b"the content of a file".to_vec();
    let digits: String = Sha256::digest(&body).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let known = KnownWeights { name: "x", model: "x", stem: "name", digits: digits.clone().leak(), megabytes: 2 };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("weights/name-{digits}.pth"));
    let fetch = |mirror: String| known.fetch_from(&from(vec![mirror]), folder.path());
    let by_hand = format!("put the file at {} by hand", path.display());
    assert_contains(&message(fetch(dead_mirror())), &["CNN_CUDA_WEIGHTS_MIRROR", &by_hand]);
    assert_contains(&message(fetch(serve_bytes("404 Not Found", vec![]))), &["404", &by_hand]);
    let wrong = message(fetch(serve_bytes("200 OK", b"something else".to_vec())));
    assert_contains(&wrong, &["checksum is wrong", &format!("expected {digits}"), &by_hand]);
    assert_contains(&message(fetch(serve_bytes("200 OK", vec![0; 2_000_001]))), &["larger than 1 MiB", &by_hand]);
    assert!(!path.exists());
    assert_eq!(fetch(serve_bytes("200 OK", body.clone())).unwrap(), path);
    assert_eq!(fs::read(&path).unwrap(), body);
    assert_eq!(fetch(dead_mirror()).expect("a valid file is not downloaded again"), path);
    fs::write(&path, b"damaged").unwrap();
    assert_contains(&message(fetch(dead_mirror())), &[&by_hand]);
    assert_eq!(fetch(serve_bytes("200 OK", body.clone())).unwrap(), path);
    assert_eq!(fs::read(&path).unwrap(), body);
}
