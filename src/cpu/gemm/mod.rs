//! Matrix products: the vectors of every instruction set, and the kernels that multiply panels with them.

pub(super) mod instructions;
pub(super) mod kernel;
pub(super) mod vector;

pub use instructions::Instructions;
