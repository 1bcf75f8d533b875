//! The kernel modules, their compiler options and the devices that they are for, shared by the build script and
//! compilation at run time.

/// A kernel file.
pub struct Module {
    /// Its file in `kernels/`, without the extension.
    pub name: &'static str,
    /// What it is compiled for, in increasing order. A device loads the last that it can use; the first has what the
    /// kernels need with storage in `f32` and `f16`.
    targets: &'static [Target],
    /// The storage types that it is compiled for, as suffixes of kernel names.
    pub storages: &'static [&'static str],
    /// Whether it multiplies with tensor cores, which round fp32. It is then not loaded for fp32.
    pub tensor_cores: bool,
    /// The module that is not needed if this one is loaded.
    pub replaces: Option<&'static str>,
}

/// An architecture that PTX is compiled for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The compute capability, as 10·major + minor.
    pub capability: u32,
    /// Whether it has the instructions of that architecture alone, such as those of `sm_90a`. Such PTX runs on no later
    /// device; the driver compiles other PTX for any later one.
    pub specific: bool,
}

/// The first target whose kernels wait for the previous kernel before they access memory, as programmatic dependent
/// launch requires; `wait_for_previous_kernel` in `kernels/common.cuh`.
pub const DEPENDENT_LAUNCH: u32 = 90;

/// The first compute capability with instructions for bfloat16, as 10·major + minor.
pub const BFLOAT16: u32 = 80;

pub const MODULES: &[Module] = &[
    module("accumulate"),
    module("activation"),
    module("augment"),
    module("bias"),
    module("conv"),
    module("direct"),
    module("dropout"),
    module("gather"),
    module("grouped"),
    Module { storages: &["f32", "f16"], ..module("implicit") },
    module("join"),
    module("loss"),
    module("lrn"),
    module("mix"),
    Module { replaces: Some("implicit"), ..tensor_cores("multistage") },
    module("muon"),
    module("norm"),
    module("optimizer"),
    Module { storages: &["f16", "bf16"], ..warpgroups("patch") },
    module("pointwise"),
    module("pool"),
    tensor_cores("thin"),
    module("views"),
    warpgroups("warpgroup"),
];

/// A module for all devices and precisions.
const fn module(name: &'static str) -> Module {
    let targets = const { &[Target::since(75), Target::since(DEPENDENT_LAUNCH)] };
    Module { name, targets, storages: &["f32", "f16", "bf16"], tensor_cores: false, replaces: None }
}

/// A module that uses the tensor cores and asynchronous copies of compute_80.
const fn tensor_cores(name: &'static str) -> Module {
    let targets = const { &[Target::since(80), Target::since(DEPENDENT_LAUNCH)] };
    Module { targets, tensor_cores: true, ..module(name) }
}

/// A module that uses the products of warpgroups, which only compute_90a has.
const fn warpgroups(name: &'static str) -> Module {
    let targets = &[Target { capability: 90, specific: true }];
    Module { targets, tensor_cores: true, ..module(name) }
}

impl Target {
    const fn since(capability: u32) -> Self {
        Self { capability, specific: false }
    }

    /// Its name, as in `sm_75` or `sm_90a`, without the prefix.
    pub fn name(self) -> String {
        format!("{}{}", self.capability, if self.specific { "a" } else { "" })
    }

    /// Whether a device of a compute capability runs such PTX.
    pub fn runs_on(self, capability: u32) -> bool {
        if self.specific { self.capability == capability } else { self.capability <= capability }
    }

    /// NVRTC's options for one storage type, `f32`, `f16` or `bf16`.
    pub fn options(self, storage: &str) -> Vec<String> {
        let mut options = vec![format!("--gpu-architecture=compute_{}", self.name()), "--std=c++17".into()];
        if storage != "f32" {
            options.push(format!("-DREAL_{}", storage.to_uppercase()));
        }
        options
    }
}

impl Module {
    /// What it is compiled for with a storage type, in increasing order.
    pub fn targets(&self, storage: &str) -> impl DoubleEndedIterator<Item = Target> {
        let first = if storage == "bf16" { BFLOAT16 } else { 0 };
        self.targets.iter().map(move |target| Target { capability: target.capability.max(first), ..*target })
    }

    /// What a device of a compute capability loads; `None` if it cannot use the module.
    pub fn target_for(&self, capability: u32, storage: &str) -> Option<Target> {
        self.targets(storage).rfind(|target| target.runs_on(capability))
    }
}

/// The modules that a device loads for a storage type, each with its target, by the device's compute capability and
/// whether the precision allows tensor cores.
pub fn modules_for(capability: u32, storage: &str, tensor_cores: bool) -> Vec<(&'static Module, Target)> {
    let usable = |module: &'static Module| {
        let fits = module.storages.contains(&storage) && (tensor_cores || !module.tensor_cores);
        fits.then_some((module, module.target_for(capability, storage)?))
    };
    let modules: Vec<(&Module, Target)> = MODULES.iter().filter_map(usable).collect();
    let is_replaced = |module: &Module| modules.iter().any(|(other, _)| other.replaces == Some(module.name));
    modules.iter().copied().filter(|(module, _)| !is_replaced(module)).collect()
}
