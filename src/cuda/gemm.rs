//! Matrix products as plain data, in row-major terms. `A` is the type of addresses: device or symbolic.

/// A matrix; `transposed` if memory holds its transpose, which is row-major as well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Operand<A> {
    pub address: A,
    pub transposed: bool,
}

/// `c [m, n] = a [m, k] · b [k, n]`
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Gemm<A = u64> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Operand<A>,
    pub b: Operand<A>,
    pub c: A,
    /// Whether `c` is fp32 regardless of the storage type, as weight gradients are.
    pub float_result: bool,
    /// Whether to add to the contents of `c` instead of overwriting them.
    pub accumulate: bool,
}

/// One bit per output of a ReLU, set if it is positive. The forward product writes it for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ReluMask<A> {
    pub address: A,
    /// Leading dimension in bits: from one row of outputs to the next, a multiple of 128.
    pub leading: usize,
}

/// The operation of cuBLASLt's epilogue on a product `c [m, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EpilogueKind {
    Bias,
    /// Adds the bias and applies ReLU; writes the `mask`, if there is one.
    BiasRelu,
    /// Multiplies by the derivative of the ReLU that wrote the `mask`, then sums the columns into the bias gradient, if
    /// there is one.
    ReluGradient,
    /// For a weight gradient: the bias gradient `[m]`, the row sums of `a`.
    BiasGradient,
}

/// The epilogue that cuBLASLt fuses into the launch of a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LtEpilogue<A = u64> {
    pub kind: EpilogueKind,
    /// The bias or its gradient, of `c`'s type; `[n]`, or `[m]` for `BiasGradient`. `None` if the preceding layer has
    /// no bias gradient, or another launch computes it.
    pub bias: Option<A>,
    pub mask: Option<ReluMask<A>>,
}

impl<A> Operand<A> {
    pub fn plain(address: A) -> Self {
        Self { address, transposed: false }
    }

    pub fn transposed(address: A) -> Self {
        Self { address, transposed: true }
    }
}

impl<A> Gemm<A> {
    /// The product of `a [m, k]` and `b [k, n]`. It overwrites `c`, which has the storage type.
    pub fn new([m, n, k]: [usize; 3], a: Operand<A>, b: Operand<A>, c: A) -> Self {
        Self { m, n, k, a, b, c, float_result: false, accumulate: false }
    }

    /// Replaces every address by `resolve(address)`.
    pub fn resolved<C, E>(self, resolve: &impl Fn(A) -> Result<C, E>) -> Result<Gemm<C>, E> {
        let Self { m, n, k, a, b, c, float_result, accumulate } = self;
        let operand = |of: Operand<A>| Ok(Operand { address: resolve(of.address)?, transposed: of.transposed });
        Ok(Gemm { m, n, k, a: operand(a)?, b: operand(b)?, c: resolve(c)?, float_result, accumulate })
    }
}

impl<A> LtEpilogue<A> {
    /// Replaces every address by `resolve(address)`.
    pub fn resolved<C, E>(self, resolve: &impl Fn(A) -> Result<C, E>) -> Result<LtEpilogue<C>, E> {
        let mask = |mask: ReluMask<A>| Ok(ReluMask { address: resolve(mask.address)?, leading: mask.leading });
        let (bias, mask) = (self.bias.map(resolve).transpose()?, self.mask.map(mask).transpose()?);
        Ok(LtEpilogue { kind: self.kind, bias, mask })
    }
}
