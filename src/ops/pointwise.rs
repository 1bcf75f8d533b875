//! Functions of single values whose gradient needs the input, or that no other operator includes: GELU, scaling, the
//! square and the square root.

use anyhow::{Result, ensure};

use super::operands::{Layer, operator};
use crate::shape::Shape;

/// A function that is applied to every value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pointwise {
    pub input: Shape,
    pub function: Function,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// `x · Φ(x)` with the normal distribution `Φ(x) = (1 + erf(x / √2)) / 2` (`torch.nn.GELU`; Hendrycks and Gimpel,
    /// "Gaussian Error Linear Units", 2016).
    Gelu,
    /// `factor · x`
    Scale { factor: f32 },
    /// `x²` (`torch.square`)
    Square,
    /// `√x` (`torch.sqrt`), but with the gradient 0 at 0, as that of `torch.linalg.vector_norm`.
    SquareRoot,
}

impl Layer for Pointwise {
    fn name(&self) -> &'static str {
        match self.function {
            Function::Gelu => "gelu",
            Function::Scale { .. } => "scale",
            Function::Square => "square",
            Function::SquareRoot => "sqrt",
        }
    }

    /// # Errors
    /// If a factor is not finite.
    fn output(&self) -> Result<Shape> {
        if let Function::Scale { factor } = self.function {
            ensure!(factor.is_finite(), "the factor {factor} is not finite");
        }
        Ok(self.input)
    }

    fn describe(&self) -> String {
        match self.function {
            Function::Gelu => "GELU".into(),
            Function::Scale { factor } => format!("times {factor}"),
            Function::Square => "square".into(),
            Function::SquareRoot => "square root".into(),
        }
    }
}

operator! {
    /// See [`Function`].
    pub struct PointwiseForward {
        value op: Pointwise,
        reads input: B,
        writes output: B,
    }
    describe(self) { self.op.describe() }
    flops(self, len) { self.op.flops_per_value() * len(self.output) }
}

operator! {
    /// `d_x = d_y · f′(x)`; for GELU, `f′(x) = Φ(x) + x · φ(x)` with the density `φ(x) = exp(−x² / 2) / √(2π)`.
    pub struct PointwiseBackward {
        value op: Pointwise,
        reads input: B,
        reads d_output: B,
        writes d_input: B,
    }
    describe(self) { format!("gradient of {}", self.op.describe()) }
    flops(self, len) { self.op.flops_per_value() * len(self.d_input) }
}

impl Pointwise {
    fn flops_per_value(&self) -> usize {
        match self.function {
            Function::Gelu => 20,
            Function::Scale { .. } | Function::Square | Function::SquareRoot => 1,
        }
    }
}
