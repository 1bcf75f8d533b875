//! Builds the CUDA emulator, once for each state of its sources, and runs tests on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use sha2::{Digest, Sha256};

use super::{Need, skip};

const KERNELS: &str = "kernels";
const SOURCES: &str = "tests/cuda_emulator";

const ALL: &[&str] = &[
    "-std=gnu++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-U_FORTIFY_SOURCE",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-DCNN_CUDA_EMULATOR",
    "-Itests/cuda_emulator",
    "-Ikernels",
    "-pthread",
];
/// A kernel reads the same bytes as different types, which CUDA allows; alignment and array bounds are checked.
const FOR_KERNELS: &[&str] =
    &["-O2", "-march=native", "-fno-strict-aliasing", "-fsanitize=alignment,bounds", "-fno-sanitize-recover=all"];
const FOR_DRIVER: &[&str] = &["-O2"];
const FOR_PRODUCTS: &[&str] = &["-O3", "-march=native"];

const DRIVER: &[&str] = &[
    "block",
    "copy",
    "device",
    "event",
    "faults",
    "fiber",
    "graph",
    "launch",
    "memory",
    "module",
    "settings",
    "stream",
    "unsupported",
];

/// The folder of the emulator's libraries, to stand first on a child process's `LD_LIBRARY_PATH`; built on first use.
/// None, after saying that the test is skipped, where there is no C++ compiler.
pub fn emulator() -> Option<&'static Path> {
    // A failure is kept too: no other test tries the same again.
    static BUILT: OnceLock<Option<Result<PathBuf, ()>>> = OnceLock::new();
    let attempt = |compiler: String| std::panic::catch_unwind(|| build(&compiler)).map_err(drop);
    let built = BUILT.get_or_init(|| compiler().map(attempt));
    if built.is_none() {
        skip(Need::CppCompiler, "no C++ compiler ($CXX, g++, clang++ or c++), so the CUDA emulator cannot be built");
    }
    let folder = |built: &'static Result<PathBuf, ()>| {
        built.as_deref().expect("the CUDA emulator cannot be built; the first test that needed it says why")
    };
    built.as_ref().map(folder)
}

/// Runs `body`, a closure written in a test function, in a child process whose CUDA libraries are the emulator, with
/// `settings` in its environment. Returns the child's stderr; None where the test is skipped, or in the child itself.
///
/// # Panics
/// Where the child's test fails.
pub fn on_emulator<F: FnOnce()>(settings: &[(&str, &str)], body: F) -> Option<String> {
    if std::env::var_os("CNN_CUDA_TEST_ON_EMULATOR").is_some() {
        body();
        return None;
    }
    let libraries = emulator()?;
    // "all::room::test::{{closure}}": the closure's type names the test, whatever the harness calls its threads.
    let name = std::any::type_name::<F>();
    let name = name.split_once("::").map_or(name, |(_, path)| path).trim_end_matches("::{{closure}}");
    let output = Command::new(std::env::current_exe().expect("the test binary has a path"))
        .args([name, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .env("LD_LIBRARY_PATH", library_path(libraries))
        .env("CNN_CUDA_TEST_ON_EMULATOR", "1")
        .env("CNN_CUDA_NVRTC", nvrtc(libraries))
        .envs(settings.iter().copied())
        .output()
        .expect("the test binary can be run again");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let passed = output.status.success() && stdout.contains("1 passed");
    assert!(passed, "{name} on the emulator: {}\n{stdout}\n{stderr}", output.status);
    Some(stderr)
}

/// The emulator's compiler, to stand in `CNN_CUDA_NVRTC`: a machine's own, in one of the usual places, must not win.
pub fn nvrtc(folder: &Path) -> PathBuf {
    std::path::absolute(folder).expect("the working directory is readable").join("libnvrtc.so.13")
}

/// `folder` before what the loader searches already.
pub fn library_path(folder: &Path) -> std::ffi::OsString {
    let absolute = std::path::absolute(folder).expect("the working directory is readable");
    let mut path = absolute.into_os_string();
    if let Some(rest) = std::env::var_os("LD_LIBRARY_PATH").filter(|rest| !rest.is_empty()) {
        path.push(":");
        path.push(rest);
    }
    path
}

fn compiler() -> Option<String> {
    let asked = std::env::var("CXX").ok().filter(|name| !name.is_empty());
    let names = asked.into_iter().chain(["g++", "clang++", "c++"].map(String::from));
    names.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success()))
}

fn build(compiler: &str) -> PathBuf {
    let root = Path::new("target/cuda_emulator");
    fs::create_dir_all(root).expect("target/ can be written");
    // Other test processes may want the same build: one makes it, the others wait.
    let lock = fs::File::create(root.join("lock")).expect("target/ can be written");
    lock.lock().expect("the build's lock can be taken");
    let finished = root.join(fingerprint(compiler));
    if finished.is_dir() {
        return finished;
    }
    let work = root.join("building");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).expect("target/ can be written");
    compile_all(compiler, &work);
    link_all(compiler, &work);
    for part in files(&work.to_string_lossy(), &["o", "cpp"]) {
        let _ = fs::remove_file(part);
    }
    fs::rename(&work, &finished).expect("the finished emulator can be put in its place");
    finished
}

/// Changes with the sources, the compiler and the processor (the code is made for the processor it runs on).
fn fingerprint(compiler: &str) -> String {
    let mut hash = Sha256::new();
    for file in files(KERNELS, &["cu", "cuh"]).iter().chain(&files(SOURCES, &["cu", "cpp", "h"])) {
        hash.update(file.to_string_lossy().as_bytes());
        hash.update(fs::read(file).expect("a source file is readable"));
    }
    hash.update(format!("{ALL:?}{FOR_KERNELS:?}{FOR_DRIVER:?}{FOR_PRODUCTS:?}{DRIVER:?}"));
    hash.update(Command::new(compiler).arg("--version").output().map(|o| o.stdout).unwrap_or_default());
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    for line in processor.lines().take_while(|line| !line.is_empty()) {
        if line.starts_with("model name") || line.starts_with("flags") || line.starts_with("Features") {
            hash.update(line);
        }
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The folder's files with one of these extensions, in order of their names.
fn files(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)));
    found.sort();
    found
}

/// Every kernel file twice, once per storage type, with the registration of its kernels; then the emulator itself.
fn compile_all(compiler: &str, work: &Path) {
    let mut jobs = Vec::new();
    for file in files(KERNELS, &["cu"]).into_iter().chain([PathBuf::from(SOURCES).join("planted.cu")]) {
        for (suffix, define) in [("f32", ""), ("f16", "#define REAL_F16\n")] {
            let source = work.join(format!("{}_{suffix}.cpp", stem(&file)));
            let shared = format!("#define EMULATOR_SHARED emulator_shared_{}_{suffix}\n", stem(&file));
            fs::write(&source, format!("{define}{shared}{}", registration(&file))).expect("target/ can be written");
            jobs.push((source, FOR_KERNELS));
        }
    }
    for name in DRIVER {
        jobs.push((PathBuf::from(SOURCES).join(format!("{name}.cpp")), FOR_DRIVER));
    }
    for name in ["gemm", "cublas", "cublaslt", "mma", "nvrtc"] {
        jobs.push((PathBuf::from(SOURCES).join(format!("{name}.cpp")), FOR_PRODUCTS));
    }
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                while let Some((source, flags)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let output = compile(compiler, flags, source, work);
                    if !output.status.success() {
                        failures.lock().unwrap().push(String::from_utf8_lossy(&output.stderr).into_owned());
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "the CUDA emulator does not compile:\n{}", failures.join("\n"));
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// C++ that includes the kernel file and registers every `KERNEL(name)` of it.
fn registration(file: &Path) -> String {
    let source = fs::read_to_string(file).expect("a kernel file is readable");
    let path = std::path::absolute(file).expect("the working directory is readable");
    let mut text = format!("#include \"{}\"\n#include \"registry.h\"\n", path.display());
    for line in source.lines() {
        if let Some((name, _)) = line.strip_prefix("KERNEL(").and_then(|rest| rest.split_once(')')) {
            text += &format!("REGISTER_KERNEL({name})\n");
        }
    }
    text
}

fn compile(compiler: &str, flags: &[&str], source: &Path, work: &Path) -> Output {
    let object = work.join(format!("{}.o", stem(source)));
    Command::new(compiler)
        .args(ALL)
        .args(flags)
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(object)
        .output()
        .expect("the compiler that answered --version runs")
}

fn link_all(compiler: &str, work: &Path) {
    let object = |name: &str| work.join(format!("{name}.o"));
    let apart = ["gemm", "cublas", "cublaslt", "nvrtc"].map(object);
    let driver: Vec<PathBuf> =
        files(&work.to_string_lossy(), &["o"]).into_iter().filter(|path| !apart.contains(path)).collect();
    link(compiler, work, ("libcuda.so", "1"), &driver);
    for (library, name) in [("libcublas.so", "cublas"), ("libcublasLt.so", "cublaslt")] {
        link(compiler, work, (library, "13"), &[object("gemm"), object(name), work.join("libcuda.so.1")]);
    }
    link(compiler, work, ("libnvrtc.so", "13"), &[object("nvrtc")]);
}

fn link(compiler: &str, work: &Path, (name, version): (&str, &str), inputs: &[PathBuf]) {
    let full = format!("{name}.{version}");
    let output = Command::new(compiler)
        .args(["-shared", "-pthread", "-Wl,--no-undefined", "-Wl,-rpath,$ORIGIN"])
        .arg(format!("-Wl,-soname,{full}"))
        .arg("-o")
        .arg(work.join(&full))
        .args(inputs)
        .output()
        .expect("the compiler that answered --version runs");
    assert!(output.status.success(), "{full} does not link:\n{}", String::from_utf8_lossy(&output.stderr));
    // Programs look for the plain name first; a machine's own library of that name must not win.
    std::os::unix::fs::symlink(&full, work.join(name)).expect("target/ can be written");
}
