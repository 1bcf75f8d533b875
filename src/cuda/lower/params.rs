//! Kernel parameters: a macro that declares a parameter struct with the layout of the kernel's and fills it in.

use std::fmt::Debug;

use anyhow::{Result, anyhow};

use super::Target;
use crate::cuda::program::{Address, Buffer, region_buffer};
use crate::ops::Span;

/// The parameters of a kernel; `kernels/` asserts the same size. Addresses come first, then numbers of 8 bytes, then
/// numbers of 4 bytes. A field without `=` takes the value of the variable with its name. The value of an address is
/// any [`HasAddress`], that of a number any number that [`fit`] converts. Arrays of 8-byte alignment are among the numbers
/// of 8 bytes.
///
/// # Errors
/// Returns the error from the enclosing function if a number does not fit its type.
macro_rules! params {
    (
        $target:expr, $bytes:literal bytes,
        [$($address:ident $(= $place:expr)?),* $(,)?]
        $(, $field:ident: $type:ty $(= $value:expr)?)* $(,)?
    ) => {{
        use $crate::cuda::lower::params::{self, HasAddress, value};
        #[repr(C)]
        struct Layout {
            $($address: $crate::cuda::program::Address,)*
            $($field: $type,)*
        }
        const _: () = assert!(size_of::<Layout>() == $bytes);
        let mut words = vec![0; $bytes / 8];
        $({
            let address = HasAddress::address(value!($address $(= $place)?), $target);
            params::put(&mut words, std::mem::offset_of!(Layout, $address), address);
        })*
        $({
            let number: $type = params::fit(value!($field $(= $value)?))?;
            params::put(&mut words, std::mem::offset_of!(Layout, $field), number);
        })*
        $crate::cuda::program::Params { words, pointer_count: [$(stringify!($address)),*].len() }
    }};
}

/// The value of a field of [`params`].
macro_rules! value {
    ($field:ident) => {
        $field
    };
    ($field:ident = $value:expr) => {
        $value
    };
}
pub(super) use {params, value};

/// A value with a symbolic address.
pub(super) trait HasAddress {
    fn address(self, target: Target) -> Address;
}

impl HasAddress for Address {
    fn address(self, _target: Target) -> Address {
        self
    }
}

impl HasAddress for Buffer {
    fn address(self, _target: Target) -> Address {
        Address::at(self)
    }
}

impl HasAddress for Span {
    fn address(self, target: Target) -> Address {
        let (buffer, size) = region_buffer(self.region, target.precision);
        Address::at(buffer).plus(self.offset * size)
    }
}

/// `None` is the null address.
impl<P: HasAddress> HasAddress for Option<P> {
    fn address(self, target: Target) -> Address {
        self.map_or(Address::NULL, |place| place.address(target))
    }
}

/// Converts a number to the type of a kernel's parameter, which often has fewer bits.
///
/// # Errors
/// If the number is too large for the type.
pub(super) fn fit<T: Copy + Debug, U: TryFrom<T>>(value: T) -> Result<U> {
    U::try_from(value).map_err(|_| anyhow!("{value:?} is too large for a CUDA kernel's parameter"))
}

/// A type that may be a field of kernel parameters.
///
/// # Safety
/// All bytes of a value must be initialised.
pub(super) unsafe trait Pod: Copy {}

// SAFETY: an address is a number.
unsafe impl Pod for Address {}
// SAFETY: numbers have no uninitialised bytes.
unsafe impl Pod for u64 {}
// SAFETY: as above.
unsafe impl Pod for u32 {}
// SAFETY: as above.
unsafe impl Pod for f32 {}
// SAFETY: as above.
unsafe impl Pod for [f64; 2] {}

/// Writes a field of kernel parameters at an offset in bytes.
pub(super) fn put<T: Pod>(words: &mut [u64], offset: usize, value: T) {
    assert!(offset + size_of::<T>() <= size_of_val(words));
    // SAFETY: the range is within `words`, and all bytes of `value` are initialised.
    unsafe { words.as_mut_ptr().byte_add(offset).cast::<T>().write_unaligned(value) }
}
