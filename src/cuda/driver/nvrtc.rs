//! NVRTC, NVIDIA's run-time compiler, loaded by path. The build script uses this file too.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use libloading::{Library, Symbol};

/// An NVRTC library.
pub struct Nvrtc {
    library: Library,
    /// Major and minor version, such as `(12, 9)`.
    pub version: (i32, i32),
}

/// A source file: its name and its text.
pub type Source<'a> = (&'a str, &'a str);

// The signatures are those of nvrtc.h.
type Program = *mut c_void;
type Texts = *const *const c_char;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
type Create = unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, Texts, Texts) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, Texts) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type GetSize = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type GetText = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type GetErrorString = unsafe extern "C" fn(c_int) -> *const c_char;

impl Nvrtc {
    /// Loads the library.
    ///
    /// # Errors
    /// The loader's message if it cannot be loaded, or the name of the NVRTC call that failed.
    pub fn open(path: &Path) -> Result<Self, String> {
        // SAFETY: opening NVRTC runs no code but its own initialisers.
        let library = unsafe { Library::new(path) }.map_err(|error| error.to_string())?;
        let mut nvrtc = Self { library, version: (0, 0) };
        let (mut major, mut minor) = (0, 0);
        // SAFETY: it writes two integers.
        let code = unsafe { nvrtc.symbol::<Version>("nvrtcVersion")?(&raw mut major, &raw mut minor) };
        nvrtc.check("nvrtcVersion", code)?;
        nvrtc.version = (major, minor);
        Ok(nvrtc)
    }

    /// Compiles `source` with `headers` to PTX.
    ///
    /// # Errors
    /// The compiler's log, with file and line, or the name of the NVRTC call that failed.
    pub fn compile(&self, source: Source, headers: &[Source], options: &[String]) -> Result<String, String> {
        let text = |text: &str| CString::new(text).map_err(|_| "a source contains a zero byte".to_string());
        let (name, code) = (text(source.0)?, text(source.1)?);
        let names = headers.iter().map(|header| text(header.0)).collect::<Result<Vec<_>, _>>()?;
        let codes = headers.iter().map(|header| text(header.1)).collect::<Result<Vec<_>, _>>()?;
        let options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?;
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
        let (names, codes, flags) = (pointers(&names), pointers(&codes), pointers(&options));
        let mut program: Program = ptr::null_mut();
        // SAFETY: all strings outlive the program, and the counts are the lengths of the arrays.
        unsafe {
            let (create, count) = (self.symbol::<Create>("nvrtcCreateProgram")?, headers.len() as c_int);
            let created = create(&raw mut program, code.as_ptr(), name.as_ptr(), count, codes.as_ptr(), names.as_ptr());
            self.check("nvrtcCreateProgram", created)?;
            let compile = self.symbol::<Compile>("nvrtcCompileProgram")?;
            let result = match compile(program, flags.len() as c_int, flags.as_ptr()) {
                0 => self.text(program, "nvrtcGetPTXSize", "nvrtcGetPTX"),
                code => {
                    let log = self.text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?;
                    Err(format!("{} ({})\n{log}", source.0, self.error_name(code)))
                }
            };
            self.symbol::<Destroy>("nvrtcDestroyProgram")?(&raw mut program);
            result
        }
    }

    /// The program's PTX or log.
    ///
    /// # Safety
    /// `program` must be a program that has not been destroyed.
    unsafe fn text(&self, program: Program, size_call: &str, text_call: &str) -> Result<String, String> {
        let mut size = 0_usize;
        // SAFETY: the buffer has at least the size that NVRTC returned.
        unsafe {
            self.check(size_call, self.symbol::<GetSize>(size_call)?(program, &raw mut size))?;
            let mut buffer = vec![0_u8; size + 1];
            self.check(text_call, self.symbol::<GetText>(text_call)?(program, buffer.as_mut_ptr().cast()))?;
            let text = CStr::from_bytes_until_nul(&buffer)
                .map_err(|_| format!("{text_call} returned an unterminated string"))?;
            Ok(text.to_string_lossy().into_owned())
        }
    }

    fn check(&self, call: &str, code: c_int) -> Result<(), String> {
        if code == 0 { Ok(()) } else { Err(format!("{call}: {}", self.error_name(code))) }
    }

    fn error_name(&self, code: c_int) -> String {
        // SAFETY: NVRTC returns a constant string for any code.
        let name = unsafe { self.symbol::<GetErrorString>("nvrtcGetErrorString").map(|name| name(code)) };
        match name {
            // SAFETY: as above.
            Ok(name) if !name.is_null() => unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned(),
            _ => format!("error {code}"),
        }
    }

    /// # Safety
    /// `T` must be the function's type.
    unsafe fn symbol<T>(&self, name: &str) -> Result<Symbol<'_, T>, String> {
        // SAFETY: the caller guarantees the type.
        unsafe { self.library.get(name.as_bytes()) }.map_err(|error| error.to_string())
    }
}
