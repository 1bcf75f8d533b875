//! The kernel modules, their compiler options and the devices that they are for, shared by the build script and
//! compilation at run time.

use std::ops::RangeInclusive;

/// A kernel file.
pub struct Module {
    /// Its file in `kernels/`, without the extension.
    pub name: &'static str,
    /// The compute capabilities of the devices that load it, as 10·major + minor. It is compiled for the lowest: the
    /// driver compiles its PTX for any later device, so more targets would only make the program larger.
    pub capabilities: RangeInclusive<u32>,
    /// `a` if it uses instructions of an architecture alone, such as `sm_90a`; such PTX runs on no later device.
    pub feature: &'static str,
    /// The storage types that it is compiled for, as suffixes of kernel names.
    pub storages: &'static [&'static str],
    /// Whether it multiplies with tensor cores, which round fp32. It is then loaded only for tf32 and fp16.
    pub tensor_cores: bool,
    /// The module that is not needed if this one is loaded.
    pub replaces: Option<&'static str>,
}

pub const MODULES: &[Module] = &[
    module("activation"),
    module("bias"),
    module("conv"),
    module("direct"),
    module("dropout"),
    module("gather"),
    module("grouped"),
    module("implicit"),
    module("join"),
    module("loss"),
    module("lrn"),
    Module { replaces: Some("implicit"), ..tensor_cores("multistage") },
    module("norm"),
    module("optimizer"),
    Module { storages: &["f16"], ..warpgroups("patch") },
    module("pool"),
    tensor_cores("thin"),
    warpgroups("warpgroup"),
];

/// A module for all devices and precisions.
const fn module(name: &'static str) -> Module {
    let storages = &["f32", "f16"];
    Module { name, capabilities: 75..=u32::MAX, feature: "", storages, tensor_cores: false, replaces: None }
}

/// A module that uses the tensor cores and asynchronous copies of compute_80.
const fn tensor_cores(name: &'static str) -> Module {
    Module { capabilities: 80..=u32::MAX, tensor_cores: true, ..module(name) }
}

/// A module that uses the products of warpgroups, which only compute_90a has.
const fn warpgroups(name: &'static str) -> Module {
    Module { capabilities: 90..=90, feature: "a", tensor_cores: true, ..module(name) }
}

impl Module {
    /// The architecture that it is compiled for, as in `sm_75`, without the prefix.
    pub fn architecture(&self) -> String {
        format!("{}{}", self.capabilities.start(), self.feature)
    }

    /// NVRTC's options for one storage type, `f32` or `f16`.
    pub fn options(&self, storage: &str) -> Vec<String> {
        let mut options = vec![format!("--gpu-architecture=compute_{}", self.architecture()), "--std=c++17".into()];
        if storage == "f16" {
            options.push("-DREAL_F16".into());
        }
        options
    }
}

/// The modules that a device loads for a storage type, by its compute capability and whether the precision allows tensor
/// cores.
pub fn modules_for(capability: u32, storage: &str, tensor_cores: bool) -> Vec<&'static Module> {
    let is_for = |module: &&Module| {
        module.capabilities.contains(&capability)
            && module.storages.contains(&storage)
            && (tensor_cores || !module.tensor_cores)
    };
    let modules: Vec<&Module> = MODULES.iter().filter(is_for).collect();
    let is_replaced = |module: &Module| modules.iter().any(|other| other.replaces == Some(module.name));
    modules.iter().copied().filter(|module| !is_replaced(module)).collect()
}
