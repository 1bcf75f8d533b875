//! Convolutions of cuDNN as plain data. `A` is the type of addresses: device or symbolic.

use crate::ops::Conv2d;

/// Which of a layer's products is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    Forward,
    BackwardWeight,
    BackwardInput,
}

/// What the choice of an engine depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    pub direction: Direction,
    pub op: Conv2d,
    pub batch: usize,
    /// The alignment of each of [`Convolution::tensors`] in bytes, at most [`MAX_ALIGNMENT`].
    pub alignments: [u8; 3],
    /// Bytes of the workspace.
    pub workspace: usize,
}

/// The highest alignment in bytes that an engine makes use of.
pub(super) const MAX_ALIGNMENT: u8 = 16;

/// A convolution, or one of its gradients, without bias and activation. The result overwrites its tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Convolution<A = u64> {
    pub problem: Problem,
    /// The input `[batch][height][width][in_channels]`, the weight `[out_channels][kernel][kernel][in_channels / groups]`
    /// and the output `[batch][height][width][out_channels]`, or their gradients. One of them is the result. All have the
    /// storage type, because cuDNN has no engines for an fp32 weight gradient of 16-bit tensors.
    pub tensors: [A; 3],
    pub workspace: A,
}

impl<A: Copy> Convolution<A> {
    /// Replaces every address by `resolve(address)`.
    pub fn resolved<C, E>(self, resolve: &impl Fn(A) -> Result<C, E>) -> Result<Convolution<C>, E> {
        let Self { problem, tensors: [input, weight, output], workspace } = self;
        let tensors = [resolve(input)?, resolve(weight)?, resolve(output)?];
        Ok(Convolution { problem, tensors, workspace: resolve(workspace)? })
    }
}
