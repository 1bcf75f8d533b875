//! What convolutions and linear layers launch, by the algorithm that they are given.

use anyhow::Result;

use super::super::algorithm::{Direction, Site, instead_of};
use super::super::{direct, implicit};
use super::Launches;
use crate::ops::{
    Activation, Algorithm, BiasOps, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, ConvOps,
    GradientEpilogue, Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, LinearOps, Span,
};

/// A product by cuBLAS, one launch of several kernels' names.
const PRODUCT: &str = "cuBLAS product";

/// The same by cuBLASLt, bias and ReLU or their gradients included.
const ENDED_PRODUCT: &str = "cuBLASLt product";

impl Launches {
    /// The algorithm that a device chose, the one asked for, or the one of fewest launches; where an operator does not have
    /// it, what a device takes instead. Input gradients and linear layers have no direct kernels.
    fn algorithm(&self, site: &Site, has_direct: bool, has_lt: bool) -> Algorithm {
        let mut candidates = vec![Algorithm::Im2col, Algorithm::Implicit];
        candidates.extend(has_direct.then_some(Algorithm::Direct));
        candidates.extend(has_lt.then_some(Algorithm::CublasLt));
        let fewest = if has_direct { Algorithm::Direct } else { Algorithm::Implicit };
        let chosen = self.chosen.get(&site.name(self.precision)).copied();
        let algorithm = chosen.or(self.algorithm).unwrap_or(fewest);
        if candidates.contains(&algorithm) { algorithm } else { instead_of(algorithm, &candidates) }
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
}

impl ConvOps for Launches {
    fn conv2d_forward(&mut self, op: &Conv2d, batch: usize, spans: Conv2dForward) -> Result<()> {
        if !op.is_plain() {
            self.launch("grouped_forward")?;
            return if spans.pool.is_some() { self.launch("max_pool_forward") } else { Ok(()) };
        }
        let site = Site::new(Direction::Forward, op, batch, spans.pool.is_some());
        let algorithm = self.algorithm(&site, direct::applies(op), false);
        match algorithm {
            Algorithm::Implicit => self.launch("conv2d_forward")?,
            Algorithm::Direct => self.launch("direct_forward")?,
            Algorithm::Im2col | Algorithm::CublasLt => self.over_columns(op, batch)?,
        }
        match spans.pool {
            Some(pool) if algorithm == Algorithm::Implicit && implicit::fuses(&pool.op) => Ok(()),
            Some(_) => self.launch("max_pool_forward"),
            None if algorithm != Algorithm::Im2col => Ok(()),
            None => self.bias_activation_forward(spans.activation, spans.bias),
        }
    }

    fn conv2d_backward_weight(&mut self, op: &Conv2d, batch: usize, _spans: Conv2dBackwardWeight) -> Result<()> {
        if !op.is_plain() {
            return self.launch("grouped_backward_weight");
        }
        let site = Site::new(Direction::BackwardWeight, op, batch, false);
        match self.algorithm(&site, direct::applies(op), false) {
            Algorithm::Implicit => self.launch("conv2d_backward_weight"),
            Algorithm::Direct => self.launch("direct_backward_weight"),
            Algorithm::Im2col | Algorithm::CublasLt => self.over_columns(op, batch),
        }
    }

    fn conv2d_backward_input(&mut self, op: &Conv2d, batch: usize, spans: Conv2dBackwardInput) -> Result<()> {
        let (rows, channels) = (batch * op.input.pixels(), op.input.channels);
        let site = Site::new(Direction::BackwardInput, op, batch, spans.epilogue.is_some());
        if op.is_plain() && self.algorithm(&site, false, false) == Algorithm::Implicit {
            return self.implicit_input(rows, channels, spans.d_input, spans.epilogue);
        }
        match op.is_pointwise() {
            _ if !op.is_plain() => self.launch("grouped_backward_input")?,
            true => self.launch(PRODUCT)?,
            false => {
                let samples_at_once = self.rows_at_once(op) / op.output()?.pixels();
                self.pieces(batch, samples_at_once, [PRODUCT, "col2im"]);
            }
        }
        self.gradient_epilogue(rows, channels, spans.d_input, spans.epilogue)
    }
}

impl LinearOps for Launches {
    fn linear_forward(&mut self, op: &Linear, batch: usize, spans: LinearForward) -> Result<()> {
        let site = Site::linear_forward(op, batch, &spans);
        match self.algorithm(&site, false, spans.bias.is_some()) {
            Algorithm::Implicit => self.launch("conv2d_forward"),
            Algorithm::CublasLt => {
                self.launch(ENDED_PRODUCT)?;
                let ended = spans.activation == Activation::Relu;
                self.bias_activation_forward(if ended { Activation::Identity } else { spans.activation }, None)
            }
            Algorithm::Im2col | Algorithm::Direct => {
                self.launch(PRODUCT)?;
                self.bias_activation_forward(spans.activation, spans.bias)
            }
        }
    }

    fn linear_backward_weight(&mut self, op: &Linear, batch: usize, spans: LinearBackwardWeight) -> Result<()> {
        let left = spans.d_bias.filter(|d_bias| self.left.contains(&d_bias.offset));
        let site = Site::linear_backward_weight(op, batch, left.is_some());
        let algorithm = self.algorithm(&site, false, left.is_some());
        if left.is_some() && algorithm != Algorithm::CublasLt {
            self.launch("bias_activation_backward")?;
        }
        match algorithm {
            Algorithm::Implicit => self.launch("conv2d_backward_weight"),
            Algorithm::CublasLt => self.launch(ENDED_PRODUCT),
            Algorithm::Im2col | Algorithm::Direct => self.launch(PRODUCT),
        }
    }

    fn linear_backward_input(&mut self, op: &Linear, batch: usize, spans: LinearBackwardInput) -> Result<()> {
        let (channels, epilogue) = (op.in_features, spans.epilogue);
        let site = Site::linear_backward_input(op, batch, epilogue.as_ref());
        let algorithm = self.algorithm(&site, false, site.has_signs());
        if let Some(d_bias) = epilogue.and_then(|it| it.d_bias) {
            let is_left = algorithm == Algorithm::CublasLt && self.precision == "fp16";
            self.left.remove(&d_bias.offset);
            self.left.extend(is_left.then_some(d_bias.offset));
        }
        match algorithm {
            Algorithm::Implicit => self.implicit_input(batch, channels, spans.d_input, epilogue),
            Algorithm::CublasLt => self.launch(ENDED_PRODUCT),
            Algorithm::Im2col | Algorithm::Direct => {
                self.launch(PRODUCT)?;
                self.gradient_epilogue(batch, channels, spans.d_input, epilogue)
            }
        }
    }
}
