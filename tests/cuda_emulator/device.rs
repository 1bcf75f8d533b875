//! A test device: one stream, kernels by name, and short calls to upload, launch and download.

use std::sync::Arc;

use cudarc::driver::sys::CUfunction_attribute;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError, LaunchConfig, ValidAsZeroBits,
};

pub struct Device {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    target: &'static str,
    /// Dynamic shared memory that kernels may use, in bytes; `None` for the driver's default.
    shared: Option<i32>,
}

/// PTX that loads as a module with these kernels.
pub fn image(kernels: &[&str]) -> String {
    image_for("sm_75", kernels)
}

/// The same with another PTX target.
fn image_for(target: &str, kernels: &[&str]) -> String {
    let entries: String = kernels.iter().map(|name| format!(".visible .entry {name}(){{ret;}}\n")).collect();
    format!(".version 8.7\n.target {target}\n.address_size 64\n{entries}")
}

/// `blocks` blocks of 256 threads.
pub fn blocks(blocks: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 }
}

impl Device {
    /// Like the program: one stream, no event tracking.
    pub fn new() -> Self {
        let context = CudaContext::new(0).expect("the emulator has a device");
        // SAFETY: there is only one stream, so no events are needed.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        Self { context, stream, target: "sm_75", shared: None }
    }

    /// Loads kernels from modules for another PTX target.
    pub fn with_target(self, target: &'static str) -> Self {
        Self { target, ..self }
    }

    /// Lets kernels use this much dynamic shared memory, in bytes.
    pub fn with_shared(self, bytes: i32) -> Self {
        Self { shared: Some(bytes), ..self }
    }

    pub fn kernel(&self, name: &str) -> CudaFunction {
        let module = self.context.load_module(cudarc::nvrtc::Ptx::from_src(image_for(self.target, &[name]))).unwrap();
        let function = module.load_function(name).unwrap();
        if let Some(bytes) = self.shared {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, bytes).unwrap();
        }
        function
    }

    pub fn upload<T: DeviceRepr>(&self, values: &[T]) -> CudaSlice<T> {
        self.stream.clone_htod(values).unwrap()
    }

    /// Uninitialised memory, which the emulator fills with NaN.
    pub fn poisoned<T: DeviceRepr>(&self, count: usize) -> CudaSlice<T> {
        // SAFETY: kernels write the memory before it is read, unless the test is about uninitialised reads.
        unsafe { self.stream.alloc(count) }.unwrap()
    }

    pub fn download<T: DeviceRepr + Clone + Default + ValidAsZeroBits>(&self, slice: &CudaSlice<T>) -> Vec<T> {
        self.stream.clone_dtoh(slice).unwrap()
    }

    pub fn wait(&self) -> Result<(), DriverError> {
        self.stream.synchronize()
    }
}

/// A field of a kernel's parameter struct.
pub trait Field {
    fn bytes(&self) -> Vec<u8>;
}

impl<T> Field for CudaSlice<T> {
    fn bytes(&self) -> Vec<u8> {
        self.device_ptr(self.stream()).0.to_le_bytes().to_vec()
    }
}

macro_rules! number_fields {
    ($($number:ty),+) => {
        $(impl Field for $number {
            fn bytes(&self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
        })+
    };
}
number_fields!(u32, u64, f32);

impl<const N: usize> Field for [u32; N] {
    fn bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// Launches `function` on `stream` with a parameter struct of these fields.
pub fn queue(
    stream: &CudaStream,
    function: &CudaFunction,
    config: LaunchConfig,
    fields: &[&dyn Field],
) -> Result<(), DriverError> {
    let bytes: Vec<u8> = fields.iter().flat_map(|field| field.bytes()).collect();
    let words = bytes.chunks(8).map(|chunk| chunk.iter().rev().fold(0_u64, |word, &byte| word << 8 | u64::from(byte)));
    // The padding is not a valid device pointer, so that a struct that is too short shows.
    let mut words: Vec<u64> = words.chain([1; 16]).collect();
    let (grid, block, shared) = (config.grid_dim, config.block_dim, config.shared_mem_bytes);
    let mut parameters = [words.as_mut_ptr().cast()];
    // SAFETY: the fields match the kernel's struct, which is what the tests check.
    unsafe {
        let (function, stream) = (function.cu_function(), stream.cu_stream());
        cudarc::driver::result::launch_kernel(function, grid, block, shared, stream, &mut parameters)
    }
}

/// Launches the kernel `name` with a parameter struct of these fields, and waits for it.
macro_rules! launch {
    ($device:expr, $name:expr, $config:expr, $($field:expr),+ $(,)?) => {{
        let (function, fields) =
            ($device.kernel($name), [$($field as &dyn $crate::cuda_emulator::device::Field),+]);
        $crate::cuda_emulator::device::queue(&$device.stream, &function, $config, &fields).and_then(|()| $device.wait())
    }};
}
pub(crate) use launch;

/// Like `launch!`, for the planted kernels, whose parameters are not a struct.
macro_rules! launch_planted {
    ($device:expr, $name:expr, $config:expr, $($argument:expr),+ $(,)?) => {{
        let function = $device.kernel($name);
        let mut builder = $device.stream.launch_builder(&function);
        $(cudarc::driver::PushKernelArg::arg(&mut builder, $argument);)+
        // SAFETY: the arguments match the kernel's parameters.
        unsafe { builder.launch($config) }.and_then(|_| $device.wait())
    }};
}
pub(crate) use launch_planted;
