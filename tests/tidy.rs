//! Checks of the source tree: header comments, the direction of imports, the length of files and functions, and the
//! files that documentation names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// For each module in `src/`, the other modules that it may import.
const ALLOWED_IMPORTS: &[(&str, &[&str])] = &[
    ("shape", &[]),
    ("rng", &[]),
    ("files", &[]),
    ("images", &[]),
    ("resample", &[]),
    ("ops", &["shape", "rng", "images", "resample"]),
    ("cpu", &["ops", "shape", "rng", "images", "resample"]),
    ("cuda", &["ops", "shape", "rng", "files", "images"]),
    ("network", &["ops", "shape", "rng"]),
    ("models", &["network", "ops", "shape", "rng"]),
    ("plan", &["network", "ops", "shape", "rng"]),
    ("data", &["shape", "rng", "files", "images", "resample"]),
    ("explain", &["plan", "network", "ops", "shape", "rng"]),
    ("report", &["files", "train", "explain", "network", "ops", "shape"]),
    ("train", &["data", "plan", "network", "ops", "shape", "rng", "images"]),
    ("checkpoint", &["train", "network", "ops", "shape", "rng", "files"]),
    ("settings", &["data", "train", "models", "network", "ops", "shape", "files"]),
    ("run", &["settings", "train", "checkpoint", "report", "data", "network", "ops", "files"]),
    ("serve", &["report", "explain", "checkpoint", "train", "data", "plan", "network", "ops", "shape"]),
    ("bench", &["plan", "network", "ops", "rng", "files"]),
    (
        "commands",
        &[
            "run",
            "bench",
            "serve",
            "report",
            "explain",
            "settings",
            "train",
            "checkpoint",
            "data",
            "files",
            "models",
            "plan",
            "network",
            "ops",
            "cpu",
            "cuda",
            "shape",
        ],
    ),
];

/// Files that may exceed `FILE_CAP`, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Functions that may exceed `FUNCTION_CAP`, each with its reason.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];

/// For each folder in `src/cuda`, the other folders that it may import. `lower` is pure: it uses neither a driver nor a
/// device. All folders may import the files in `CUDA_PLAIN_DATA`.
const CUDA_ALLOWED_IMPORTS: &[(&str, &[&str])] = &[
    ("driver", &[]),
    ("memory", &["driver"]),
    ("lower", &[]),
    ("run", &["memory", "driver"]),
    ("tune", &["run", "lower", "memory", "driver"]),
];
const CUDA_PLAIN_DATA: &[&str] = &["convolution", "gemm", "options", "program", "scratch"];

/// Modules whose files must not import each other in a cycle. A folder's `mod.rs` is ignored, because it declares and
/// re-exports what is below it.
const ACYCLIC_MODULES: &[&str] = &[
    "ops",
    "plan",
    "cpu",
    "cuda",
    "network",
    "train",
    "checkpoint",
    "data",
    "explain",
    "report",
    "settings",
    "run",
    "serve",
    "bench",
    "commands",
];

const FILE_CAP: usize = 400;
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
    all.extend(files("tests", &[".rs"]));
    all.extend(files("tools", &[".cpp", ".h"]));
    all.extend(files("kernels", &[".cu", ".cuh"]));
    all.extend(files("benches", &[".rs"]));
    all
}

#[test]
fn every_file_states_its_one_job_in_a_header() {
    for path in sources() {
        let text = read(&path);
        let first = text.lines().next().unwrap_or_default();
        let header = if path.extension().is_some_and(|e| e == "rs") { "//! " } else { "// " };
        assert!(first.starts_with(header), "{} must begin with `{header}` and state its one job", path.display());
    }
}

#[test]
fn modules_import_only_what_is_allowed() {
    for path in files("src", &[".rs"]) {
        let inner = path.strip_prefix("src").expect("under src");
        let first = inner.iter().next().expect("a name").to_string_lossy();
        let module = first.trim_end_matches(".rs").to_string();
        if module == "main" || module == "lib" {
            continue;
        }
        let allowed = ALLOWED_IMPORTS.iter().find(|(name, _)| *name == module);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("the module {module} has no entry in tests/tidy.rs"));
        for (number, line) in read(&path).lines().enumerate() {
            for part in line.split("crate::").skip(1) {
                let target: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let fine = target == module || allowed.contains(&target.as_str());
                assert!(fine, "{}:{}: {module} must not import {target}", path.display(), number + 1);
            }
        }
    }
}

/// The paths that a file imports through `crate::`, `super::` and `self::`, as segments relative to `src`.
fn imports(path: &Path) -> Vec<Vec<String>> {
    let inner = path.strip_prefix("src").expect("under src").with_extension("");
    let mut module: Vec<String> = inner.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    let text = read(path);
    let mut found = Vec::new();
    for statement in text.split("use ").skip(1).filter_map(|rest| rest.split(';').next()) {
        let statement: String = statement.split_whitespace().collect::<Vec<_>>().join("");
        let (mut base, mut rest) = match statement.strip_prefix("crate::") {
            Some(rest) => (Vec::new(), rest),
            None => (module.clone(), statement.as_str()),
        };
        if !statement.starts_with("crate::") && !statement.starts_with("super::") && !statement.starts_with("self::") {
            continue;
        }
        rest = rest.strip_prefix("self::").unwrap_or(rest);
        while let Some(up) = rest.strip_prefix("super::") {
            base.pop();
            rest = up;
        }
        // `a::{b, c::d}` imports a::b and a::c::d.
        let (head, names) = rest.split_once("::{").map_or((rest, None), |(head, names)| (head, Some(names)));
        let (head, names) = match rest.strip_prefix('{') {
            Some(names) => ("", Some(names)),
            None => (head, names),
        };
        let head = head.split("::").filter(|part| !part.is_empty()).map(String::from);
        base.extend(head);
        match names {
            None => found.push(base),
            Some(names) => {
                for name in names.trim_end_matches('}').split(',').filter(|name| !name.is_empty()) {
                    let parts = name.split("::").map(|part| part.trim_matches(['{', '}']).to_string());
                    found.push(base.iter().cloned().chain(parts).collect());
                }
            }
        }
    }
    found
}

/// The source file of a module path: that of the longest prefix for which a file exists.
fn file_of(path: &[String]) -> Option<PathBuf> {
    (1..=path.len()).rev().find_map(|length| {
        let file =
            path[..length].iter().fold(PathBuf::from("src"), |folder, part| folder.join(part)).with_extension("rs");
        file.is_file().then_some(file)
    })
}

#[test]
fn the_folders_of_cuda_import_only_what_is_allowed() {
    for path in files("src/cuda", &[".rs"]) {
        let inner = path.strip_prefix("src/cuda").expect("under cuda");
        let module = inner.iter().next().expect("a name").to_string_lossy().into_owned();
        let Some((_, allowed)) = CUDA_ALLOWED_IMPORTS.iter().find(|(name, _)| *name == module) else {
            assert!(inner.components().count() == 1, "the folder {module} of cuda has no entry in tests/tidy.rs");
            continue;
        };
        for import in imports(&path).into_iter().filter(|import| import.first().is_some_and(|first| first == "cuda")) {
            let target = import.get(1).cloned().unwrap_or_default();
            let fine =
                target == module || allowed.contains(&target.as_str()) || CUDA_PLAIN_DATA.contains(&target.as_str());
            assert!(fine, "{}: {module} must not import {}", path.display(), import.join("::"));
        }
    }
}

#[test]
fn no_files_import_each_other_in_a_cycle() {
    for module in ACYCLIC_MODULES {
        let all: Vec<PathBuf> =
            files(&format!("src/{module}"), &[".rs"]).into_iter().filter(|path| !path.ends_with("mod.rs")).collect();
        let of_file = |path: &PathBuf| -> BTreeSet<usize> {
            let targets = imports(path).into_iter().filter_map(|import| file_of(&import));
            targets.filter(|target| target != path).filter_map(|to| all.iter().position(|file| *file == to)).collect()
        };
        let edges: Vec<BTreeSet<usize>> = all.iter().map(of_file).collect();
        for (start, path) in all.iter().enumerate() {
            let (mut seen, mut next) = (BTreeSet::new(), vec![start]);
            while let Some(file) = next.pop() {
                next.extend(edges[file].iter().copied().filter(|target| seen.insert(*target)));
            }
            assert!(!seen.contains(&start), "{} imports itself in a cycle", path.display());
        }
    }
}

#[test]
fn imports_are_parsed() {
    let of = |path: &str| imports(Path::new(path)).into_iter().map(|parts| parts.join("::")).collect::<Vec<_>>();
    let found = of("src/cuda/lower/conv.rs");
    for expected in ["cuda::lower::geometry::Geometry", "cuda::lower::direct", "cuda::program::Buffer", "ops::RunOn"] {
        assert!(found.iter().any(|path| path == expected), "{expected} is not among {found:?}");
    }
    let linear = ["cuda", "lower", "site", "Site"].map(String::from);
    assert_eq!(file_of(&linear), Some(PathBuf::from("src/cuda/lower/site.rs")));
}

#[test]
fn only_the_device_command_file_names_a_backend() {
    for path in files("src", &[".rs"]) {
        let text = read(&path);
        let names = text.contains("crate::cpu") || text.contains("crate::cuda");
        let may = ["src/cpu", "src/cuda", "src/commands/device.rs"].iter().any(|allowed| path.starts_with(allowed));
        assert!(!names || may, "{} must not name a backend", path.display());
    }
}

#[test]
fn an_operator_has_the_same_file_stem_in_every_folder() {
    let stems = |folder: &str, ending: &str| -> BTreeSet<String> {
        files(folder, &[ending])
            .iter()
            .map(|path| path.file_stem().expect("a stem").to_string_lossy().into_owned())
            .filter(|stem| stem != "mod")
            .collect()
    };
    const OTHERS: [&str; 6] = ["backend", "limits", "op", "operands", "precision", "span"];
    let operators: BTreeSet<String> =
        stems("src/ops", ".rs").into_iter().filter(|stem| !OTHERS.contains(&stem.as_str())).collect();
    for stem in &operators {
        for folder in ["src/cpu", "src/cuda/lower"] {
            assert!(stems(folder, ".rs").contains(stem), "{folder}/{stem}.rs is missing");
        }
        // A linear layer has no kernel file: it runs as a GEMM of cuBLAS or as an implicit convolution over one pixel.
        let kernel = stem == "linear" || stems("kernels", ".cu").contains(stem);
        assert!(kernel, "kernels/{stem}.cu is missing");
        // Bias gradients are tested with the convolutions and linear layers that compute them.
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
        assert!(!listed || lines > FILE_CAP, "{name} no longer exceeds the cap; remove it from the list");
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
        let Some(rest) = bare.strip_prefix("fn ").filter(|rest| !rest.ends_with(';')) else { continue };
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let closing = format!("{}}}", " ".repeat(indent));
        if let Some(length) = lines[begin..].iter().position(|line| *line == closing) {
            found.push((name, length + 1));
        }
    }
    found
}

/// ARCHITECTURE.md lists the files of one operator as an example.
#[test]
fn the_documented_operator_is_in_the_documented_files() {
    let text = read(Path::new("ARCHITECTURE.md"));
    let example = text.split("these files and nowhere else").nth(1).expect("the example of an operator");
    let example = example.split("\n\n").nth(1).expect("its files");
    let documented: BTreeSet<PathBuf> =
        example.lines().filter_map(|line| line.split_whitespace().next()).map(PathBuf::from).collect();
    let mentions = |path: &PathBuf| {
        let text = read(path);
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.into_iter().any(|word| word.starts_with("Lrn"))
    };
    let mut found: BTreeSet<PathBuf> = files("src", &[".rs"]).into_iter().filter(mentions).collect();
    found.retain(|path| !path.starts_with("src/models"));
    found.extend(["kernels/lrn.cu", "tests/ops/lrn.rs"].map(PathBuf::from));
    assert_eq!(found, documented, "ARCHITECTURE.md's example of an operator differs from the sources");
}

/// The contributors' documentation names only files that exist.
#[test]
fn documented_files_exist() {
    let all: Vec<String> = ["src", "tests", "kernels", "benches", "tools"]
        .iter()
        .flat_map(|folder| files(folder, &[".rs", ".cu", ".cuh", ".cpp", ".h", ".py"]))
        .map(|path| path.to_string_lossy().into_owned())
        .chain(["build.rs".to_string()])
        .collect();
    let mut count = 0;
    let pages = ["docs/cpu-backend.md", "docs/cuda-backend.md", "docs/cuda-emulator.md"];
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md"].into_iter().chain(pages) {
        let text = read(Path::new(document));
        let words = text.split(|c: char| !c.is_alphanumeric() && !"_/.-".contains(c));
        let is_file = |word: &&str| [".rs", ".cu", ".cuh", ".cpp", ".py"].iter().any(|ending| word.ends_with(ending));
        for word in words.filter(is_file).filter(|word| word.chars().next().is_some_and(char::is_alphanumeric)) {
            let found = all.iter().any(|path| path == word || path.ends_with(&format!("/{word}")));
            assert!(found, "{document} names {word}, which does not exist");
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

/// A setting is declared and resolved in one place, and used in few others.
#[test]
fn a_settings_name_occurs_in_few_files() {
    // Names that also occur with another meaning.
    const COMMON: &str = "activation batch_size brightness classes contrast conv1 data dataset device dropout \
                          epochs init keep log_steps lr mean model momentum monitor nesterov optimizer precision \
                          pretrained report residency resize schedule seed shuffle std threads";
    let texts: Vec<String> = files("src", &[".rs"]).iter().map(|path| read(path)).collect();
    let mentions =
        |text: &str, name: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name);
    let mut checked = 0;
    let command = <cnn_cuda::settings::Settings as clap::Args>::augment_args(clap::Command::new("settings"));
    for name in command.get_arguments().map(|argument| argument.get_id().as_str()) {
        if COMMON.split_whitespace().any(|word| word == name) {
            continue;
        }
        let count = texts.iter().filter(|text| mentions(text, name)).count();
        assert!((1..=4).contains(&count), "{name} is in {count} files");
        checked += 1;
    }
    assert!(checked > 15, "{checked}");
}
