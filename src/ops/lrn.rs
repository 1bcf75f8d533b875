//! Local response normalisation across channels (`torch.nn.LocalResponseNorm`; Krizhevsky et al. 2012).

use anyhow::{Result, ensure};

use super::Span;

/// `y[c] = x[c] · d[c]^−β` with `d[c] = k + α/size · Σ x[c′]²` over the channels `c − ⌊size/2⌋ ..= c + ⌊(size−1)/2⌋`
/// that there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lrn {
    pub channels: usize,
    pub size: usize,
    pub alpha: f32,
    pub beta: f32,
    pub k: f32,
}

impl Lrn {
    /// # Errors
    /// Where the size is zero, or `d` could be zero or negative.
    pub fn check(&self) -> Result<()> {
        ensure!(self.size > 0, "local response normalisation needs a size of at least 1");
        let fine = self.alpha >= 0.0 && self.k > 0.0 && self.beta.is_finite();
        ensure!(fine, "local response normalisation needs α of at least 0, k above 0 and a finite β: {self:?}");
        Ok(())
    }
}

/// Local response normalisation over `rows` pixels of `op.channels` values.
pub trait LrnOps {
    fn lrn_forward(&mut self, op: &Lrn, rows: usize, input: Span, output: Span) -> Result<()>;

    /// `d_x[c] = d_y[c] · d[c]^−β − 2αβ/size · x[c] · Σ d_y[c′] · x[c′] · d[c′]^−(β+1)` over the channels `c′` whose
    /// windows hold `c`. `d` is computed anew from the input.
    fn lrn_backward(&mut self, op: &Lrn, rows: usize, input: Span, d_output: Span, d_input: Span) -> Result<()>;
}
