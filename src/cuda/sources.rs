//! What is compiled, and how: shared by the build script and by compilation at run time.

/// Kernel files by the lowest target that has all they use. The driver compiles PTX of a lower target for any later
/// device, so more targets than these would only make the program larger.
pub const TARGETS: &[(&str, u32)] = &[
    ("activation", 75),
    ("bias", 75),
    ("conv", 75),
    ("direct", 75),
    ("dropout", 75),
    ("gather", 75),
    ("grouped", 75),
    ("implicit", 75),
    ("join", 75),
    ("loss", 75),
    ("lrn", 75),
    ("norm", 75),
    ("optimizer", 75),
    ("pool", 75),
    ("tensor", 80),
];

/// NVRTC's options for one file.
pub fn options(target: u32, storage: &str) -> Vec<String> {
    let mut options = vec![format!("--gpu-architecture=compute_{target}"), "--std=c++17".into()];
    if storage == "f16" {
        options.push("-DREAL_F16".into());
    }
    options
}
