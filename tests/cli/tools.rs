//! `eval`, `predict`, `summary` and `bench`.

use std::fs;

use serde_json::Value;

use super::train;
use crate::support::program::{fail, run, succeed};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn eval_and_predict_agree_with_training() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--epochs", "1", "--quiet", "--lr", "0.05", "--momentum", "0.9"]);
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).expect("read");
    let epoch = json(metrics.lines().last().expect("an epoch"));
    let weights = out.join("model.safetensors");
    let weights = weights.to_str().expect("UTF-8");
    let model = ["--model", "lenet5", "--weights", weights, "--device", "cpu"];
    let eval = |more: &[&str]| succeed([&["eval", "--dataset", "digits"], &model[..], more].concat()).stdout;
    for batch in ["128", "7"] {
        let result = json(&eval(&["--json", "--batch-size", batch]));
        assert_eq!(result["accuracy"], epoch["test_accuracy"]);
        let difference = result["loss"].as_f64().expect("loss") - epoch["test_loss"].as_f64().expect("loss");
        assert!(difference.abs() < 1e-6, "{difference}");
    }
    let text = eval(&[]);
    assert!(text.contains("accuracy") && text.contains("2000"), "{text}");
    // Predictions of the set's images, saved as pictures, must be about as accurate as the evaluation.
    let digits = crate::train::harness::digits(1, 40);
    let mut paths = Vec::new();
    for (index, image) in digits.test.images.chunks(28 * 28).enumerate() {
        let path = folder.path().join(format!("{index}.png"));
        image::save_buffer(&path, image, 28, 28, image::ExtendedColorType::L8).expect("saved");
        paths.push(path.to_str().expect("UTF-8").to_string());
    }
    let mut args = vec!["predict", "--json", "--top-k", "2"];
    args.extend(model);
    args.extend(paths.iter().map(String::as_str));
    let predictions: Vec<Value> = succeed(args).stdout.lines().map(json).collect();
    assert_eq!(predictions.len(), 40);
    let right = predictions.iter().zip(&digits.test.labels).filter(|(prediction, label)| {
        assert_eq!(prediction["classes"].as_array().expect("classes").len(), 2);
        prediction["classes"][0]["class"] == label.to_string()
    });
    let (right, accuracy) = (right.count() as f64 / 40.0, epoch["test_accuracy"].as_f64().expect("accuracy"));
    assert!(accuracy > 0.8 && right > accuracy - 0.15, "{right} right against {accuracy}");
}

#[test]
fn predict_reports_inverted_and_blank_pictures() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--max-steps", "1", "--quiet"]);
    let picture = folder.path().join("dark on light.png");
    let pixels: Vec<u8> = (0..60 * 40).map(|i| if (18..22).contains(&(i % 40)) { 0 } else { 255 }).collect();
    image::save_buffer(&picture, &pixels, 40, 60, image::ExtendedColorType::L8).expect("saved");
    let weights = out.join("model.safetensors");
    let args = ["predict", "--model", "lenet5", "--device", "cpu", "--weights", weights.to_str().expect("UTF-8")];
    let blank = folder.path().join("blank.png");
    image::save_buffer(&blank, &[255; 100], 10, 10, image::ExtendedColorType::L8).expect("saved");
    let ran = succeed([&args[..], &[blank.to_str().expect("UTF-8")]].concat());
    assert!(ran.stderr.contains("the picture is blank"), "{}", ran.stderr);
    let ran = succeed([&args[..], &[picture.to_str().expect("UTF-8")]].concat());
    assert!(ran.stderr.contains("inverted"), "{}", ran.stderr);
    assert_eq!(ran.stdout.matches('%').count(), 3, "{}", ran.stdout);
}

#[test]
fn summary_lists_models_and_shows_one() {
    let list = succeed(["summary"]).stdout;
    assert!(list.contains("mnist-cnn") && list.contains("lenet5"), "{list}");
    let text = succeed(["summary", "--model", "mnist-cnn"]).stdout;
    for word in ["layer4.0", "2,327,818 parameters", "11,542,848 multiply-adds", "128×8×8", "14×14"] {
        assert!(text.contains(word), "{word:?} is missing from: {text}");
    }
    let summary = json(&succeed(["summary", "--model", "mnist-cnn", "--json"]).stdout);
    assert_eq!(summary["parameters"], 2_327_818);
    assert_eq!(summary["layers"][1]["output_shape"], serde_json::json!([16, 26, 26]));
}

#[test]
fn summary_shows_the_memory_of_a_batch() {
    let memory = |batch: &str| {
        let text = succeed(["summary", "--model", "alexnet", "--json", "--batch-size", batch]).stdout;
        json(&text)["memory"].clone()
    };
    let [one, eight] = [memory("1"), memory("8")];
    let number = |memory: &Value, key: &str| memory[key].as_f64().expect(key);
    // Parameters and their gradients, in fp32.
    assert!((number(&one, "parameters_mb") - 2.0 * 4.0 * 61.100_840).abs() < 1e-6);
    assert!((number(&one, "momentum_mb") - 4.0 * 61.100_840).abs() < 1e-6);
    assert!((number(&one, "adam_mb") - 2.0 * 4.0 * 61.100_840).abs() < 1e-6);
    assert!((number(&one, "accumulation_mb") - 4.0 * 61.100_840).abs() < 1e-6);
    let growth = number(&eight, "activations_mb") / number(&one, "activations_mb");
    assert!((7.9..=8.1).contains(&growth), "{one} {eight}");
    assert!(number(&eight, "evaluation_mb") < number(&eight, "parameters_mb") / 2.0 + number(&eight, "activations_mb"));
    let text = succeed(["summary", "--model", "alexnet"]).stdout;
    for word in ["61,100,840 parameters", "dropout 0.5", "memory at batch 64", "67×67"] {
        assert!(text.contains(word), "{word:?} is missing from: {text}");
    }
}

#[test]
fn summary_and_bench_accept_the_network_flags_of_train() {
    let flags = ["--activation", "leaky-relu:0.125", "--dropout", "0.25", "--classes", "7"];
    let input = ["--channels", "1", "--image-size", "64x96"];
    let summary = |more: &[&str]| succeed([&["summary", "--model", "alexnet"], more].concat()).stdout;
    let text = summary(&[&flags[..], &input].concat());
    for word in ["LeakyReLU(0.125)", "dropout 0.25", "linear 4096→7", "1×64×96"] {
        assert!(text.contains(word), "{word:?} is missing from: {text}");
    }
    assert!(!text.contains("statistics"), "{text}");
    let plan = summary(&["--plan", "--activation", "tanh", "--batch-size", "2"]);
    assert!(plan.contains("tanh") && !plan.contains("ReLU"), "{plan}");
    let bench = ["bench", "--model", "multiscale", "--device", "cpu", "--steps", "1", "--batch-size", "2", "--json"];
    let result = json(&succeed([&bench[..], &flags, &input].concat()).stdout);
    assert_eq!((&result["input"], &result["classes"]), (&serde_json::json!([1, 64, 96]), &serde_json::json!(7)));
    fail(2, ["summary", "--classes", "7"], &["--classes", "--model"]);
    fail(2, ["summary", "--model", "alexnet", "--activation", "swish"], &["--activation"]);
    fail(1, ["summary", "--model", "alexnet", "--image-size", "8"], &["alexnet cannot work on images of 3×8×8"]);
}

#[test]
fn summary_counts_running_statistics_separately_from_parameters() {
    let text = succeed(["summary", "--model", "resnet20"]).stdout;
    // PyTorch's buffers are these plus one counter per layer.
    for word in ["269,722 parameters", "1,376 running means and variances", "statistics"] {
        assert!(text.contains(word), "{word:?} is missing from: {text}");
    }
    let summary = json(&succeed(["summary", "--model", "resnet20", "--json"]).stdout);
    assert_eq!((&summary["parameters"], &summary["running_statistics"]), (&269_722.into(), &1_376.into()));
    let layers = summary["layers"].as_array().expect("layers");
    let statistics =
        |name: &str| layers.iter().find(|layer| layer["name"] == name).expect(name)["running_statistics"].clone();
    assert_eq!((statistics("bn1"), statistics("conv1")), (32.into(), 0.into()));
}

#[test]
fn summary_shows_the_plan_without_a_device() {
    let text = succeed(["summary", "--plan"]).stdout;
    for word in [
        "layer2.0 forward",
        "bias + ReLU + max pooling",
        "max_pool_backward",
        "nodes in the graph",
        "1.3 µs per launch",
    ] {
        assert!(text.contains(word), "{word:?} is missing from: {text}");
    }
    let plan = |precision: &str| {
        let args =
            ["summary", "--model", "mnist-cnn", "--plan", "--json", "--batch-size", "8", "--precision", precision];
        json(&succeed(args).stdout)
    };
    let summary = plan("fp32");
    let parts = summary["parts"].as_array().expect("parts");
    assert_eq!(parts[2]["label"], "layer2.0 forward");
    // It writes three buffers: before pooling, after pooling, and the argmax.
    assert_eq!((parts[2]["reads"].as_array().expect("reads").len(), parts[2]["writes"][2].is_u64()), (1, true));
    // 8 samples, 24·24·32 outputs, 3·3·16 multiply-adds for each.
    assert_eq!(parts[2]["megaflops"], 8.0 * 2.0 * 24.0 * 24.0 * 32.0 * 144.0 / 1e6);
    let launches = |summary: &Value| -> usize {
        let parts = summary["parts"].as_array().expect("parts").iter();
        parts.map(|part| part["launches"].as_array().expect("launches").len()).sum()
    };
    assert_eq!(summary["graph_nodes"], launches(&summary));
    // fp16 adds a launch that checks for an overflow.
    assert_eq!(plan("fp16")["graph_nodes"], launches(&summary) + 1);
    assert_eq!(plan("bf16")["graph_nodes"], launches(&summary));
}

#[test]
fn a_trace_in_a_missing_folder_is_refused_before_the_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("missing/step.json");
    // So many steps would take hours.
    let args = ["bench", "--device", "cpu", "--steps", "1000000", "--trace", path.to_str().expect("UTF-8")];
    let ran = run(args);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("--trace") && ran.stderr.contains("create it first"), "{}", ran.stderr);
}

#[test]
fn bench_writes_a_trace_that_other_programs_can_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("step.json");
    let file = path.to_str().expect("UTF-8");
    let args = ["bench", "--model", "lenet5", "--device", "cpu", "--steps", "2", "--batch-size", "8", "--trace", file];
    let ran = succeed([&args[..], &["--json"]].concat());
    assert!(json(&ran.stdout).get("profile").is_none(), "--trace alone prints no profile");
    let trace = json(&fs::read_to_string(&path).expect("a trace"));
    let events = trace["traceEvents"].as_array().expect("events");
    let labels: Vec<&str> = events.iter().map(|event| event["name"].as_str().expect("a name")).collect();
    assert_eq!((labels[0], labels[labels.len() - 1]), ("gather", "update"));
    assert!(labels.contains(&"loss"), "{labels:?}");
    let number = |event: &Value, key: &str| event[key].as_f64().unwrap_or_else(|| panic!("{key} of {event}"));
    let mut end = 0.0;
    for event in events {
        assert_eq!((&event["ph"], &event["pid"], &event["tid"]), (&"X".into(), &1.into(), &1.into()));
        assert!(number(event, "ts") >= end, "{event} overlaps the event before it");
        end = number(event, "ts") + number(event, "dur");
        assert!(number(event, "dur") > 0.0 && number(&event["args"], "bytes") > 0.0);
        assert!(number(&event["args"], "flops") >= 0.0);
    }
    let refused = run([&args[..], &["--mode", "infer"]].concat());
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

#[test]
fn bench_prints_one_json_object() {
    let args = ["bench", "--model", "lenet5", "--device", "cpu", "--steps", "3", "--batch-size", "8", "--json"];
    let result = json(&succeed(args).stdout);
    assert_eq!((&result["model"], &result["steps"], &result["batch_size"]), (&"lenet5".into(), &3.into(), &8.into()));
    let [median, min, max] = ["median", "min", "max"].map(|key| result["ms_per_step"][key].as_f64().expect(key));
    assert!(0.0 < min && min <= median && median <= max);
    assert!(result["images_per_second"].as_f64().expect("a rate") > 0.0);
}

/// A forward pass overwrites its input. From its own results as input, the numbers of this network would grow to infinity,
/// which `bench` refuses.
#[test]
fn bench_runs_every_forward_pass_on_the_same_input() {
    let args = ["bench", "--model", "resnet20", "--device", "cpu", "--mode", "infer", "--batch-size", "1"];
    succeed([&args[..], &["--steps", "400"]].concat());
}

#[test]
fn bench_lists_algorithms_of_cuda_devices_only() {
    let args = ["bench", "--model", "lenet5", "--device", "cpu", "--steps", "1", "--batch-size", "2", "--algorithms"];
    fail(2, args, &["--algorithms requires a CUDA device"]);
}

#[test]
fn help_documents_every_flag() {
    for command in ["train", "eval", "predict", "explain", "filters", "summary", "bench", "fetch"] {
        let help = succeed([command, "--help"]).stdout;
        let lines: Vec<&str> = help.lines().collect();
        // Explanations are indented further than flags.
        for pair in lines.windows(2).filter(|pair| pair[0].starts_with("      --")) {
            let (flag, below) = (pair[0].trim(), pair[1].trim());
            let explained = flag.contains("  ") || !(below.is_empty() || below.starts_with('-'));
            assert!(explained, "{command}: {flag} is not explained");
        }
    }
    let help = succeed(["train", "--help"]).stdout;
    assert!(
        help.contains("[default: 0.1]") && help.contains("Training:") && help.contains("--no-FLAG exists"),
        "{help}"
    );
    // The help of a command is about that command.
    let recorded = "that of the weights' run, else";
    for (command, count) in
        [("train", 0), ("eval", 8), ("predict", 8), ("explain", 7), ("filters", 7), ("summary", 0), ("bench", 0)]
    {
        let help = succeed([command, "--help"]).stdout;
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!help.contains("predict:") && help.matches(recorded).count() == count, "{command}: {help}");
    }
    // The tests compare with PyTorch; the program does not.
    assert!(!succeed(["--help"]).stdout.contains("verifies"));
}

#[test]
fn completions_and_the_manual_list_commands_and_flags() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = succeed(["completions", shell]).stdout;
        assert!(script.contains("label-smoothing") && script.contains("predict"), "{shell}: {script}");
        assert!(script.contains("no-cutout") || shell != "bash", "{shell}: {script}");
        assert!(!script.contains("branches") && !script.contains("graph-steps"), "{shell}: {script}");
    }
    let manual = succeed(["man"]).stdout;
    for words in ["cnn\\-cuda", "label\\-smoothing", "workspace\\-mb", "top\\-k"] {
        assert!(manual.contains(words), "{words} is missing from the manual");
    }
    fail(2, ["completions", "cmd"], &["cmd", "bash"]);
}

#[test]
fn logs_are_coloured_on_request() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |name: &str, when: &str| {
        let out = folder.path().join(name);
        let args =
            ["train", "--model", "lenet5", "--dataset", "digits", "--device", "cpu", "--max-steps", "1", "--quiet"];
        succeed([&args[..], &["--color", when, "--out", out.to_str().expect("UTF-8")]].concat()).stderr
    };
    assert!(run("always", "always").contains("\u{1b}["));
    for (when, coloured) in [("always", true), ("never", false), ("auto", false)] {
        let color = format!("--color={when}");
        for args in [&["--color", when, "train", "--bad"][..], &["train", &color, "--bad"]] {
            assert_eq!(fail(2, args, &["--bad"]).contains('\u{1b}'), coloured, "{args:?}");
        }
    }
    // stderr is not a terminal here.
    assert!(!run("auto", "auto").contains('\u{1b}') && !run("never", "never").contains('\u{1b}'));
}
