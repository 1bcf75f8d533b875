//! Training on the emulator with MNIST and with a small synthetic set in its file format.

use std::fs;
use std::path::Path;

use super::cuda::{run_with, step_losses, succeed, train};
use crate::support::emulator::emulator;
use crate::support::{Need, skip};

/// Writes a data set in MNIST's file format.
fn write_idx(folder: &Path, parts: [(&str, &[u8], &[u32]); 2]) {
    fs::create_dir(folder).expect("a folder");
    for (name, images, labels) in parts {
        let header = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
        let count = labels.len() as u32;
        let images = [&header(&[0x803, count, 28, 28])[..], images].concat();
        fs::write(folder.join(format!("{name}-images-idx3-ubyte")), images).expect("written");
        let bytes: Vec<u8> = labels.iter().map(|&label| label as u8).collect();
        let labels = [header(&[0x801, count]), bytes].concat();
        fs::write(folder.join(format!("{name}-labels-idx1-ubyte")), labels).expect("written");
    }
}

/// Writes a small set of MNIST's shape and returns its folder. The brightest rows identify the class. There are few
/// test images, so that the emulator evaluates them quickly.
pub fn small_set(folder: &Path) -> String {
    let data = folder.join("small");
    let labels: Vec<u32> = (0..256).map(|index| index % 10).collect();
    let pixel = |label: u32, at: u32| if at / 56 == label { 255 } else { (at * 7 + label * 13) as u8 % 64 };
    let images: Vec<u8> = labels.iter().flat_map(|&label| (0..784).map(move |at| pixel(label, at))).collect();
    write_idx(&data, [("train", &images, &labels), ("t10k", &images[..20 * 784], &labels[..20])]);
    data.to_str().expect("UTF-8").to_string()
}

/// Trains on real MNIST on the emulator and on the CPU, and compares the losses.
#[test]
#[ignore = "long; CI runs it"]
fn losses_on_mnist_match_the_cpu() {
    const STEPS: usize = 10;
    let Some(libraries) = emulator() else { return };
    let data = std::env::var("CNN_CUDA_DATA").unwrap_or_else(|_| "data".into());
    let options = cnn_cuda::data::LoadOptions { folder: (&data).into(), ..Default::default() };
    let mnist = match cnn_cuda::data::load("mnist", &options) {
        Ok(mnist) => mnist,
        Err(error) => return skip(Need::Mnist, &format!("{error:#}")),
    };
    let folder = tempfile::tempdir().expect("a folder");
    // All training images, but few test images, so that the emulator evaluates them quickly.
    let data = folder.path().join("mnist");
    let (train_set, test) = (&mnist.train, &mnist.test);
    let test = ("t10k", &test.images[..200 * 784], &test.labels[..200]);
    write_idx(&data, [("train", &train_set.images[..], &train_set.labels[..]), test]);
    let (data, max_steps) = (data.to_str().expect("UTF-8"), STEPS.to_string());
    let runs = ["0", "cpu"].map(|device| {
        let out = folder.path().join(device);
        let more = ["--data", data, "--device", device, "--max-steps", &max_steps];
        let ran = succeed(run_with(libraries, &[], &train(&out, &more)));
        assert_eq!(ran.stderr.contains("CUDA emulator"), device == "0", "{}", ran.stderr);
        step_losses(&out)
    });
    assert_eq!(runs.each_ref().map(Vec::len), [STEPS, STEPS]);
    for (ours, cpu) in runs[0].iter().zip(&runs[1]) {
        assert!((ours - cpu).abs() <= 1e-4 * cpu, "{ours} on the device, {cpu} on the CPU");
    }
}
