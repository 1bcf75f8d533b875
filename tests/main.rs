//! The one test binary; each module tests the room of its name.

mod digits;
mod pictures;
mod report;
mod support;
