//! Convolution by the chosen algorithm: implicit GEMM, a direct kernel, cuDNN, or im2col in pieces that fit the workspace
//! followed by cuBLAS.

use anyhow::Result;

use super::geometry::Geometry;
use super::grid::ImplicitProduct;
use super::params::params;
use super::site::Site;
use super::{Lowering, direct, implicit};
use crate::cuda::convolution::{Direction, Problem};
use crate::cuda::gemm::{Gemm, Operand};
use crate::cuda::program::{Address, Buffer};
use crate::ops::{
    Activation, Add, Algorithm, Candidate, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, RunOn,
    Span,
};

impl RunOn<Lowering<'_>> for Conv2dForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let implicit = &Self { pool: self.pool.filter(|pool| implicit::fuses(&pool.op)), ..*self };
        let product = lowering.forward_product(implicit);
        let epilogue = match (self.pool, self.statistics) {
            (Some(_), _) => "with epilogue",
            (None, Some(_)) => "with statistics",
            (None, None) => "",
        };
        let (weight, output) = (lowering.weight(self.weight), lowering.address(self.output));
        let convolution = lowering.convolution(Direction::Forward, &self.op, self.input, [weight, output]);
        let candidate = lowering.choose_for(&convolution.problem, epilogue, product);
        let is_implicit = candidate.algorithm == Algorithm::Implicit;
        // A separate pooling pass also applies bias and activation, and so does the pass that adds a residual.
        let pool = self.pool.filter(|_| !is_implicit || implicit.pool.is_none());
        let conv = match (pool, self.residual) {
            (Some(_), _) => &Self { activation: Activation::Identity, bias: None, pool: None, ..*self },
            (None, Some(_)) => &Self { activation: Activation::Identity, bias: None, residual: None, ..*self },
            (None, None) => self,
        };
        match candidate.algorithm {
            Algorithm::Implicit => lowering.implicit_forward(conv, candidate),
            Algorithm::Direct if self.op.is_plain() => lowering.direct_forward(conv),
            Algorithm::Direct => lowering.grouped_forward(conv),
            Algorithm::Cudnn => lowering.cudnn_forward(conv, convolution),
            Algorithm::Gemm | Algorithm::CublasLt => lowering.im2col_forward(conv),
        }?;
        if let Some(pool) = pool {
            lowering.max_pool_forward((self.activation, self.bias), self.output, pool)?;
        }
        if let Some(residual) = self.residual {
            let Self { ref op, activation, bias, output, .. } = *self;
            lowering.bias_residual_forward(activation, op.out_channels, bias, residual, output)?;
        }
        // Implicit GEMM has computed them.
        let statistics = self.statistics.filter(|_| !is_implicit);
        statistics.map_or(Ok(()), |statistics| statistics.of_input(self.output).run_on(lowering))
    }
}

impl RunOn<Lowering<'_>> for Conv2dBackwardWeight {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let product = lowering.backward_weight_product(self);
        let addresses = [self.d_weight, self.d_output].map(|span| lowering.address(span));
        let convolution = lowering.convolution(Direction::BackwardWeight, &self.op, self.input, addresses);
        let candidate = lowering.choose_for(&convolution.problem, "", product);
        match candidate.algorithm {
            Algorithm::Implicit => lowering.implicit_backward_weight(self, candidate),
            Algorithm::Direct if self.op.is_plain() => lowering.direct_backward_weight(self),
            Algorithm::Direct => lowering.grouped_backward_weight(self),
            Algorithm::Cudnn => lowering.cudnn_backward_weight(self, convolution),
            Algorithm::Gemm | Algorithm::CublasLt => lowering.im2col_backward_weight(self),
        }
    }
}

impl RunOn<Lowering<'_>> for Conv2dBackwardInput {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let product = lowering.backward_input_product(self);
        let epilogue = match (self.epilogue, self.added, self.norm) {
            (Some(_), ..) => "with epilogue",
            (_, None, None) => "",
            (_, Some(_), None) => "with sum",
            (_, None, Some(_)) => "with norm",
            (_, Some(_), Some(_)) => "with sum and norm",
        };
        let (weight, d_output) = (lowering.weight(self.weight), lowering.address(self.d_output));
        let convolution = lowering.convolution(Direction::BackwardInput, &self.op, self.d_input, [weight, d_output]);
        let candidate = lowering.choose_for(&convolution.problem, epilogue, product);
        match candidate.algorithm {
            Algorithm::Implicit => return lowering.implicit_backward_input(self, candidate),
            Algorithm::Direct => lowering.grouped_backward_input(self)?,
            Algorithm::Cudnn => lowering.cudnn(convolution),
            Algorithm::Gemm | Algorithm::CublasLt => lowering.im2col_backward_input(self)?,
        }
        lowering.input_gradient_epilogues(self)
    }
}

impl Lowering<'_> {
    /// Chooses a candidate. `product` is what implicit GEMM would compute.
    fn choose_for(&mut self, problem: &Problem, epilogue: &'static str, product: Result<ImplicitProduct>) -> Candidate {
        let Problem { direction, op, batch, .. } = *problem;
        let mut candidates: Vec<Candidate> = Vec::new();
        if op.is_plain() {
            candidates.push(Algorithm::Gemm.into());
            candidates.extend(self.implicit_candidates(product));
        }
        let has_direct = direction != Direction::BackwardInput && direct::applies(&op);
        candidates.extend((!op.is_plain() || has_direct).then_some(Candidate::from(Algorithm::Direct)));
        candidates.extend(self.cudnn_applies(problem).then_some(Candidate::from(Algorithm::Cudnn)));
        let precision = self.target.precision;
        let site = Site { direction, op, batch, linear: false, epilogue, mask: false, precision };
        self.choose(&site, &candidates)
    }

    /// What follows an input gradient, as separate passes.
    pub(super) fn input_gradient_epilogues(&mut self, conv: &Conv2dBackwardInput) -> Result<()> {
        let Conv2dBackwardInput { ref op, d_input, added, epilogue, norm, .. } = *conv;
        if let Some(added) = added {
            Add { a: d_input, b: added, output: d_input }.run_on(self)?;
        }
        self.gradient_epilogue(op.input.channels, d_input, epilogue)?;
        norm.map_or(Ok(()), |norm| norm.of_gradient(d_input).run_on(self))
    }

    fn im2col_forward(&mut self, conv: &Conv2dForward) -> Result<()> {
        let Conv2dForward { ref op, activation, input, weight, bias, output, .. } = *conv;
        let (weight, y, row) = (self.weight(weight), self.address(output), op.out_channels * self.real_size());
        self.over_columns(op, input, |first, count, columns| {
            // columns [count, k·k·ic] · Wᵀ [k·k·ic, oc] → y [count, oc]
            let (size, y) = ([count, op.out_channels, op.patch_len()], y.plus(first * row));
            Gemm::new(size, Operand::plain(columns), Operand::transposed(weight), y)
        })?;
        self.bias_activation_forward(activation, op.out_channels, bias, output)
    }

    fn im2col_backward_weight(&mut self, conv: &Conv2dBackwardWeight) -> Result<()> {
        let Conv2dBackwardWeight { ref op, input, d_output, d_weight } = *conv;
        let (d_y, d_weight, row) = (self.address(d_output), self.address(d_weight), op.out_channels * self.real_size());
        self.over_columns(op, input, |first, count, columns| {
            // d_yᵀ [oc, count] · columns [count, k·k·ic] → d_weight [oc, k·k·ic], summed over the pieces in order
            let (size, d_y) = ([op.out_channels, op.patch_len(), count], d_y.plus(first * row));
            let product = Gemm::new(size, Operand::transposed(d_y), Operand::plain(columns), d_weight);
            Gemm { float_result: true, accumulate: first > 0, ..product }
        })
    }

    fn im2col_backward_input(&mut self, conv: &Conv2dBackwardInput) -> Result<()> {
        let Conv2dBackwardInput { ref op, d_output, weight, d_input, .. } = *conv;
        let (pixels, batch) = (op.output()?.pixels(), d_input.len / op.input.len());
        let (d_y, d_x, weight) = (self.address(d_output), self.address(d_input), self.weight(weight));
        let (columns, row) = (Address::at(Buffer::Columns), op.out_channels * self.real_size());
        // d_y [rows, oc] · W [oc, k·k·ic] → d_columns [rows, k·k·ic]
        let product = |first: usize, rows: usize, c: Address| {
            let (size, d_y) = ([rows, op.patch_len(), op.out_channels], d_y.plus(first * row));
            Gemm::new(size, Operand::plain(d_y), Operand::plain(weight), c)
        };
        if op.is_pointwise() {
            self.gemm(product(0, batch * pixels, d_x));
            return Ok(());
        }
        let (kernel, lanes) = self.variant("col2im", &[op.input.channels], &[d_input]);
        let samples_at_once = (self.columns_capacity(op) / pixels).max(1);
        for first in (0..batch).step_by(samples_at_once) {
            let samples = samples_at_once.min(batch - first);
            self.gemm(product(first * pixels, samples * pixels, columns));
            let params = params!(
                self.target, 80 bytes, [source = columns, target = d_x],
                first: u64, count: u64 = samples, op: Geometry = Geometry::of_conv(op)?,
            );
            self.launch_over(&*kernel, samples * op.input.len() / lanes, params)?;
        }
        Ok(())
    }

    /// How many rows of this convolution's columns fit the workspace.
    fn columns_capacity(&self, op: &Conv2d) -> usize {
        self.target.columns / (op.patch_len() * self.real_size())
    }

    /// Launches `product(first_row, row_count, columns)` for each piece of the im2col columns. For a pointwise
    /// convolution the columns are the input itself, in one piece.
    fn over_columns(
        &mut self,
        op: &Conv2d,
        input: Span,
        product: impl Fn(usize, usize, Address) -> Gemm<Address>,
    ) -> Result<()> {
        let rows = input.len / op.input.len() * op.output()?.pixels();
        let (x, columns) = (self.address(input), Address::at(Buffer::Columns));
        if op.is_pointwise() {
            self.gemm(product(0, rows, x));
            return Ok(());
        }
        let (kernel, lanes) = self.variant("im2col", &[op.input.channels], &[input]);
        let rows_at_once = self.columns_capacity(op).max(1);
        for first in (0..rows).step_by(rows_at_once) {
            let count = rows_at_once.min(rows - first);
            let params = params!(
                self.target, 80 bytes, [source = x, target = columns],
                first: u64, count: u64, op: Geometry = Geometry::of_conv(op)?,
            );
            self.launch_over(&*kernel, count * op.patch_len() / lanes, params)?;
            self.gemm(product(first, count, columns));
        }
        Ok(())
    }
}
