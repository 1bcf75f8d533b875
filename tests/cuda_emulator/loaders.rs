//! Modules and NVRTC: what a driver refuses to load, and what a compiler refuses to compile.

use cudarc::driver::sys::CUresult;
use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx, compile_ptx_with_opts};

use super::device::{Device, image};
use crate::support::emulator::on_emulator;

fn refusal(device: &Device, ptx: String) -> CUresult {
    device.context.load_module(Ptx::from_src(ptx)).expect_err("the image is refused").0
}

#[test]
fn refuses_images_that_a_driver_would() {
    on_emulator(&[("CUDA_EMULATOR_CC", "8.0"), ("CUDA_EMULATOR_DRIVER", "12080")], || {
        let device = Device::new();
        let good = image(&["sgd_f32"]);
        device.context.load_module(Ptx::from_src(good.clone())).unwrap();
        assert_eq!(refusal(&device, good.replace("sm_75", "sm_90")), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        assert_eq!(refusal(&device, good.replace("8.7", "8.8")), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
        assert_eq!(refusal(&device, "no PTX".into()), CUresult::CUDA_ERROR_INVALID_PTX);
    });
}

#[test]
fn finds_a_kernel_only_where_image_and_host_have_it() {
    on_emulator(&[], || {
        let device = Device::new();
        let module = device.context.load_module(Ptx::from_src(image(&["sgd_f32", "no_such_kernel_f32"]))).unwrap();
        module.load_function("sgd_f32").unwrap();
        for name in ["no_such_kernel_f32", "sgd_f16", "sgd"] {
            assert_eq!(module.load_function(name).unwrap_err().0, CUresult::CUDA_ERROR_NOT_FOUND, "{name}");
        }
    });
}

#[test]
fn compiles_the_kernels() {
    on_emulator(&[], || {
        let device = Device::new();
        for (define, suffix) in [(None, "f32"), (Some("-DREAL_F16"), "f16")] {
            let options = CompileOptions {
                include_paths: vec!["kernels".into()],
                options: define.map(String::from).into_iter().collect(),
                ..Default::default()
            };
            let source = std::fs::read_to_string("kernels/pool.cu").unwrap();
            let ptx = compile_ptx_with_opts(source, options).unwrap();
            let module = device.context.load_module(ptx).unwrap();
            module.load_function(&format!("max_pool_forward_{suffix}")).unwrap();
        }
    });
}

#[test]
fn refuses_what_does_not_compile() {
    on_emulator(&[], || {
        let good = "extern \"C\" __global__ void kernel(float* x) { x[0] = 1.0f; }";
        compile_ptx(good).unwrap();
        let bad = [
            "extern \"C\" __global__ void kernel(",
            "int no_kernel() { return 1; }",
            "#include \"missing.cuh\"\nextern \"C\" __global__ void kernel() {}",
        ];
        for source in bad {
            assert!(compile_ptx(source).is_err(), "{source}");
        }
    });
}
