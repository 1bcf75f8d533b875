//! The rules of the house: every file says its one job, rooms import only what is below them, nothing grows too long.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each room of `src/` may import from the others. Rooms side by side import each other only as listed.
const ARROWS: &[(&str, &[&str])] = &[
    ("shape", &[]),
    ("rng", &[]),
    ("files", &[]),
    ("images", &[]),
    ("ops", &["shape", "rng", "images"]),
    ("cpu", &["ops", "shape", "rng", "images"]),
    ("cuda", &["ops", "shape", "rng", "files", "images"]),
    ("network", &["ops", "shape", "rng"]),
    ("models", &["network", "ops", "shape", "rng"]),
    ("plan", &["network", "ops", "shape", "rng"]),
    ("data", &["shape", "rng", "files", "images"]),
    ("report", &["files"]),
    ("train", &["data", "plan", "network", "ops", "shape", "rng", "images"]),
    ("checkpoint", &["train", "network", "ops", "shape", "rng", "files"]),
    (
        "cli",
        &[
            "train",
            "checkpoint",
            "report",
            "data",
            "models",
            "plan",
            "network",
            "ops",
            "cpu",
            "cuda",
            "shape",
            "rng",
            "files",
            "images",
        ],
    ),
];

/// Files over the cap of lines, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Functions over the cap of lines, each with its reason.
const LONG_FUNCTIONS: &[(&str, &str)] =
    &[("src/plan/execute.rs: run_step", "the one match from steps to backend calls, a line or three for each")];

const FILE_CAP: usize = 300;
const FUNCTION_CAP: usize = 60;

/// Source files under `folder` whose names end in one of `endings`.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sources() -> Vec<PathBuf> {
    let mut all = files("src", &[".rs"]);
    all.extend(files("tests", &[".rs", ".cpp", ".h"]));
    all.extend(files("kernels", &[".cu", ".cuh"]));
    all.extend(files("benches", &[".rs"]));
    all
}

#[test]
fn every_file_says_its_one_job() {
    for path in sources() {
        let text = read(&path);
        let first = text.lines().next().unwrap_or_default();
        let header = if path.extension().is_some_and(|e| e == "rs") { "//! " } else { "// " };
        assert!(first.starts_with(header), "{} must begin with `{header}` and its one job", path.display());
    }
}

#[test]
fn rooms_import_only_what_is_below_them() {
    for path in files("src", &[".rs"]) {
        let inner = path.strip_prefix("src").expect("under src");
        let first = inner.iter().next().expect("a name").to_string_lossy();
        let room = first.trim_end_matches(".rs").to_string();
        if room == "main" || room == "lib" {
            continue;
        }
        let allowed = ARROWS.iter().find(|(name, _)| *name == room);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("the room {room} has no arrows in tests/tidy.rs"));
        for (number, line) in read(&path).lines().enumerate() {
            for part in line.split("crate::").skip(1) {
                let target: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let fine = target == room || allowed.contains(&target.as_str());
                assert!(fine, "{}:{}: {room} must not import {target}", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn only_the_dispatch_names_a_backend() {
    for path in files("src/cli", &[".rs"]) {
        let text = read(&path);
        let names = text.contains("crate::cpu") || text.contains("crate::cuda");
        assert!(!names || path.ends_with("device.rs"), "{} names a backend", path.display());
    }
}

#[test]
fn an_operator_has_the_same_stem_in_every_room() {
    let stems = |folder: &str, ending: &str| -> BTreeSet<String> {
        files(folder, &[ending])
            .iter()
            .map(|path| path.file_stem().expect("a stem").to_string_lossy().into_owned())
            .filter(|stem| stem != "mod")
            .collect()
    };
    let operators: BTreeSet<String> = stems("src/ops", ".rs").into_iter().filter(|stem| stem != "backend").collect();
    for stem in &operators {
        for room in ["src/cpu", "src/cuda"] {
            assert!(stems(room, ".rs").contains(stem), "{room}/{stem}.rs is missing");
        }
        // The linear layer is a product alone: cuBLAS's, or the implicit convolution of one pixel.
        let kernel = stem == "linear" || stems("kernels", ".cu").contains(stem);
        assert!(kernel, "kernels/{stem}.cu is missing");
        // Bias gradients are tested with the convolutions and linear layers that end in them.
        assert!(stem == "bias" || stems("tests/ops", ".rs").contains(stem), "tests/ops/{stem}.rs is missing");
    }
}

#[test]
fn files_and_functions_stay_short() {
    for path in sources() {
        let text = read(&path);
        let name = path.to_string_lossy().into_owned();
        let lines = text.lines().count();
        let listed = LONG_FILES.iter().any(|(file, _)| *file == name);
        assert!(listed || lines <= FILE_CAP, "{name} has {lines} lines; split it, or list it with a reason");
        assert!(!listed || lines > FILE_CAP, "{name} is short again; take it off the list");
        if !name.ends_with(".rs") {
            continue;
        }
        for (function, length) in functions(&text) {
            let entry = format!("{name}: {function}");
            let listed = LONG_FUNCTIONS.iter().any(|(function, _)| *function == entry);
            assert!(listed || length <= FUNCTION_CAP, "{entry} has {length} lines; split it, or list it with a reason");
        }
    }
}

/// Names and lengths of the functions in formatted Rust: from `fn` to the closing brace at its indentation.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (begin, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let qualifiers = ["pub(super) ", "pub(crate) ", "pub ", "const ", "unsafe ", "extern \"C\" "];
        let bare = qualifiers.iter().fold(code, |code, qualifier| code.strip_prefix(qualifier).unwrap_or(code));
        let Some(rest) = bare.strip_prefix("fn ") else { continue };
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let closing = format!("{}}}", " ".repeat(indent));
        if let Some(length) = lines[begin..].iter().position(|line| *line == closing) {
            found.push((name, length + 1));
        }
    }
    found
}
