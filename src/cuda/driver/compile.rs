//! Compiles kernels at run time, if the build had no NVRTC or its PTX is too new for the driver, and caches them on
//! disk.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Once, OnceLock};

use anyhow::{Context, Result, anyhow};
use tracing::{debug, info};

use super::libraries;
use super::nvrtc::Nvrtc;
use super::sources::{Module, Target};
use crate::files::write_atomically;
use crate::rng::fingerprint;

/// The PTX of one module for a target, from the cache or from NVRTC.
///
/// # Errors
/// If no usable NVRTC is found, or the file does not compile.
pub(in crate::cuda) fn at_run_time(
    module: &Module,
    target: Target,
    source: &str,
    headers: &[(&str, &str)],
    storage: &str,
) -> Result<String> {
    let nvrtc = nvrtc()?;
    let (name, options) = (module.name, target.options(storage));
    let mut parts = vec![source.to_string(), options.join(" "), format!("{:?}", nvrtc.version)];
    parts.extend(headers.iter().map(|(_, text)| (*text).to_string()));
    let key = fingerprint(parts.iter().map(String::as_bytes));
    let cached = cache_folder().map(|folder| folder.join(format!("{name}-{storage}-{key:016x}.ptx")));
    // Compile again if the cached file is empty or truncated.
    let whole = |ptx: &String| ptx.contains(".visible .entry") && ptx.trim_end_matches(['\0', '\n']).ends_with('}');
    if let Some(ptx) = cached.as_ref().and_then(|path| fs::read_to_string(path).ok()).filter(whole) {
        return Ok(ptx);
    }
    static LOGGED: Once = Once::new();
    LOGGED.call_once(|| info!("compiling CUDA kernels with NVRTC {}.{}", nvrtc.version.0, nvrtc.version.1));
    debug!("compiling kernels/{name}.cu for {storage} and compute_{}", target.name());
    let ptx = nvrtc
        .compile((&format!("kernels/{name}.cu"), source), headers, &options)
        .map_err(|log| anyhow!("a CUDA kernel failed to compile:\n{log}"))?;
    if let Some(path) = cached {
        write_to_cache(&path, &ptx);
    }
    Ok(ptx)
}

fn nvrtc() -> Result<&'static Nvrtc> {
    static NVRTC: OnceLock<Option<Nvrtc>> = OnceLock::new();
    let open = || {
        let paths = libraries::candidates("nvrtc", "CNN_CUDA_NVRTC", libraries::CUDA_SUFFIXES);
        // A driver rejects PTX from a newer compiler.
        let driver = super::probe::driver_version().unwrap_or((i32::MAX, 0));
        paths.iter().filter_map(|path| Nvrtc::open(path).ok()).find(|nvrtc| nvrtc.version <= driver)
    };
    NVRTC.get_or_init(open).as_ref().context(
        "the kernels must be compiled on this machine, but no NVRTC (libnvrtc.so) was found that is not newer than the \
         driver; install the CUDA toolkit or the Python wheel nvidia-cuda-nvrtc-cu12, and set CNN_CUDA_NVRTC to its path \
         if it is in an unusual place",
    )
}

/// Writes a file of the cache. A failure is only logged: the next start computes the contents again.
pub(in crate::cuda) fn write_to_cache(path: &Path, text: &str) {
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all).map_err(anyhow::Error::from);
    if let Err(error) = folder.and_then(|()| write_atomically(path, |writer| Ok(writer.write_all(text.as_bytes())?))) {
        debug!("cannot write {} to the cache: {error:#}", path.display());
    }
}

/// The folder of this program's cache files.
pub(in crate::cuda) fn cache_folder() -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("cnn-cuda"))
}
