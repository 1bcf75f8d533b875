//! The kernel modules, their compiler options and the devices that they are for, shared by the build script and
//! compilation at run time.

use std::ops::RangeInclusive;

/// A kernel file with one set of options. It is compiled twice: for fp32 and for fp16 storage.
pub struct Module {
    pub name: &'static str,
    /// Its file in `kernels/`, without the extension.
    pub file: &'static str,
    /// The compute capabilities of the devices that load it, as 10·major + minor. It is compiled for the lowest: the
    /// driver compiles its PTX for any later device, so more targets would only make the program larger.
    pub capabilities: RangeInclusive<u32>,
    /// `a` if it uses instructions of an architecture alone, such as `sm_90a`; such PTX runs on no later device.
    pub feature: &'static str,
    /// Whether it multiplies with tensor cores, which round fp32. It is then loaded only for tf32 and fp16.
    pub tensor_cores: bool,
    /// The module with kernels of the same names that is not loaded if this one is.
    pub replaces: Option<&'static str>,
    pub defines: &'static [&'static str],
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
    Module {
        name: "tensor",
        capabilities: 80..=u32::MAX,
        tensor_cores: true,
        replaces: Some("implicit"),
        defines: &["-DENGINE_TENSOR"],
        ..module("implicit")
    },
    module("join"),
    module("loss"),
    module("lrn"),
    module("norm"),
    module("optimizer"),
    module("pool"),
];

/// A module for all devices and precisions.
const fn module(name: &'static str) -> Module {
    Module {
        name,
        file: name,
        capabilities: 75..=u32::MAX,
        feature: "",
        tensor_cores: false,
        replaces: None,
        defines: &[],
    }
}

impl Module {
    /// The architecture that it is compiled for, as in `sm_75`, without the prefix.
    pub fn architecture(&self) -> String {
        format!("{}{}", self.capabilities.start(), self.feature)
    }

    /// NVRTC's options for one storage type, `f32` or `f16`.
    pub fn options(&self, storage: &str) -> Vec<String> {
        let mut options = vec![format!("--gpu-architecture=compute_{}", self.architecture()), "--std=c++17".into()];
        options.extend(self.defines.iter().map(|define| (*define).to_string()));
        if storage == "f16" {
            options.push("-DREAL_F16".into());
        }
        options
    }
}

/// The modules that a device loads, by its compute capability and whether the precision allows tensor cores.
pub fn modules_for(capability: u32, tensor_cores: bool) -> Vec<&'static Module> {
    let is_for = |module: &&Module| module.capabilities.contains(&capability) && (tensor_cores || !module.tensor_cores);
    let modules: Vec<&Module> = MODULES.iter().filter(is_for).collect();
    let is_replaced = |module: &Module| modules.iter().any(|other| other.replaces == Some(module.name));
    modules.iter().copied().filter(|module| !is_replaced(module)).collect()
}
