//! `bench`: the limits of the machine, the limit that binds each part of a step, and the CPU's instruction sets.

use cnn_cuda::cpu::Instructions;
use serde_json::Value;

use crate::support::program::{fail, succeed};

const BENCH: [&str; 7] = ["bench", "--device", "cpu", "--steps", "1", "--batch-size", "8"];

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} is no number in {value}"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap_or_else(|| panic!("{key} is no list in {value}"))
}

/// Asserts that a rate has positive numbers for one thread and for all.
fn check_rate(rate: &Value) {
    for key in ["one_thread", "all_threads"] {
        let rate = number(rate, key);
        assert!(rate.is_finite() && rate > 0.0, "{key}: {rate}");
    }
}

#[test]
fn limits_describe_the_processor() {
    let printed = json(&succeed(["bench", "--limits", "--device", "cpu", "--threads", "2", "--json"]).stdout);
    assert_eq!(printed["precision"], "fp32");
    assert!(printed["device"].as_str().is_some_and(|name| name.starts_with("CPU (2 threads, ")), "{printed}");
    let limits = &printed["limits"];
    for key in ["flops", "bytes", "product_side"] {
        assert!(number(limits, key) > 0.0, "{limits}");
    }
    let processor = &limits["processor"];
    assert_eq!((&processor["threads"], &processor["instructions"]), (&2.into(), &Instructions::widest().name().into()));
    assert!(number(processor, "parallel_region") > 0.0);
    let arithmetic = list(processor, "arithmetic");
    let of_precision = |wanted: &str| -> Vec<&Value> {
        arithmetic.iter().filter(|it| it["precision"] == wanted).map(|it| &it["instructions"]).collect()
    };
    let sets: Vec<Value> = Instructions::available().map(|set| set.name().into()).collect();
    assert_eq!(of_precision("fp32"), sets.iter().collect::<Vec<_>>());
    #[cfg(target_arch = "x86_64")]
    assert_eq!(of_precision("bf16").len(), usize::from(is_x86_feature_detected!("avx512bf16")));
    for entry in arithmetic {
        check_rate(&entry["peak"]);
        check_rate(&entry["product"]);
    }
    let widest = arithmetic.iter().rfind(|it| it["precision"] == "fp32").expect("a set");
    assert_eq!(processor["peak_flops"], widest["peak"]["all_threads"]);
    let levels = list(processor, "levels");
    let (memory, caches) = levels.split_last().expect("levels");
    assert!(memory["name"] == "memory" && memory.get("cache_bytes").is_none(), "{memory}");
    assert!(
        caches.windows(2).all(|pair| number(&pair[0], "cache_bytes") < number(&pair[1], "cache_bytes")),
        "{levels:?}"
    );
    for level in levels {
        ["read", "write", "copy"].iter().for_each(|key| check_rate(&level[*key]));
        assert!(number(level, "one_thread_bytes") > 0.0 && number(level, "all_threads_bytes") > 0.0, "{level}");
    }
}

#[test]
fn limits_are_printed_as_tables() {
    let text = succeed(["bench", "--limits", "--device", "cpu", "--threads", "1", "--instructions", "portable"]).stdout;
    let portable = Instructions::Portable.name();
    for word in
        ["CPU (1 thread, ", portable, "empty parallel region", "on registers", "1024³ product", "memory", "copy"]
    {
        assert!(text.contains(word), "{word:?} is missing from: {text}");
    }
    for set in Instructions::available() {
        assert!(text.contains(&format!("\n{}, fp32 ", set.name())), "{}: {text}", set.name());
    }
}

#[test]
fn limits_are_measured_without_a_network() {
    let limits = ["bench", "--limits", "--device", "cpu"];
    for more in [&["--profile"][..], &["--steps", "3"], &["--mode", "infer"], &["--batch-size", "1"]] {
        fail(2, [&limits[..], more].concat(), &["--limits", more[0]]);
    }
    fail(2, [&limits[..], &["--model", "lenet5"]].concat(), &["--limits", "network"]);
}

#[test]
fn every_instruction_set_can_be_timed() {
    for set in Instructions::available() {
        let flag = set.flag();
        let args = [&BENCH[..], &["--model", "lenet5", "--threads", "1", "--json", "--instructions", &flag]].concat();
        let result = json(&succeed(args).stdout);
        assert_eq!(result["device"], format!("CPU (1 thread, {})", set.name()));
    }
    let portable = ["bench", "--model", "lenet5", "--steps", "1", "--instructions", "portable"];
    assert!(succeed(portable).stderr.contains("--instructions is for the CPU"), "the CPU is chosen, and why");
    fail(2, [&portable[..], &["--device", "0"]].concat(), &["--instructions", "--device cpu"]);
    fail(2, [&BENCH[..], &["--instructions", "sse"]].concat(), &["--instructions", "portable, avx2, avx512"]);
    for set in [Instructions::Avx2, Instructions::Avx512].into_iter().filter(|set| !set.is_available()) {
        fail(2, [&BENCH[..], &["--instructions", &set.flag()]].concat(), &[set.name(), "portable"]);
    }
}

/// `benches/compare.py` recognises a precision that the CPU does not have by these words.
#[test]
fn a_precision_that_the_cpu_does_not_have_is_named() {
    let unavailable = fail(1, [&BENCH[..], &["--precision", "tf32"]].concat(), &["the CPU supports", "only"]);
    let words = unavailable.split("the CPU supports ").nth(1).and_then(|rest| rest.split(" only").next());
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ", ".contains(c);
    assert!(words.is_some_and(|words| words.chars().all(plain)), "{unavailable}");
}

/// The least time of every part follows from the limits that are printed with it.
#[test]
fn a_profile_names_the_limit_that_binds_each_part() {
    let args = [&BENCH[..], &["--model", "mnist-cnn", "--profile"]].concat();
    let result = json(&succeed([&args[..], &["--json"]].concat()).stdout);
    let (limits, parts) = (&result["profile"]["limits"]["processor"], list(&result["profile"], "parts"));
    let (peak, levels) = (number(limits, "peak_flops"), list(limits, "levels"));
    let mut computed = 0;
    for part in parts {
        let (least, milliseconds) = (number(part, "least_milliseconds"), number(part, "milliseconds"));
        assert!((number(part, "of_limit") * milliseconds - least).abs() <= 1e-9 * least, "{part}");
        // Winograd's algorithm executes a quarter of the operations, and a few more where tiles extend past the image.
        let operations = number(part, "gflops") * milliseconds * 1e6;
        if part["bound"] == "compute" {
            let executed = least * 1e-3 * peak / operations;
            assert!((0.2499..=1.001).contains(&executed), "{executed} of {part}");
            computed += 1;
            continue;
        }
        let level = levels.iter().find(|level| level["name"] == part["bound"]).unwrap_or_else(|| panic!("{part}"));
        let bytes = number(part, "gigabytes_per_second") * milliseconds * 1e6;
        let speeds = ["read", "write", "copy"].map(|key| number(&level[key], "all_threads"));
        let bounds = [f64::max, f64::min].map(|of| bytes / speeds.into_iter().reduce(of).expect("speeds") * 1e3);
        assert!(bounds[0] * 0.999 <= least && least <= bounds[1] * 1.001, "{least} is not in {bounds:?}: {part}");
    }
    assert!(computed > 0, "{parts:?}");
    let part = |label: &str| parts.iter().find(|part| part["label"] == label).expect(label);
    // 8 samples with 6·6 tiles of 36 products of 16 by 32 channels, instead of 24·24 outputs of 9 products.
    let winograd = 2.0 * 8.0 * 36.0 * 36.0 * 16.0 * 32.0 / peak * 1e3;
    let layer = part("layer2.0 forward");
    assert!(number(layer, "least_milliseconds") >= 0.999 * winograd, "{layer}");
    assert!(layer["bound"] != "compute" || number(layer, "least_milliseconds") <= 1.001 * winograd, "{layer}");
    let text = succeed(args).stdout;
    for word in ["of limit  limit", "compute", "a quarter", "empty parallel region"] {
        assert!(text.contains(word), "{word:?} is missing from: {text}");
    }
}
