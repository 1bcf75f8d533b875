//! The one test binary; each module tests the room of its name.

mod data;
mod digits;
mod ops;
mod support;
