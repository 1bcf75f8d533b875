//! What the operators run on: memory by region, scratch that is kept between steps, and threads.

pub(super) mod memory;
pub(super) mod scratch;
pub(super) mod threads;
