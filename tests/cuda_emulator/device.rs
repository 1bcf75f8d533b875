//! A device to test on: its stream, its kernels by name, and buffers that are quick to fill and read.

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DeviceRepr, DriverError, LaunchConfig, ValidAsZeroBits,
};

pub struct Device {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
}

/// A text that loads as a module with these kernels.
pub fn image(kernels: &[&str]) -> String {
    let entries: String = kernels.iter().map(|name| format!(".visible .entry {name}(){{ret;}}\n")).collect();
    format!(".version 8.7\n.target sm_75\n.address_size 64\n{entries}")
}

/// `blocks` blocks of 256 threads.
pub fn blocks(blocks: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 }
}

impl Device {
    /// As the program sets it up: one stream of its own, no event tracking.
    pub fn new() -> Self {
        let context = CudaContext::new(0).expect("the emulator has a device");
        // SAFETY: one stream, so nothing needs the events.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        Self { context, stream }
    }

    pub fn kernel(&self, name: &str) -> CudaFunction {
        let module = self.context.load_module(cudarc::nvrtc::Ptx::from_src(image(&[name]))).unwrap();
        module.load_function(name).unwrap()
    }

    pub fn upload<T: DeviceRepr>(&self, values: &[T]) -> CudaSlice<T> {
        self.stream.clone_htod(values).unwrap()
    }

    /// Memory as cuMemAlloc gives it: poisoned.
    pub fn poisoned<T: DeviceRepr>(&self, count: usize) -> CudaSlice<T> {
        // SAFETY: the tests' kernels write before anything reads, or the test is about what is read.
        unsafe { self.stream.alloc(count) }.unwrap()
    }

    pub fn download<T: DeviceRepr + Clone + Default + ValidAsZeroBits>(&self, slice: &CudaSlice<T>) -> Vec<T> {
        self.stream.clone_dtoh(slice).unwrap()
    }

    pub fn wait(&self) -> Result<(), DriverError> {
        self.stream.synchronize()
    }
}

/// Launches `name` on the device over `config` with the arguments, and waits for it.
macro_rules! launch {
    ($device:expr, $name:expr, $config:expr, $($argument:expr),+ $(,)?) => {{
        let function = $device.kernel($name);
        let mut builder = $device.stream.launch_builder(&function);
        $(cudarc::driver::PushKernelArg::arg(&mut builder, $argument);)+
        // SAFETY: the arguments are those of the kernel, which is what the tests are about.
        unsafe { builder.launch($config) }.and_then(|_| $device.wait())
    }};
}
pub(crate) use launch;
