//! Kernels compiled on this machine, where the build had no NVRTC, and kept on disk.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Once, OnceLock};

use anyhow::{Context, Result, anyhow};
use tracing::{debug, info};

use super::libraries;
use super::nvrtc::Nvrtc;
use super::sources::Module;
use crate::files::write_atomically;
use crate::rng::fingerprint;

/// PTX of one module, from the cache or from NVRTC.
///
/// # Errors
/// Where there is no NVRTC on this machine, or the file does not compile.
pub(in crate::cuda) fn at_run_time(
    module: &Module,
    source: &str,
    headers: &[(&str, &str)],
    storage: &str,
) -> Result<String> {
    let nvrtc = nvrtc()?;
    let (name, options) = (module.name, module.options(storage));
    let mut parts = vec![source.to_string(), options.join(" "), format!("{:?}", nvrtc.version)];
    parts.extend(headers.iter().map(|(_, text)| (*text).to_string()));
    let key = fingerprint(parts.iter().map(String::as_bytes));
    let cached = cache_folder().map(|folder| folder.join(format!("{name}-{storage}-{key:016x}.ptx")));
    // A file that is cut or empty is compiled again.
    let whole = |ptx: &String| ptx.contains(".visible .entry") && ptx.trim_end_matches(['\0', '\n']).ends_with('}');
    if let Some(ptx) = cached.as_ref().and_then(|path| fs::read_to_string(path).ok()).filter(whole) {
        return Ok(ptx);
    }
    static TOLD: Once = Once::new();
    TOLD.call_once(|| info!("compiling CUDA kernels with NVRTC {}.{}", nvrtc.version.0, nvrtc.version.1));
    debug!("compiling kernels/{}.cu for {storage}", module.file);
    let ptx = nvrtc
        .compile((&format!("kernels/{}.cu", module.file), source), headers, &options)
        .map_err(|log| anyhow!("a CUDA kernel does not compile here:\n{log}"))?;
    if let Some(path) = cached {
        keep(&path, &ptx);
    }
    Ok(ptx)
}

fn nvrtc() -> Result<&'static Nvrtc> {
    static NVRTC: OnceLock<Option<Nvrtc>> = OnceLock::new();
    let open = || {
        let paths = libraries::candidates("nvrtc", "CNN_CUDA_NVRTC");
        // A driver refuses PTX of a compiler that is newer than itself.
        let driver = super::probe::driver_version().unwrap_or((i32::MAX, 0));
        paths.iter().filter_map(|path| Nvrtc::open(path).ok()).find(|nvrtc| nvrtc.version <= driver)
    };
    NVRTC.get_or_init(open).as_ref().context(
        "the kernels must be compiled here, but no NVRTC (libnvrtc.so) was found that is not newer than the driver; \
         install the CUDA toolkit or the Python wheel nvidia-cuda-nvrtc-cu12, and name it in CNN_CUDA_NVRTC where it \
         is in an unusual place",
    )
}

/// Writes a file of the cache. One that cannot be written is made again next time, no more.
pub(in crate::cuda) fn keep(path: &Path, text: &str) {
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all).map_err(anyhow::Error::from);
    if let Err(error) = folder.and_then(|()| write_atomically(path, |writer| Ok(writer.write_all(text.as_bytes())?))) {
        debug!("{} is not kept: {error:#}", path.display());
    }
}

/// Where this program keeps what it can make again.
pub(in crate::cuda) fn cache_folder() -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("cnn-cuda"))
}
