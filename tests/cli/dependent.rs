//! Which launches of the program are dependent ones (programmatic dependent launch), and that results do not depend on
//! it.

use std::fs;
use std::path::Path;

use super::cuda::{run_with, succeed};
use super::cuda_mnist::small_set;
use crate::support::emulator::emulator;

/// What a run submitted to the device, in order, and the weights that it wrote.
struct Submitted {
    lines: Vec<String>,
    weights: Vec<u8>,
}

impl Submitted {
    fn dependent(&self) -> usize {
        self.lines.iter().filter(|line| line.starts_with("dependent ")).count()
    }
}

/// Trains a few steps: the first runs its launches directly, the second captures them, the third replays them.
fn steps(libraries: &Path, settings: &[(&str, &str)], more: &[&str]) -> Submitted {
    let folder = tempfile::tempdir().expect("a folder");
    let (out, data, log) = (folder.path().join("run"), small_set(folder.path()), folder.path().join("submitted"));
    let out_name = out.to_str().expect("UTF-8");
    let set = ["train", "--out", out_name, "--data", &data, "--model", "lenet5", "--device", "0", "--max-steps", "3"];
    let log_setting = ("CUDA_EMULATOR_SUBMITTED", log.to_str().expect("UTF-8"));
    let args = [&set[..], &["--batch-size", "8", "--conv-algo"], more].concat();
    succeed(run_with(libraries, &[settings, &[log_setting]].concat(), &args));
    let lines = fs::read_to_string(&log).expect("the emulator wrote it").lines().map(String::from).collect();
    Submitted { lines, weights: fs::read(out.join("model.safetensors")).expect("weights") }
}

#[test]
fn a_kernel_that_follows_a_kernel_in_its_program_is_dependent_and_no_other_launch() {
    let Some(libraries) = emulator() else { return };
    for (more, product) in
        [(["direct", "--precision", "fp16"], None), (["im2col", "--precision", "fp32"], Some("cuBLAS product"))]
    {
        let Submitted { lines, .. } = steps(libraries, &[], &more);
        let (mut dependent, mut after_product, mut first) = (0, 0, 0);
        for pair in lines.windows(2) {
            let (is_dependent, what) = pair[1].strip_prefix("dependent ").map_or((false, &*pair[1]), |it| (true, it));
            let previous = pair[0].trim_start_matches("dependent ");
            // Every program of a run begins by gathering a batch.
            let is_first = what.starts_with("kernel gather_");
            let may = what.starts_with("kernel ") && previous.starts_with("kernel ") && !is_first;
            assert_eq!(is_dependent, may, "{what} after {previous}");
            dependent += usize::from(is_dependent);
            first += usize::from(is_first);
            after_product += usize::from(what.starts_with("kernel ") && Some(previous) == product);
        }
        assert!(dependent >= 20 && first >= 2, "{dependent} dependent launches, {first} programs");
        assert_eq!(after_product > 0, product.is_some(), "{after_product} kernels after a product");
    }
}

#[test]
fn results_do_not_depend_on_it() {
    let Some(libraries) = emulator() else { return };
    let with = steps(libraries, &[], &["direct", "--precision", "fp16"]);
    let without = steps(libraries, &[], &["direct", "--precision", "fp16", "--no-dependent-launch"]);
    assert!(with.dependent() > 0);
    assert_eq!(without.dependent(), 0);
    assert!(with.weights == without.weights, "the weights differ");
}

#[test]
fn earlier_devices_and_drivers_do_not_use_it() {
    let Some(libraries) = emulator() else { return };
    let uses = |settings: &[(&str, &str)]| steps(libraries, settings, &["direct"]).dependent() > 0;
    assert!(!uses(&[("CUDA_EMULATOR_CC", "8.0")]));
    assert!(uses(&[("CUDA_EMULATOR_CC", "12.0")]));
    // This NVRTC compiles the kernels, so that their PTX is not newer than the driver.
    let driver = |version| [("CUDA_EMULATOR_DRIVER", version), ("CUDA_EMULATOR_NVRTC", "12020")];
    assert!(!uses(&driver("12020")));
    assert!(uses(&driver("12030")));
}

#[test]
fn other_commands_can_switch_it_off() {
    let Some(libraries) = emulator() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let bench = ["bench", "--model", "lenet5", "--device", "0", "--steps", "2", "--batch-size", "4"];
    let uses = |name: &str, more: &[&str]| {
        let log = folder.path().join(name);
        let settings = [("CUDA_EMULATOR_SUBMITTED", log.to_str().expect("UTF-8"))];
        let args = [&bench[..], &["--conv-algo", "direct"], more].concat();
        succeed(run_with(libraries, &settings, &args));
        fs::read_to_string(&log).expect("the emulator wrote it").contains("dependent kernel ")
    };
    assert!(uses("default", &[]) && uses("on", &["--no-dependent-launch", "--dependent-launch"]));
    assert!(!uses("off", &["--no-dependent-launch"]));
}

#[test]
fn the_error_of_a_failed_capture_names_the_switch() {
    let Some(libraries) = emulator() else { return };
    let bench = ["bench", "--model", "lenet5", "--device", "0", "--steps", "2", "--batch-size", "4"];
    let error = |more: &[&str]| {
        let args = [&bench[..], &["--conv-algo", "direct"], more].concat();
        let ran = run_with(libraries, &[("CUDA_EMULATOR_GRAPH_NODES", "3")], &args);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("capturing a step"), "{}", ran.stderr);
        ran.stderr
    };
    assert!(error(&[]).contains("--no-dependent-launch"));
    assert!(!error(&["--no-dependent-launch"]).contains("--no-dependent-launch"));
}
