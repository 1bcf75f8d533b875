//! Exit code and error chain, nothing else.
fn main() {}
