//! Builds the CUDA emulator once for each version of its sources, with and without race checks in the kernels.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use super::sources::MODULES;

const KERNELS: &str = "kernels";
const SOURCES: &str = "tools/cuda-emulator";
/// Kernels with planted faults.
const PLANTED: &str = "tests/cuda_emulator";

const ALL: &[&str] = &[
    "-std=gnu++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-U_FORTIFY_SOURCE",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-DCNN_CUDA_EMULATOR",
    "-Itools/cuda-emulator",
    "-Ikernels",
    "-pthread",
];
/// Kernels read the same bytes as different types, which CUDA allows. Alignment and array bounds are checked.
const FOR_KERNELS: &[&str] =
    &["-O2", "-march=native", "-fno-strict-aliasing", "-fsanitize=alignment,bounds", "-fno-sanitize-recover=all"];
/// The compiler calls a function of the emulator for every access, instead of one of its own runtime library.
const FOR_RACES: &[&str] = &["-fsanitize=thread", "-g1"];
const FOR_DRIVER: &[&str] = &["-O2"];
const FOR_PRODUCTS: &[&str] = &["-O3", "-march=native"];

const DRIVER: &[&str] = &[
    "block",
    "capture",
    "copies",
    "copy",
    "dependent",
    "device",
    "event",
    "faults",
    "fiber",
    "graph",
    "launch",
    "matrices",
    "memory",
    "module",
    "products",
    "queue",
    "race_fences",
    "race_order",
    "race_report",
    "races",
    "settings",
    "shared",
    "stream",
    "unsupported",
];

/// Sources of the driver that multiply matrices.
const DRIVER_PRODUCTS: &[&str] = &["mma", "wgmma"];

/// Sources of the libraries other than the driver.
const OTHER_LIBRARIES: [&str; 6] = ["gemm", "cublas", "cublaslt", "convolution", "cudnn", "nvrtc"];

/// The file names of the libraries other than the driver, and their versions.
const OTHER_FILES: [(&str, &str); 4] =
    [("libcublas.so", "13"), ("libcublasLt.so", "13"), ("libcudnn.so", "9"), ("libnvrtc.so", "13")];

pub fn compiler() -> Option<String> {
    let from_environment = std::env::var("CXX").ok().filter(|name| !name.is_empty());
    let names = from_environment.into_iter().chain(["g++", "clang++", "c++"].map(String::from));
    names.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success()))
}

/// Builds the libraries unless they are up to date, and returns their folder.
pub fn build(compiler: &str, races: bool) -> PathBuf {
    let root = Path::new("target/cuda_emulator");
    fs::create_dir_all(root).expect("target/ can be written");
    // If several test processes need the same build, one runs it and the others wait.
    let lock = fs::File::create(root.join("lock")).expect("target/ can be written");
    lock.lock().expect("the build's lock can be taken");
    let finished = root.join(fingerprint(compiler));
    if !finished.is_dir() {
        let work = create_work_folder(root);
        compile_all(compiler, [kernels(&work, &[], |_| true), others()].concat(), &work);
        link_all(compiler, &work);
        publish(&work, &finished);
    }
    let checked = finished.with_extension("races");
    if races && !checked.is_dir() {
        let work = create_work_folder(root);
        // In bf16, kernels differ from those in fp16 by conversions of single values only.
        compile_all(compiler, kernels(&work, &race_flags(compiler), |storage| storage != "bf16"), &work);
        link_checked(compiler, &finished, &work);
        publish(&work, &checked);
    }
    if races { checked } else { finished }
}

fn create_work_folder(root: &Path) -> PathBuf {
    let work = root.join("building");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).expect("target/ can be written");
    work
}

/// Moves a finished build to its final folder, without the kernels' generated sources and object files.
fn publish(work: &Path, finished: &Path) {
    for source in files(&work.to_string_lossy(), &["cpp"]) {
        let _ = fs::remove_file(source.with_extension("o"));
        let _ = fs::remove_file(source);
    }
    fs::rename(work, finished).expect("the finished emulator can be moved to its folder");
}

/// The option that distinguishes volatile accesses has a different name in each compiler.
fn race_flags(compiler: &str) -> Vec<&'static str> {
    let version = Command::new(compiler).arg("--version").output().map(|o| o.stdout).unwrap_or_default();
    let clang = String::from_utf8_lossy(&version).contains("clang");
    let volatile =
        if clang { ["-mllvm", "-tsan-distinguish-volatile=1"] } else { ["--param", "tsan-distinguish-volatile=1"] };
    [FOR_RACES, &volatile].concat()
}

/// A hash of the sources, the compiler and the processor, for which the code is compiled.
fn fingerprint(compiler: &str) -> String {
    let mut hash = Sha256::new();
    for file in [files(KERNELS, &["cu", "cuh"]), files(PLANTED, &["cu"]), files(SOURCES, &["cpp", "h"])].concat() {
        hash.update(file.to_string_lossy().as_bytes());
        hash.update(fs::read(&file).expect("a source file is readable"));
    }
    MODULES.iter().for_each(|module| hash.update(format!("{}{:?}", module.name, module.storages)));
    hash.update(format!(
        "{ALL:?}{FOR_KERNELS:?}{FOR_RACES:?}{FOR_DRIVER:?}{FOR_PRODUCTS:?}{DRIVER:?}{DRIVER_PRODUCTS:?}"
    ));
    hash.update(Command::new(compiler).arg("--version").output().map(|o| o.stdout).unwrap_or_default());
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    for line in processor.lines().take_while(|line| !line.is_empty()) {
        if line.starts_with("model name") || line.starts_with("flags") || line.starts_with("Features") {
            hash.update(line);
        }
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The folder's files with one of these extensions, sorted by name.
fn files(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)));
    found.sort();
    found
}

/// A source file and its compiler flags.
type Job = (PathBuf, Vec<&'static str>);

/// Every module and the kernels of the emulator's tests, once per storage type, with code that registers their kernels.
/// `is_built` chooses the storage types of the modules.
fn kernels(work: &Path, more_flags: &[&'static str], is_built: fn(&str) -> bool) -> Vec<Job> {
    let modules = MODULES.iter().flat_map(|it| it.storages.iter().map(|storage| (it.name, *storage)));
    let modules = modules.filter(|(_, storage)| is_built(storage));
    let modules = modules.map(|(name, storage)| (format!("{KERNELS}/{name}.cu").into(), storage));
    let planted = files(PLANTED, &["cu"]).into_iter();
    let planted = planted.flat_map(|file| ["f32", "f16", "bf16"].map(|storage| (file.clone(), storage)));
    let job = |(file, storage): (PathBuf, &str)| {
        let name = format!("{}_{storage}", stem(&file));
        let source = work.join(format!("{name}.cpp"));
        let define =
            if storage == "f32" { String::new() } else { format!("#define REAL_{}\n", storage.to_uppercase()) };
        let shared = format!("#define EMULATOR_SHARED emulator_shared_{name}\n");
        fs::write(&source, format!("{define}{shared}{}", registration(&file))).expect("target/ can be written");
        (source, [FOR_KERNELS, more_flags].concat())
    };
    modules.chain(planted).map(job).collect()
}

/// The emulator's own sources.
fn others() -> Vec<Job> {
    let job = |name: &&str, flags: &[&'static str]| (Path::new(SOURCES).join(format!("{name}.cpp")), flags.to_vec());
    let driver = DRIVER.iter().map(|name| job(name, FOR_DRIVER));
    driver.chain(OTHER_LIBRARIES.iter().chain(DRIVER_PRODUCTS).map(|name| job(name, FOR_PRODUCTS))).collect()
}

fn compile_all(compiler: &str, jobs: Vec<Job>, work: &Path) {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
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

/// C++ that includes the kernel file and registers every `KERNEL(name, …)` in it, which names the kernel, its parameters,
/// and the threads of a block if they are not the usual number. Its anonymous namespace keeps the
/// linker from merging definitions of a header, which differ by storage type.
fn registration(file: &Path) -> String {
    let source = fs::read_to_string(file).expect("a kernel file is readable");
    let path = std::path::absolute(file).expect("the working directory is readable");
    let mut text =
        format!("#include \"registry.h\"\n#include \"cuda_device.h\"\nnamespace {{\n#include \"{}\"\n", path.display());
    for line in source.lines() {
        if let Some((arguments, _)) = line.strip_prefix("KERNEL(").and_then(|rest| rest.split_once(')')) {
            let mut arguments = arguments.split(", ");
            let (name, threads) = (arguments.next().unwrap_or_default(), arguments.nth(1).unwrap_or("BLOCK"));
            text += &format!("REGISTER_KERNEL({name}, {threads})\n");
        }
    }
    text + "}\n"
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
    let others = OTHER_LIBRARIES.map(object);
    let driver: Vec<PathBuf> =
        files(&work.to_string_lossy(), &["o"]).into_iter().filter(|path| !others.contains(path)).collect();
    link(compiler, work, ("libcuda.so", "1"), &driver);
    let sources: [&[&str]; 4] =
        [&["gemm", "cublas"], &["gemm", "cublaslt"], &["gemm", "convolution", "cudnn"], &["nvrtc"]];
    for (library, sources) in OTHER_FILES.into_iter().zip(sources) {
        let objects = sources.iter().map(|name| object(name)).chain([work.join("libcuda.so.1")]);
        link(compiler, work, library, &objects.collect::<Vec<_>>());
    }
}

/// Links the race-checked kernels with the driver of a finished build, and copies its other libraries.
fn link_checked(compiler: &str, finished: &Path, work: &Path) {
    let driver = DRIVER.iter().chain(DRIVER_PRODUCTS).map(|name| finished.join(format!("{name}.o")));
    let parts: Vec<PathBuf> = files(&work.to_string_lossy(), &["o"]).into_iter().chain(driver).collect();
    link(compiler, work, ("libcuda.so", "1"), &parts);
    for (name, version) in OTHER_FILES {
        let full = format!("{name}.{version}");
        fs::copy(finished.join(&full), work.join(&full)).expect("target/ can be written");
        link_plain_name(work, name, &full);
    }
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
    link_plain_name(work, name, &full);
}

/// Programs look for the unversioned name first. Without it, they could find an installed library.
fn link_plain_name(work: &Path, name: &str, full: &str) {
    std::os::unix::fs::symlink(full, work.join(name)).expect("target/ can be written");
}
