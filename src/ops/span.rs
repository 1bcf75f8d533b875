//! Memory by name: a backend's flat regions, and ranges of them.

/// The flat buffers of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Region {
    /// Activations and their gradients, laid out by the plan.
    Arena,
    /// All parameters, in the network's order.
    Parameters,
    /// The gradient of every parameter, in the same order.
    Gradients,
    /// SGD's momentum buffers, in the same order; empty without momentum.
    Momentum,
    /// The moving average of every parameter, in the same order; empty without one.
    Average,
    /// Of batch normalisations, fp32 in every precision: the running ones, in the network's order, and behind them what
    /// a training step keeps for its backward pass.
    Statistics,
    /// 32-bit words: the argmax of every max pooling, the ReLU masks of linear layers.
    Indices,
}

impl Region {
    /// Whether the plan lays it out by lifetimes, so that a buffer in it has as many elements as the batch asks for.
    pub fn is_planned(self) -> bool {
        matches!(self, Self::Arena | Self::Indices)
    }
}

/// `len` elements of a region, from `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    pub region: Region,
    pub offset: usize,
    pub len: usize,
}

impl Span {
    pub const fn new(region: Region, offset: usize, len: usize) -> Self {
        Self { region, offset, len }
    }

    /// The first `len` elements.
    ///
    /// # Panics
    /// If the span is shorter: the plan gave an operator too little.
    pub fn first(self, len: usize) -> Self {
        assert!(len <= self.len, "{len} elements are needed of {self:?}");
        Self { len, ..self }
    }
}
