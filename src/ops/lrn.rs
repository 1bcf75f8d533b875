//! Local response normalisation across channels (`torch.nn.LocalResponseNorm`; Krizhevsky et al. 2012).

use anyhow::{Result, ensure};

use super::operands::{Layer, operator};
use crate::shape::Shape;

/// `y[c] = x[c] · d[c]^−β` with `d[c] = k + α/size · Σ x[c′]²` over the existing channels among
/// `c − ⌊size/2⌋ ..= c + ⌊(size−1)/2⌋`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lrn {
    pub input: Shape,
    pub size: usize,
    pub alpha: f32,
    pub beta: f32,
    pub k: f32,
}

impl Layer for Lrn {
    fn name(&self) -> &'static str {
        "lrn"
    }

    /// # Errors
    /// If the size is zero, or `d` could be zero or negative.
    fn output(&self) -> Result<Shape> {
        ensure!(self.size > 0, "local response normalisation needs a size of at least 1");
        let valid = self.alpha >= 0.0 && self.k > 0.0 && self.beta.is_finite();
        ensure!(valid, "local response normalisation needs α of at least 0, k above 0 and a finite β: {self:?}");
        Ok(self.input)
    }

    fn describe(&self) -> String {
        format!("local response norm over {}", self.size)
    }
}

operator! {
    /// See [`Lrn`].
    pub struct LrnForward {
        value op: Lrn,
        reads input: B,
        writes output: B,
    }
    describe(self) { "local response normalisation".into() }
    // A square, the sum over the window, and a power.
    flops(self, len) { (self.op.size + 4) * len(self.output) }
}

operator! {
    /// `d_x[c] = d_y[c] · d[c]^−β − 2αβ/size · x[c] · Σ d_y[c′] · x[c′] · d[c′]^−(β+1)`, summed over the channels `c′`
    /// with `c` in their window. `d` is recomputed from the input.
    pub struct LrnBackward {
        value op: Lrn,
        reads input: B,
        reads d_output: B,
        writes d_input: B,
    }
    describe(self) { "gradient of local response normalisation".into() }
    flops(self, len) { (2 * self.op.size + 8) * len(self.d_input) }
}
