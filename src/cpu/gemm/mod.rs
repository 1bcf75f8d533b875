//! Matrix products: instruction sets, their vector types, and the micro-kernel that multiplies packed panels.

pub(super) mod instructions;
pub(super) mod kernel;
pub(super) mod pairs;
pub(super) mod vector;

pub use instructions::Instructions;
pub(super) use instructions::Loop;
