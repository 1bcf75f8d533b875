//! The unmodified program on the emulator's CUDA device, and with missing or unusable devices and libraries.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::cuda_mnist::small_set;
use crate::support::emulator::{emulator, installed, library_path};
use crate::support::program::{Ran, command};
use crate::support::{Need, skip};

/// Runs the program with `libraries` first on the loader's path and `settings` in its environment.
pub fn run_with(libraries: &Path, settings: &[(&str, &str)], args: &[&str]) -> Ran {
    let cache = tempfile::tempdir().expect("a folder");
    let mut command = command(args);
    command.env("LD_LIBRARY_PATH", library_path(libraries)).env("XDG_CACHE_HOME", cache.path());
    command.envs(installed(libraries));
    command.envs(settings.iter().copied()).output().expect("the program starts").into()
}

pub fn step_losses(folder: &Path) -> Vec<f64> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).expect("read");
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    records.filter(|record| record["kind"] == "step").map(|record| record["loss"].as_f64().expect("loss")).collect()
}

/// The fastest algorithm on the emulator. Tests of other algorithms override it.
const QUICK: [&str; 2] = ["--conv-algo", "direct"];

/// The arguments of a short run; `more` must name the data set.
pub fn train<'a>(out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["train", "--out", out.to_str().expect("UTF-8"), "--log-steps", "--quiet"], &QUICK[..], more].concat()
}

pub fn succeed(ran: Ran) -> Ran {
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran
}

#[test]
#[ignore = "long; CI runs it"]
fn every_command_works_on_a_device() {
    let Some(libraries) = emulator() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let data = small_set(folder.path());
    let set = ["--data", &data, "--model", "lenet5", "--device", "0", "--batch-size", "16", "--max-steps", "6"];
    for precision in ["tf32", "fp16", "bf16"] {
        let out = folder.path().join(precision);
        succeed(run_with(libraries, &[], &train(&out, &[&set[..], &["--precision", precision]].concat())));
    }
    succeed(run_with(libraries, &[], &train(&out, &set)));
    let weights = out.join("model.safetensors");
    let weights = weights.to_str().expect("UTF-8");
    let eval = |device: &str| -> Value {
        let args = ["eval", "--model", "lenet5", "--data", &data, "--weights", weights, "--json", "--device", device];
        let args = [&args[..], &QUICK].concat();
        serde_json::from_str(&succeed(run_with(libraries, &[], &args)).stdout).expect("JSON")
    };
    let (device, cpu) = (eval("0"), eval("cpu"));
    assert!((device["loss"].as_f64().expect("loss") - cpu["loss"].as_f64().expect("loss")).abs() < 1e-4);
    let bench = ["bench", "--model", "lenet5", "--device", "0", "--steps", "2", "--batch-size", "4", "--json"];
    let bench = [&bench[..], &QUICK].concat();
    let result: Value = serde_json::from_str(&succeed(run_with(libraries, &[], &bench)).stdout).expect("JSON");
    assert_eq!((&result["precision"], &result["device"]), (&"fp32".into(), &"CUDA emulator (CUDA device 0)".into()));
    // cuBLAS's workspace alone is 33 MB.
    assert!(result["device_memory_mb"].as_f64().is_some_and(|used| (33.0..2000.0).contains(&used)), "{result}");
    // The profile measures with events, and its limits depend on the device's size.
    let profile = ["bench", "--model", "lenet5", "--device", "0", "--steps", "1", "--batch-size", "1", "--profile"];
    let profile = [&profile[..], &["--json"], &QUICK].concat();
    let result: Value = serde_json::from_str(&succeed(run_with(libraries, &[], &profile)).stdout).expect("JSON");
    let (limits, parts) = (&result["profile"]["limits"], result["profile"]["parts"].as_array().expect("parts"));
    assert_eq!(limits["product_side"], 64, "{limits}");
    // A launch and its share of an event, on the emulator's clock.
    assert!((limits["launch"].as_f64().expect("seconds") - 1.356e-6).abs() < 1e-9, "{limits}");
    assert!(parts.iter().all(|part| part["milliseconds"].as_f64().is_some_and(|time| time >= 1e-3)), "{parts:?}");
    assert!(result["graph_nodes"].as_u64().is_some_and(|nodes| nodes > 10), "{result}");
    // Runs resume in another precision, and on the CPU in fp32.
    for (precision, other) in [("fp16", "bf16"), ("bf16", "fp16")] {
        let run = folder.path().join(precision);
        let args = ["train", "--resume", run.to_str().expect("UTF-8"), "--max-steps"];
        succeed(run_with(libraries, &[], &[&args[..], &["8", "--device", "0", "--precision", other]].concat()));
        succeed(run_with(libraries, &[], &[&args[..], &["9", "--device", "cpu"]].concat()));
    }
    // `auto` chooses the device, and the run can then resume on the CPU.
    let out_name = out.to_str().expect("UTF-8");
    let ran =
        succeed(run_with(libraries, &[], &["train", "--resume", out_name, "--device", "auto", "--max-steps", "8"]));
    assert!(ran.stderr.contains("CUDA emulator"), "{}", ran.stderr);
    succeed(run_with(libraries, &[], &["train", "--resume", out_name, "--device", "cpu", "--max-steps", "10"]));
}

#[test]
fn the_limits_of_a_device_are_measured() {
    let Some(libraries) = emulator() else { return };
    let args = [&["bench", "--limits", "--device", "0"][..], &QUICK].concat();
    let printed = succeed(run_with(libraries, &[], &[&args[..], &["--json"]].concat())).stdout;
    let result: Value = serde_json::from_str(&printed).expect("JSON");
    let limits = &result["limits"];
    assert!(limits["flops"].as_f64().is_some_and(|speed| speed > 0.0), "{result}");
    assert!(limits["launch"].as_f64().is_some_and(|seconds| seconds > 0.0), "{result}");
    assert!(limits.get("processor").is_none(), "{result}");
    let text = succeed(run_with(libraries, &[], &args)).stdout;
    assert!(text.contains("CUDA emulator") && text.contains("64³ matrix product"), "{text}");
    assert!(text.contains("µs per launch") && !text.contains("parallel region"), "{text}");
}

#[test]
fn unusable_devices_and_drivers_are_reported() {
    let Some(libraries) = emulator() else { return };
    let device = ["bench", "--model", "lenet5", "--steps", "1", "--device", "0"];
    let device = [&device[..], &QUICK].concat();
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let refused = |settings: &[(&str, &str)], args: &[&str], words: &[&str]| {
        let ran = run_with(libraries, settings, args);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        for word in words {
            assert!(ran.stderr.contains(word), "{word:?} is missing from: {}", ran.stderr);
        }
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    };
    refused(&[("CUDA_EMULATOR_DEVICES", "0")], &device, &["--device 0", "CUDA_ERROR_NO_DEVICE"]);
    refused(&[("CUDA_EMULATOR_DRIVER", "11040")], &device, &["CUDA 11.4", "12.0", "update the driver"]);
    refused(&[("CUDA_EMULATOR_CC", "7.0")], &device, &["compute capability 7.0", "7.5"]);
    let bfloat16 = [&device[..], &["--precision", "bf16"]].concat();
    refused(&[("CUDA_EMULATOR_CC", "7.5")], &bfloat16, &["compute capability 7.5", "bf16 needs 8.0", "fp16"]);
    let second = [&device[..6], &["1"], &QUICK].concat();
    refused(&[], &second, &["no CUDA device 1", "0: CUDA emulator"]);
    let large = [&device[..], &["--batch-size", "100000"]].concat();
    refused(&[("CUDA_EMULATOR_MEMORY_MB", "600")], &large, &["needs", "are free", "a batch of up to", "--batch-size"]);
    let both = ["--batch-size", "500", "--eval-batch-size", "2000", "--workspace-mb", "1"];
    let name = out.to_str().expect("UTF-8");
    let train = ["train", "--model", "lenet5", "--dataset", "digits", "--device", "0", "--out", name];
    refused(&[("CUDA_EMULATOR_MEMORY_MB", "76")], &[&train[..], &both].concat(), &["a batch of up to"]);
    refused(&[("CUDA_EMULATOR_MEMORY_MB", "20")], &device, &["CUDA_ERROR_OUT_OF_MEMORY"]);
}

#[test]
#[ignore = "long; CI runs it"]
fn the_suggested_batch_size_fits() {
    let Some(libraries) = emulator() else { return };
    let memory = [("CUDA_EMULATOR_MEMORY_MB", "84")];
    let bench = |batch: &str| {
        let args = ["bench", "--model", "lenet5", "--steps", "1", "--device", "0", "--batch-size", batch];
        run_with(libraries, &memory, &[&args[..], &["--workspace-mb", "1"], &QUICK].concat())
    };
    let stderr = bench("20000").stderr;
    let rest = stderr.split("a batch of up to ").nth(1).unwrap_or_else(|| panic!("{stderr}"));
    let fitting = rest.split(' ').next().expect("a number");
    succeed(bench(fitting));
}

#[test]
fn missing_libraries_are_reported() {
    let Some(libraries) = emulator() else { return };
    let only = |files: &[&str]| {
        let folder = tempfile::tempdir().expect("a folder");
        for file in files {
            fs::copy(libraries.join(file), folder.path().join(file)).expect("copied");
        }
        folder
    };
    let nothing = only(&[]);
    let no_toolkit = [("CUDA_PATH", "/none"), ("CUDA_HOME", "/none"), ("PATH", "/usr/bin:/bin"), ("HOME", "/dev/null")];
    let device = ["bench", "--model", "lenet5", "--steps", "1", "--device", "0"];
    if !crate::support::cuda::has_gpu() {
        let ran = run_with(nothing.path(), &no_toolkit, &device);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("no NVIDIA driver"), "{}", ran.stderr);
        let auto = [&device[..6], &["auto"]].concat();
        let ran = succeed(run_with(nothing.path(), &no_toolkit, &auto));
        assert!(ran.stderr.contains("device: CPU") && ran.stderr.contains("no NVIDIA driver"), "{}", ran.stderr);
    }
    let driver = only(&["libcuda.so.1", "libcuda.so", "libnvrtc.so.13", "libnvrtc.so"]);
    if Path::new("/usr/local/cuda").exists() {
        return skip(Need::NoToolkit, "cuBLAS may be found in /usr/local/cuda");
    }
    // Unreadable files that the loader finds first hide an installed cuBLAS.
    for version in ["", ".13", ".12", ".11"] {
        fs::write(driver.path().join(format!("libcublas.so{version}")), "no library").expect("written");
    }
    let ran = run_with(driver.path(), &no_toolkit, &device);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("cuBLAS was not found") && ran.stderr.contains("CNN_CUDA_CUBLAS"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
}

#[test]
#[ignore = "long; CI runs it"]
fn kernels_are_compiled_at_run_time_if_the_driver_is_too_old_for_embedded_ones() {
    let Some(libraries) = emulator() else { return };
    // This tries algorithms, which uses a different timing call on older drivers.
    let device = ["bench", "--model", "lenet5", "--steps", "1", "--device", "0", "--batch-size", "1"];
    let device = [&device[..], &["--conv-algo", "auto"]].concat();
    // The program may be built without NVRTC while this test is built with it.
    let usual = succeed(run_with(libraries, &[("RUST_LOG", "cnn_cuda=debug")], &device));
    let embedded = !usual.stderr.contains("compiling kernels/");
    let driver = ("CUDA_EMULATOR_DRIVER", "12000");
    let fitting = [driver, ("CUDA_EMULATOR_NVRTC", "12000"), ("RUST_LOG", "cnn_cuda=debug")];
    let ran = succeed(run_with(libraries, &fitting, &device));
    assert_eq!(ran.stderr.contains("too old for the embedded kernels"), embedded, "{}", ran.stderr);
    let newer = run_with(libraries, &[driver, ("PATH", "/none"), ("HOME", "/dev/null")], &device);
    assert_eq!(newer.code, Some(1), "{}", newer.stderr);
    assert!(newer.stderr.contains("not newer than the driver"), "{}", newer.stderr);
    assert_eq!(newer.stderr.contains("update it"), embedded, "{}", newer.stderr);
}

/// The algorithms that a run recorded.
fn recorded(folder: &Path) -> toml::Table {
    let text = fs::read_to_string(folder.join("config.toml")).expect("read");
    let config: toml::Table = toml::from_str(&text).expect("TOML");
    config["algorithms"].as_table().expect("a table").clone()
}

#[test]
#[ignore = "long; CI runs it"]
fn the_fastest_algorithms_are_chosen_once_and_stored_in_the_cache_and_the_run() {
    let Some(libraries) = emulator() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    let run = |args: &[&str]| -> String {
        let mut command = command(args);
        command.env("LD_LIBRARY_PATH", library_path(libraries)).env("XDG_CACHE_HOME", &cache);
        let ran = command.envs(installed(libraries)).env("RUST_LOG", "info,cnn_cuda=debug").output();
        succeed(ran.expect("the program starts").into()).stderr
    };
    let tried = |stderr: &str| stderr.lines().filter(|line| line.contains(" µs, implicit ")).count();
    let data = small_set(folder.path());
    let shape = ["--data", &data, "--model", "lenet5", "--device", "0", "--batch-size", "4", "--eval-batch-size"];
    let begin = |name: &str, steps: &str| {
        let out = folder.path().join(name);
        let more = [&shape[..], &["8", "--max-steps", steps, "--conv-algo", "auto"]].concat();
        let args = [&["train", "--log-steps", "--quiet", "--out", out.to_str().expect("UTF-8")], &more[..]].concat();
        (out.clone(), run(&args))
    };
    let (first, stderr) = begin("first", "3");
    let chosen = recorded(&first);
    assert!(tried(&stderr) > 0 && tried(&stderr) == chosen.len(), "{stderr}");
    // The next run uses the cached times and computes the same.
    let (second, stderr) = begin("second", "3");
    assert_eq!((tried(&stderr), recorded(&second)), (0, chosen.clone()), "{stderr}");
    assert_eq!(step_losses(&first), step_losses(&second));
    // A damaged file is measured again.
    let files: Vec<_> = fs::read_dir(cache.join("cnn-cuda")).expect("a cache").flatten().map(|e| e.path()).collect();
    let cache_file = files.iter().find(|path| path.to_string_lossy().contains("algorithms-")).expect("a file");
    fs::write(cache_file, "{\"key\": ").expect("damaged");
    let (third, stderr) = begin("third", "3");
    assert_eq!((tried(&stderr), recorded(&third)), (chosen.len(), chosen.clone()), "{stderr}");
    // A resumed run uses its recorded algorithms, whichever are the fastest now. Earlier versions recorded no tiles.
    let path = first.join("config.toml");
    let mut config: toml::Table = toml::from_str(&fs::read_to_string(&path).expect("read")).expect("TOML");
    for (_, name) in config["algorithms"].as_table_mut().expect("a table") {
        *name = if name.as_str() == Some("im2col") { "implicit" } else { "im2col" }.into();
    }
    fs::write(&path, toml::to_string(&config).expect("TOML")).expect("written");
    let expected = recorded(&first);
    assert!(expected != chosen);
    let args = ["train", "--resume", first.to_str().expect("UTF-8"), "--max-steps", "5", "--quiet"];
    let stderr = run(&args);
    assert!(tried(&stderr) == 0 && !stderr.contains("last bits"), "{stderr}");
    let without_tile = |(site, name): (&String, &toml::Value)| {
        (site.clone(), name.as_str().expect("a name").split(' ').next().map(String::from))
    };
    let now: Vec<_> = recorded(&first).iter().map(without_tile).collect();
    assert_eq!(now, expected.iter().map(without_tile).collect::<Vec<_>>());
}

/// With a device, a summary's plan shows the device's choices, which a step then launches.
#[test]
#[ignore = "long; CI runs it"]
fn summary_shows_what_a_device_chooses() {
    let Some(libraries) = emulator() else { return };
    let cache = tempfile::tempdir().expect("a folder");
    let run = |args: &[&str]| -> String {
        let args = [args, &["--model", "lenet5", "--device", "0", "--batch-size", "2", "--precision", "fp16"]].concat();
        let cached = [("XDG_CACHE_HOME", cache.path().to_str().expect("UTF-8"))];
        succeed(run_with(libraries, &cached, &args)).stdout
    };
    let json = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    let summary = json(&run(&["summary", "--plan", "--json"]));
    let printed = run(&["bench", "--steps", "2", "--algorithms", "--json"]);
    let bench = json(&printed);
    crate::benches::compare_kernels(&printed, bench["algorithms"].as_array().expect("choices").len());
    assert_eq!(summary["algorithms"], bench["algorithms"]);
    assert_eq!(summary["graph_nodes"], bench["graph_nodes"]);
    let algorithms = summary["algorithms"].as_array().expect("choices");
    assert!(algorithms.iter().any(|chosen| chosen["algorithm"] == "cublaslt"), "{algorithms:#?}");
    let text = run(&["summary", "--plan"]);
    assert!(text.contains("cuBLASLt product") && text.contains("algorithms chosen on "), "{text}");
}
