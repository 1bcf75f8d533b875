//! The resources of the CPU backend: memory by region, scratch buffers that persist across steps, and threads.

pub(super) mod memory;
pub(super) mod scratch;
pub(super) mod threads;
