//! What is compiled, and how: shared by the build script and by compilation at run time.

/// A kernel file compiled in one way, twice: for fp32 storage and for fp16.
pub struct Module {
    pub name: &'static str,
    /// Its file in `kernels/`, without the ending.
    pub file: &'static str,
    /// The lowest target that has all it uses. The driver compiles PTX of a lower target for any later device, so more targets
    /// than these would only make the program larger.
    pub target: u32,
    pub defines: &'static [&'static str],
}

/// The oldest device that has the instructions of the module `tensor`, which then takes the place of `implicit`.
pub const TENSOR_TARGET: u32 = 80;

pub const MODULES: &[Module] = &[
    plain("activation"),
    plain("bias"),
    plain("conv"),
    plain("direct"),
    plain("dropout"),
    plain("gather"),
    plain("grouped"),
    plain("implicit"),
    Module { name: "tensor", file: "implicit", target: TENSOR_TARGET, defines: &["-DENGINE_TENSOR"] },
    plain("join"),
    plain("loss"),
    plain("lrn"),
    plain("norm"),
    plain("optimizer"),
    plain("pool"),
];

/// For the oldest device.
const fn plain(name: &'static str) -> Module {
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
