//! What convolutions and linear layers launch, by their algorithm: the part of [`Launches`] that has a choice.

use anyhow::Result;

use super::launches::Launches;
use super::{direct, implicit};
use crate::ops::{
    Activation, Algorithm, BiasOps, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, ConvOps,
    GradientEpilogue, Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, LinearOps, Span,
};

/// A product by cuBLAS, one launch of several kernels' names.
const PRODUCT: &str = "cuBLAS product";

impl Launches {
    fn is_implicit(&self) -> bool {
        self.algorithm == Algorithm::Implicit
    }

    fn is_direct(&self, op: &Conv2d) -> bool {
        self.algorithm == Algorithm::Direct && direct::applies(op)
    }

    /// An implicit input gradient takes its epilogue along where there is room for its sums.
    fn implicit_input(
        &mut self,
        rows: usize,
        channels: usize,
        d_input: Span,
        epilogue: Option<GradientEpilogue>,
    ) -> Result<()> {
        self.launch("conv2d_backward_input")?;
        let rest = epilogue.filter(|_| !implicit::sums_columns(rows, channels));
        self.gradient_epilogue(rows, channels, d_input, rest)
    }

    /// Pieces of `rows` rows of columns, of which `at_once` go together.
    fn pieces(&mut self, rows: usize, at_once: usize, kernels: [&'static str; 2]) {
        for _ in 0..rows.div_ceil(at_once.max(1)) {
            self.launched.extend(kernels);
        }
    }

    /// Rows of columns that fit the workspace.
    fn rows_at_once(&self, op: &Conv2d) -> usize {
        self.columns_bytes / (op.patch_len() * self.real_size())
    }

    fn over_columns(&mut self, op: &Conv2d, batch: usize) -> Result<()> {
        if op.is_pointwise() {
            return self.launch(PRODUCT);
        }
        let (rows, at_once) = (batch * op.output()?.pixels(), self.rows_at_once(op));
        self.pieces(rows, at_once, ["im2col", PRODUCT]);
        Ok(())
    }

    fn bias_activation_forward(&mut self, activation: Activation, bias: Option<Span>) -> Result<()> {
        match (bias, activation) {
            (Some(_), _) => self.launch("bias_activation_forward"),
            (None, Activation::Identity) => Ok(()),
            (None, _) => self.launch("activation_forward"),
        }
    }
}

impl ConvOps for Launches {
    fn conv2d_forward(&mut self, op: &Conv2d, batch: usize, spans: Conv2dForward) -> Result<()> {
        if self.is_implicit() {
            self.launch("conv2d_forward")?;
            let rest = spans.pool.filter(|pool| !implicit::fuses(&pool.op));
            return rest.map_or(Ok(()), |_| self.launch("max_pool_forward"));
        }
        match self.is_direct(op) {
            true => self.launch("direct_forward")?,
            false => self.over_columns(op, batch)?,
        }
        match spans.pool {
            Some(_) => self.launch("max_pool_forward"),
            None if self.is_direct(op) => Ok(()),
            None => self.bias_activation_forward(spans.activation, spans.bias),
        }
    }

    fn conv2d_backward_weight(&mut self, op: &Conv2d, batch: usize, _spans: Conv2dBackwardWeight) -> Result<()> {
        match self.is_direct(op) {
            _ if self.is_implicit() => self.launch("conv2d_backward_weight"),
            true => self.launch("direct_backward_weight"),
            false => self.over_columns(op, batch),
        }
    }

    fn conv2d_backward_input(&mut self, op: &Conv2d, batch: usize, spans: Conv2dBackwardInput) -> Result<()> {
        if self.is_implicit() {
            return self.implicit_input(batch * op.input.pixels(), op.input.channels, spans.d_input, spans.epilogue);
        }
        match op.is_pointwise() {
            true => self.launch(PRODUCT)?,
            false => {
                let samples_at_once = self.rows_at_once(op) / op.output()?.pixels();
                self.pieces(batch, samples_at_once, [PRODUCT, "col2im"]);
            }
        }
        self.gradient_epilogue(batch * op.input.pixels(), op.input.channels, spans.d_input, spans.epilogue)
    }
}

impl LinearOps for Launches {
    fn linear_forward(&mut self, _op: &Linear, _batch: usize, spans: LinearForward) -> Result<()> {
        if self.is_implicit() {
            return self.launch("conv2d_forward");
        }
        self.launch(PRODUCT)?;
        self.bias_activation_forward(spans.activation, spans.bias)
    }

    fn linear_backward_weight(&mut self, _op: &Linear, _batch: usize, _spans: LinearBackwardWeight) -> Result<()> {
        self.launch(if self.is_implicit() { "conv2d_backward_weight" } else { PRODUCT })
    }

    fn linear_backward_input(&mut self, op: &Linear, batch: usize, spans: LinearBackwardInput) -> Result<()> {
        if self.is_implicit() {
            return self.implicit_input(batch, op.in_features, spans.d_input, spans.epilogue);
        }
        self.launch(PRODUCT)?;
        self.gradient_epilogue(batch, op.in_features, spans.d_input, spans.epilogue)
    }
}
