//! The one test binary; each module tests the room of its name.

mod cuda_emulator;
mod support;
