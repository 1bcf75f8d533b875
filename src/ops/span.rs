//! Names for memory: a backend's flat regions, and ranges within them.

/// The flat buffers of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Region {
    /// Activations and their gradients, laid out by the plan.
    Arena,
    /// All parameters, in the network's order.
    Parameters,
    /// The gradient of every parameter, in the same order.
    Gradients,
    /// The gradients of the earlier micro-batches of a step, summed, in the same order; empty without accumulation.
    GradientSum,
    /// The momentum buffer of every parameter, or Adam's first moment, in the same order; empty without either.
    Momentum,
    /// Adam's second moment of every parameter, in the same order; empty without Adam.
    SecondMoment,
    /// The moving average of every parameter, in the same order; empty without one.
    Average,
    /// Statistics of batch normalisations, fp32 in every precision: the running statistics in the network's order,
    /// followed by the batch statistics that a training step saves for its backward pass.
    Statistics,
    /// 32-bit words: the argmax of each max pooling, and the ReLU masks of linear layers.
    Indices,
}

impl Region {
    /// Whether the plan allocates its buffers by lifetime, so that their size depends on the batch.
    pub fn is_planned(self) -> bool {
        matches!(self, Self::Arena | Self::Indices)
    }
}

/// `len` elements of a region, starting at `offset`.
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

    /// The elements from `begin` on; none if there are fewer.
    pub fn from(self, begin: usize) -> Self {
        let begin = begin.min(self.len);
        Self { offset: self.offset + begin, len: self.len - begin, ..self }
    }

    /// The first `len` elements.
    ///
    /// # Panics
    /// If the span is shorter: the plan made it too small for an operator.
    pub fn first(self, len: usize) -> Self {
        assert!(len <= self.len, "{self:?} is shorter than the {len} elements needed");
        Self { len, ..self }
    }
}
