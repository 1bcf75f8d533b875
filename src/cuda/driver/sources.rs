//! The kernel modules and their compiler options, shared by the build script and compilation at run time.

/// A kernel file with one set of options. It is compiled twice: for fp32 and for fp16 storage.
pub struct Module {
    pub name: &'static str,
    /// Its file in `kernels/`, without the extension.
    pub file: &'static str,
    /// The lowest compute capability that has every instruction it uses. The driver compiles its PTX for any later
    /// device, so more targets would only make the program larger.
    pub target: u32,
    pub defines: &'static [&'static str],
}

/// The lowest compute capability for the module `tensor`, which replaces `implicit` on such devices.
pub const TENSOR_TARGET: u32 = 80;

pub const MODULES: &[Module] = &[
    module("activation"),
    module("bias"),
    module("conv"),
    module("direct"),
    module("dropout"),
    module("gather"),
    module("grouped"),
    module("implicit"),
    Module { name: "tensor", file: "implicit", target: TENSOR_TARGET, defines: &["-DENGINE_TENSOR"] },
    module("join"),
    module("loss"),
    module("lrn"),
    module("norm"),
    module("optimizer"),
    module("pool"),
];

/// A module for the oldest supported device.
const fn module(name: &'static str) -> Module {
    Module { name, file: name, target: 75, defines: &[] }
}

impl Module {
    /// NVRTC's options for one storage type, `f32` or `f16`.
    pub fn options(&self, storage: &str) -> Vec<String> {
        let mut options = vec![format!("--gpu-architecture=compute_{}", self.target), "--std=c++17".into()];
        options.extend(self.defines.iter().map(|define| (*define).to_string()));
        if storage == "f16" {
            options.push("-DREAL_F16".into());
        }
        options
    }
}
