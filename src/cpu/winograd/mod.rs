//! 3×3 convolutions of stride 1 by Winograd's algorithm: tiling, transforms, and the matrix products between them.

pub(super) mod forward;
pub(super) mod gradients;
pub(super) mod maps;
mod panels;
pub(super) mod tiling;
pub(super) mod transform;
pub(super) mod transform_pool;
