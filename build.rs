//! Compiles `kernels/*.cu` to PTX with NVRTC and embeds PTX and sources; without NVRTC, embeds only the sources.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "src/cuda/driver/libraries.rs"]
mod libraries;
#[path = "src/cuda/driver/nvrtc.rs"]
mod nvrtc;
#[path = "src/cuda/driver/sources.rs"]
#[expect(dead_code, reason = "which device loads a module is decided at run time")]
mod sources;

use nvrtc::Nvrtc;

/// The environment variable with the path of the NVRTC library or its folder; `none` builds without NVRTC.
const VARIABLE: &str = "CNN_CUDA_NVRTC";

/// The newest NVRTC version to use: drivers reject PTX that is newer than they are, so a newer one would exclude many.
const NEWEST: (i32, i32) = (13, 0);

/// Headers that kernels may include.
const HEADERS: &[&str] = &[
    "async.cuh",
    "common.cuh",
    "geometry.cuh",
    "half.cuh",
    "implicit.cuh",
    "mma.cuh",
    "philox.cuh",
    "product.cuh",
    "reduce.cuh",
    "tile.cuh",
    "wgmma.cuh",
    "windows.cuh",
];

/// The storage types, as the suffixes of kernel names.
const STORAGES: &[&str] = &["f32", "f16"];

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed=build.rs");
    for file in ["libraries", "nvrtc", "sources"] {
        println!("cargo::rerun-if-changed=src/cuda/driver/{file}.rs");
    }
    for variable in [VARIABLE, "CUDA_PATH", "CUDA_HOME", "VIRTUAL_ENV", "CONDA_PREFIX"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let kernels = fs::canonicalize("kernels").expect("kernels/ exists");
    check_table(&kernels);
    let nvrtc = find_nvrtc();
    let mut code = embedded_sources(&kernels);
    code += "pub const PTX: &[(&str, &str, &str, &str)] = &[\n";
    if let Some(nvrtc) = &nvrtc {
        for module in sources::MODULES {
            for storage in STORAGES {
                let (name, architecture) = (module.name, module.architecture());
                let path = out.join(format!("{name}_{storage}.ptx"));
                fs::write(&path, compile(nvrtc, &kernels, module, storage)).expect("OUT_DIR can be written");
                writeln!(code, "({name:?}, {storage:?}, {architecture:?}, include_str!({path:?})),").expect("a string");
            }
        }
    }
    code += "];\n";
    fs::write(out.join("kernels.rs"), code).expect("OUT_DIR can be written");
}

/// Checks that the table of modules lists exactly the files of `kernels/`.
fn check_table(kernels: &Path) {
    let mut files: Vec<String> = fs::read_dir(kernels)
        .expect("kernels/ can be read")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".cu").map(String::from))
        .collect();
    files.sort();
    let mut listed: Vec<&str> = sources::MODULES.iter().map(|module| module.file).collect();
    listed.dedup();
    assert_eq!(files, listed, "src/cuda/driver/sources.rs must list the files of kernels/ in order");
}

fn find_nvrtc() -> Option<Nvrtc> {
    if env::var(VARIABLE).is_ok_and(|value| value == "none") {
        return None;
    }
    let mut refused = String::new();
    for path in libraries::candidates("nvrtc", VARIABLE) {
        match Nvrtc::open(&path) {
            Ok(nvrtc) if nvrtc.version <= NEWEST => return Some(nvrtc),
            Ok(nvrtc) => {
                let (major, minor) = nvrtc.version;
                refused = format!(" ({} is {major}.{minor}, newer than many drivers)", path.display());
            }
            Err(_) => {}
        }
    }
    println!(
        "cargo::warning=no NVRTC 12.x or 13.0 found{refused}: the CUDA kernels will be embedded as source and compiled \
         at run time; set {VARIABLE} to an NVRTC library or its folder to compile them now, or to `none` to hide this"
    );
    None
}

fn compile(nvrtc: &Nvrtc, kernels: &Path, module: &sources::Module, storage: &str) -> String {
    let read = |name: &str| fs::read_to_string(kernels.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let file = format!("{}.cu", module.file);
    let (source, headers): (String, Vec<String>) = (read(&file), HEADERS.iter().map(|name| read(name)).collect());
    let headers: Vec<nvrtc::Source> = HEADERS.iter().zip(&headers).map(|(name, text)| (*name, text.as_str())).collect();
    let name = format!("kernels/{file}");
    match nvrtc.compile((&name, &source), &headers, &module.options(storage)) {
        Ok(ptx) => ptx,
        Err(log) => panic!("a CUDA kernel does not compile ({storage}, compute_{}):\n{log}", module.architecture()),
    }
}

/// The Rust code of the tables that embed the sources, for compilation at run time.
fn embedded_sources(kernels: &Path) -> String {
    let mut code = String::from("pub const SOURCES: &[(&str, &str)] = &[\n");
    let mut files: Vec<&str> = sources::MODULES.iter().map(|module| module.file).collect();
    files.dedup();
    for file in files {
        let path = kernels.join(format!("{file}.cu"));
        writeln!(code, "({file:?}, include_str!({path:?})),").expect("a string");
    }
    code += "];\npub const HEADERS: &[(&str, &str)] = &[\n";
    for name in HEADERS {
        let path = kernels.join(name);
        writeln!(code, "({name:?}, include_str!({path:?})),").expect("a string");
    }
    code += "];\n";
    code
}
