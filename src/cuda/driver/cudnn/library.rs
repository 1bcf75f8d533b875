//! cuDNN's functions and descriptors, loaded by path. The signatures are those of `cudnn_backend.h`, except that a status
//! is a plain number, because later versions add codes.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use cudarc::cudnn::sys::{cudnnBackendAttributeName_t as Attribute, cudnnBackendDescriptorType_t as Kind};
use cudarc::driver::sys::CUstream;

/// A handle or a descriptor.
pub(super) type Raw = *mut c_void;

/// The first version with the status codes that [`Failure::is_unsupported`] tells apart.
const OLDEST: usize = 9_00_00;

/// Declares a struct of functions and loads them from a library.
macro_rules! functions {
    ($($field:ident = $name:literal: fn($($argument:ty),*) -> $result:ty;)*) => {
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            fn load(library: &libloading::Library) -> Result<Self, libloading::Error> {
                // SAFETY: the signatures are those of the header.
                unsafe { Ok(Self { $($field: *library.get($name)?,)* }) }
            }
        }
    };
}

functions! {
    version = "cudnnGetVersion": fn() -> usize;
    error_string = "cudnnGetErrorString": fn(c_int) -> *const c_char;
    create = "cudnnCreate": fn(*mut Raw) -> c_int;
    destroy = "cudnnDestroy": fn(Raw) -> c_int;
    set_stream = "cudnnSetStream": fn(Raw, CUstream) -> c_int;
    create_descriptor = "cudnnBackendCreateDescriptor": fn(c_int, *mut Raw) -> c_int;
    destroy_descriptor = "cudnnBackendDestroyDescriptor": fn(Raw) -> c_int;
    set_attribute = "cudnnBackendSetAttribute": fn(Raw, c_int, c_int, i64, *const c_void) -> c_int;
    get_attribute = "cudnnBackendGetAttribute": fn(Raw, c_int, c_int, i64, *mut i64, *mut c_void) -> c_int;
    finalize = "cudnnBackendFinalize": fn(Raw) -> c_int;
    execute = "cudnnBackendExecute": fn(Raw, Raw, Raw) -> c_int;
}

/// A call that failed.
#[derive(Clone, Debug)]
pub(in crate::cuda::driver) struct Failure {
    pub call: &'static str,
    pub status: c_int,
    /// The status's name.
    pub name: String,
}

impl Failure {
    /// Whether this version of cuDNN, or this device, does not support what was asked for.
    pub fn is_unsupported(&self) -> bool {
        self.status / 1000 == 3
    }
}

pub(super) type Outcome<T> = Result<T, Failure>;

/// cuDNN.
pub(super) struct Library {
    functions: Functions,
    /// 10000·major + 100·minor + patch
    pub version: usize,
    _owner: libloading::Library,
}

impl Library {
    /// # Errors
    /// The loader's message if it cannot be loaded, or a text that it is too old.
    pub fn open(path: &Path) -> Result<Self, String> {
        // SAFETY: opening cuDNN runs no code but its own initialisers.
        let owner = unsafe { libloading::Library::new(path) }.map_err(|error| error.to_string())?;
        let functions = Functions::load(&owner).map_err(|error| error.to_string())?;
        // SAFETY: it has no arguments.
        let version = unsafe { (functions.version)() };
        if version < OLDEST {
            return Err(format!("{}: version {version} is too old, 9.0 is needed", path.display()));
        }
        Ok(Self { functions, version, _owner: owner })
    }

    fn check(&self, call: &'static str, status: c_int) -> Outcome<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: it returns a static string for every number.
        let name = unsafe {
            let text = (self.functions.error_string)(status);
            if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        };
        Err(Failure { call, status, name })
    }
}

/// A handle on one stream.
pub(super) struct Handle {
    api: Arc<Library>,
    raw: Raw,
}

impl Handle {
    pub fn new(library: &Arc<Library>, stream: CUstream) -> Outcome<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: it writes one pointer.
        library.check("cudnnCreate", unsafe { (library.functions.create)(&raw mut raw) })?;
        let handle = Self { api: library.clone(), raw };
        // SAFETY: the handle is alive, and the stream outlives it.
        library.check("cudnnSetStream", unsafe { (library.functions.set_stream)(raw, stream) })?;
        Ok(handle)
    }

    /// Runs a plan on the handle's stream.
    ///
    /// # Safety
    /// The variant pack's addresses must be those of the plan's tensors and of a workspace of its size.
    pub unsafe fn execute(&self, plan: &Descriptor, variant_pack: &Descriptor) -> Outcome<()> {
        // SAFETY: all three are alive; the caller vouches for the addresses.
        let status = unsafe { (self.api.functions.execute)(self.raw, plan.raw, variant_pack.raw) };
        self.api.check("cudnnBackendExecute", status)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: nothing else destroys it. An error cannot be handled here.
        unsafe { (self.api.functions.destroy)(self.raw) };
    }
}

/// A value of an attribute, with the number of its type.
pub(super) trait Value: Copy {
    const TYPE: c_int;
}

/// Declares types that have the layout of a field, to tell apart the attributes that hold them.
macro_rules! values {
    ($($name:ident($inner:ty) = $number:literal;)*) => {
        $(
            #[derive(Clone, Copy, PartialEq)]
            #[repr(transparent)]
            pub(super) struct $name(pub $inner);

            impl Value for $name {
                const TYPE: c_int = $number;
            }
        )*
    };
}

values! {
    HandleValue(Raw) = 0;
    DataType(c_int) = 1;
    Address(u64) = 6;
    ConvolutionMode(c_int) = 7;
    HeuristicMode(c_int) = 8;
    NumericalNote(c_int) = 11;
    DescriptorValue(Raw) = 15;
}

impl Value for i64 {
    const TYPE: c_int = 3;
}

impl Value for f32 {
    const TYPE: c_int = 4;
}

impl From<&Handle> for HandleValue {
    fn from(handle: &Handle) -> Self {
        Self(handle.raw)
    }
}

impl From<&Descriptor> for DescriptorValue {
    fn from(descriptor: &Descriptor) -> Self {
        Self(descriptor.raw)
    }
}

/// A descriptor of the backend API. Those that it refers to must be kept as long as it is used.
pub(super) struct Descriptor {
    api: Arc<Library>,
    raw: Raw,
}

impl Descriptor {
    pub fn new(handle: &Handle, kind: Kind) -> Outcome<Self> {
        let library = &handle.api;
        let mut raw = ptr::null_mut();
        // SAFETY: it writes one pointer.
        let status = unsafe { (library.functions.create_descriptor)(kind as c_int, &raw mut raw) };
        library.check("cudnnBackendCreateDescriptor", status)?;
        Ok(Self { api: library.clone(), raw })
    }

    pub fn set<T: Value>(&self, attribute: Attribute, values: &[T]) -> Outcome<()> {
        let (count, elements) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: the descriptor is alive, and `T` has the layout of its type's number.
        let status =
            unsafe { (self.api.functions.set_attribute)(self.raw, attribute as c_int, T::TYPE, count, elements) };
        self.api.check("cudnnBackendSetAttribute", status)
    }

    /// Fills `values` from the start and returns how many values were written.
    pub fn get<T: Value>(&self, attribute: Attribute, values: &mut [T]) -> Outcome<usize> {
        let (most, mut count, elements) = (values.len() as i64, 0_i64, values.as_mut_ptr().cast());
        // SAFETY: as in `set`, and it writes at most `most` values.
        let status = unsafe {
            (self.api.functions.get_attribute)(self.raw, attribute as c_int, T::TYPE, most, &raw mut count, elements)
        };
        self.api.check("cudnnBackendGetAttribute", status)?;
        Ok(usize::try_from(count).unwrap_or(0).min(values.len()))
    }

    pub fn finalized(self) -> Outcome<Self> {
        // SAFETY: the descriptor is alive.
        let status = unsafe { (self.api.functions.finalize)(self.raw) };
        self.api.check("cudnnBackendFinalize", status)?;
        Ok(self)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: nothing else destroys it. An error cannot be handled here.
        unsafe { (self.api.functions.destroy_descriptor)(self.raw) };
    }
}
