//! Local response normalisation across channels (`torch.nn.LocalResponseNorm`; Krizhevsky et al. 2012).

use anyhow::{Result, ensure};

use super::Span;
use super::operands::{Forward, Layer, LayerValues, Operands, Unary, operands};
use crate::shape::Shape;

/// `y[c] = x[c] · d[c]^−β` with `d[c] = k + α/size · Σ x[c′]²` over the channels `c − ⌊size/2⌋ ..= c + ⌊(size−1)/2⌋`
/// that there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lrn {
    pub input: Shape,
    pub size: usize,
    pub alpha: f32,
    pub beta: f32,
    pub k: f32,
}

impl Layer for Lrn {
    type Forward<B> = LrnForward<B>;
    type Backward<B> = LrnBackward<B>;

    fn name(&self) -> &'static str {
        "lrn"
    }

    /// # Errors
    /// Where the size is zero, or `d` could be zero or negative.
    fn output(&self) -> Result<Shape> {
        ensure!(self.size > 0, "local response normalisation needs a size of at least 1");
        let fine = self.alpha >= 0.0 && self.k > 0.0 && self.beta.is_finite();
        ensure!(fine, "local response normalisation needs α of at least 0, k above 0 and a finite β: {self:?}");
        Ok(self.input)
    }

    fn describe_layer(&self) -> String {
        format!("local response norm over {}", self.size)
    }

    fn forward<B>(self, input: B, output: B) -> LrnForward<B> {
        LrnForward { op: self, input, output }
    }

    fn backward<B>(self, values: LayerValues<B>) -> LrnBackward<B> {
        let LayerValues { input, d_output, d_input, .. } = values;
        LrnBackward { op: self, input, d_output, d_input }
    }
}

pub type LrnForward<B = Span> = Forward<Lrn, B>;

/// `d_x[c] = d_y[c] · d[c]^−β − 2αβ/size · x[c] · Σ d_y[c′] · x[c′] · d[c′]^−(β+1)` over the channels `c′` whose windows
/// hold `c`. `d` is computed again from the input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LrnBackward<B = Span> {
    pub op: Lrn,
    pub input: B,
    pub d_output: B,
    pub d_input: B,
}

impl Unary for Lrn {
    fn describe(&self) -> String {
        "local response normalisation".into()
    }

    /// Squares, their sum and a power.
    fn flops(&self, _inputs: usize, outputs: usize) -> usize {
        (self.size + 4) * outputs
    }
}

operands!(LrnBackward {
    values: op; buffers: input, d_output, d_input; optional: ; parts: ;
    reads: input, d_output +; writes: d_input +
});

impl<B: Copy> Operands<B> for LrnBackward<B> {
    fn describe(&self) -> String {
        format!("gradient of {}", self.op.describe())
    }

    fn flops(&self, len: &dyn Fn(B) -> usize) -> usize {
        (2 * self.op.size + 8) * len(self.d_input)
    }
}
