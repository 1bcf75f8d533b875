//! Matrix products as plain data, in row-major terms. `A` is an address: of the device, or by name.

/// A matrix; `transposed` where memory holds the transpose, row-major as well.
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
    /// Whether `c` is fp32 whatever the storage: weight gradients are.
    pub float_result: bool,
    /// Whether to add to what is in `c`.
    pub accumulate: bool,
}

/// Which outputs of a ReLU are positive, a bit each, as a forward product leaves them for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ReluMask<A> {
    pub address: A,
    /// Bits from one row of outputs to the next, a multiple of 128.
    pub leading: usize,
}

/// How cuBLASLt ends a product `c [m, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EpilogueKind {
    Bias,
    /// With a `mask`, that is left for the backward pass.
    BiasRelu,
    /// Back through the ReLU whose mask it is, then the column sums.
    ReluGradient,
    /// Of a weight gradient: the sums of the rows of `a`, `[m]`.
    BiasGradient,
}

/// What cuBLASLt does with a product in its launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LtEpilogue<A = u64> {
    pub kind: EpilogueKind,
    /// The bias, or its gradient, of `c`'s type and, unless said otherwise, `[n]`; none where a ReLU's gradient has none.
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
    /// The product of `a [m, k]` and `b [k, n]`, whose result is of the storage's type and overwrites what was there.
    pub fn new([m, n, k]: [usize; 3], a: Operand<A>, b: Operand<A>, c: A) -> Self {
        Self { m, n, k, a, b, c, float_result: false, accumulate: false }
    }

    /// The same with other addresses.
    pub fn resolved<C, E>(self, resolve: &impl Fn(A) -> Result<C, E>) -> Result<Gemm<C>, E> {
        let Self { m, n, k, a, b, c, float_result, accumulate } = self;
        let operand = |of: Operand<A>| Ok(Operand { address: resolve(of.address)?, transposed: of.transposed });
        Ok(Gemm { m, n, k, a: operand(a)?, b: operand(b)?, c: resolve(c)?, float_result, accumulate })
    }
}

impl<A> LtEpilogue<A> {
    /// The same with other addresses.
    pub fn resolved<C, E>(self, resolve: &impl Fn(A) -> Result<C, E>) -> Result<LtEpilogue<C>, E> {
        let mask = |mask: ReluMask<A>| Ok(ReluMask { address: resolve(mask.address)?, leading: mask.leading });
        let (bias, mask) = (self.bias.map(resolve).transpose()?, self.mask.map(mask).transpose()?);
        Ok(LtEpilogue { kind: self.kind, bias, mask })
    }
}
