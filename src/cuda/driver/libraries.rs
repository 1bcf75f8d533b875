//! Searches this machine for CUDA's libraries. The build script uses this file too.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Endings of the names of CUDA's own libraries: those of its supported versions.
pub const CUDA_SUFFIXES: &[&str] = &["", ".13", ".12"];

/// Paths that may be the library `stem` (such as `nvrtc`), in order of preference: the file or folder in the
/// environment variable `override_variable`, CUDA's folders, bare file names with each of `suffixes` (for the loader's
/// search path), and Python wheels.
pub fn candidates(stem: &str, override_variable: &str, suffixes: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Some(path) = env::var_os(override_variable).map(PathBuf::from) {
        if path.is_dir() { found.extend(libraries_in(&path, stem)) } else { found.push(path) }
    }
    let variables = ["CUDA_PATH", "CUDA_HOME"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    for root in variables.chain([PathBuf::from("/usr/local/cuda")]) {
        for folder in ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"] {
            found.extend(libraries_in(&root.join(folder), stem));
        }
    }
    found.extend(suffixes.iter().map(|suffix| PathBuf::from(format!("lib{stem}.so{suffix}"))));
    for packages in python_packages() {
        for wheel in entries(&packages.join("nvidia")) {
            found.extend(libraries_in(&wheel.join("lib"), stem));
        }
    }
    found
}

/// The files `lib<stem>.so*` in a folder, in descending order of their names, so usually the highest version first.
fn libraries_in(folder: &Path, stem: &str) -> Vec<PathBuf> {
    let prefix = format!("lib{stem}.so");
    let matches = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.strip_prefix(&prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let mut found: Vec<PathBuf> = entries(folder).into_iter().filter(matches).collect();
    found.reverse();
    found
}

/// Folders of Python packages: of the active environment, of every `python3` on the path, and of the user.
fn python_packages() -> Vec<PathBuf> {
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let with_python = env::split_paths(&path).filter(|folder| folder.join("python3").exists());
    let prefixes = with_python.filter_map(|folder| folder.parent().map(Path::to_path_buf));
    let user = env::var_os("HOME").map(|home| PathBuf::from(home).join(".local"));
    let mut found = Vec::new();
    for prefix in environments.chain(prefixes).chain(user) {
        for lib in entries(&prefix.join("lib")) {
            let is_python = lib.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3"));
            if is_python {
                found.extend(["site-packages", "dist-packages"].map(|folder| lib.join(folder)));
            }
        }
    }
    found
}

/// The entries of a folder, sorted by name; empty if the folder does not exist.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).map(|entries| entries.filter_map(|e| Some(e.ok()?.path())).collect()).unwrap_or_default();
    found.sort();
    found
}
