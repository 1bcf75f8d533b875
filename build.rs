//! Compiles `kernels/*.cu` to PTX with NVRTC and embeds sources and compressed PTX; without NVRTC, embeds only the
//! sources.

use std::env;
use std::fmt::Write;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::ZlibEncoder;

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
    let (nvrtc, headers) = (find_nvrtc(), files(&kernels, ".cuh"));
    let mut code = embedded_sources(&kernels, &headers);
    code += "pub const EMBEDDED: &[Embedded] = &[\n";
    for old in ["ptx", "zlib"].iter().flat_map(|extension| files(&out, &format!(".{extension}"))) {
        fs::remove_file(out.join(old)).expect("OUT_DIR can be written");
    }
    if let Some(nvrtc) = &nvrtc {
        for module in sources::MODULES {
            for (storage, target) in module.storages.iter().flat_map(|it| module.targets(it).map(move |to| (it, to))) {
                let (name, target_name) = (module.name, target.name());
                let ptx = compile(nvrtc, &kernels, &headers, name, target, storage);
                let path = out.join(format!("{name}_{storage}_{target_name}.ptx"));
                let compressed = path.with_extension("zlib");
                fs::write(&path, &ptx).expect("OUT_DIR can be written"); // for .ci/check_ptx
                fs::write(&compressed, compress(&ptx)).expect("OUT_DIR can be written");
                let fields = format!("module: {name:?}, storage: {storage:?}, target: {target_name:?}");
                writeln!(code, "Embedded {{ {fields}, ptx: include_bytes!({compressed:?}) }},").expect("a string");
            }
        }
    }
    code += "];\n";
    fs::write(out.join("kernels.rs"), code).expect("OUT_DIR can be written");
}

/// The names of the files in `folder` that end in `suffix`, sorted.
fn files(folder: &Path, suffix: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("kernels/ can be read");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(suffix)).collect();
    names.sort();
    names
}

/// Checks that the table of modules lists exactly the files of `kernels/`.
fn check_table(kernels: &Path) {
    let listed: Vec<String> = sources::MODULES.iter().map(|module| format!("{}.cu", module.name)).collect();
    assert_eq!(files(kernels, ".cu"), listed, "src/cuda/driver/sources.rs must list the files of kernels/ in order");
}

fn find_nvrtc() -> Option<Nvrtc> {
    if env::var(VARIABLE).is_ok_and(|value| value == "none") {
        return None;
    }
    let mut refused = String::new();
    for path in libraries::candidates("nvrtc", VARIABLE, libraries::CUDA_SUFFIXES) {
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

fn compile(
    nvrtc: &Nvrtc,
    kernels: &Path,
    headers: &[String],
    module: &str,
    target: sources::Target,
    storage: &str,
) -> String {
    let read = |name: &str| fs::read_to_string(kernels.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let file = format!("{module}.cu");
    let (source, texts): (String, Vec<String>) = (read(&file), headers.iter().map(|name| read(name)).collect());
    let headers: Vec<nvrtc::Source> =
        headers.iter().zip(&texts).map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let name = format!("kernels/{file}");
    match nvrtc.compile((&name, &source), &headers, &target.options(storage)) {
        Ok(ptx) => ptx,
        Err(log) => panic!("a CUDA kernel does not compile ({storage}, compute_{}):\n{log}", target.name()),
    }
}

/// Compresses PTX, to about a fifth.
fn compress(ptx: &str) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(ptx.as_bytes()).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

/// The Rust code of the tables that embed the sources, for compilation at run time.
fn embedded_sources(kernels: &Path, headers: &[String]) -> String {
    let mut code = String::from("pub const SOURCES: &[(&str, &str)] = &[\n");
    for file in sources::MODULES.iter().map(|module| module.name) {
        let path = kernels.join(format!("{file}.cu"));
        writeln!(code, "({file:?}, include_str!({path:?})),").expect("a string");
    }
    code += "];\npub const HEADERS: &[(&str, &str)] = &[\n";
    for name in headers {
        let path = kernels.join(name);
        writeln!(code, "({name:?}, include_str!({path:?})),").expect("a string");
    }
    code += "];\n";
    code
}
