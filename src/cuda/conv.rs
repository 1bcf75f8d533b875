//! Convolution on CUDA, by the algorithm that was chosen for it: an implicit product, or im2col in pieces that fit the
//! workspace, then cuBLAS.

use anyhow::Result;

use super::Cuda;
use super::algorithm::{Direction, Site};
use super::gemm::{Operand, Product};
use super::kernels::{Arg, u32_arg};
use crate::ops::{Algorithm, BiasOps, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, ConvOps, Span};
use crate::shape::{Shape, Window};

impl ConvOps for Cuda {
    fn conv2d_forward(&mut self, op: &Conv2d, batch: usize, spans: Conv2dForward) -> Result<()> {
        if !op.is_plain() {
            return self.grouped_forward(op, batch, &spans);
        }
        let site = Site::new(Direction::Forward, op, batch, spans.pool.is_some());
        self.with_algorithm(site, |cuda, algorithm| match algorithm {
            Algorithm::Implicit => cuda.implicit_forward(op, batch, &spans),
            Algorithm::Direct => cuda.direct_forward(op, batch, &spans),
            Algorithm::Im2col | Algorithm::CublasLt => cuda.im2col_forward(op, batch, &spans),
        })
    }

    fn conv2d_backward_weight(&mut self, op: &Conv2d, batch: usize, spans: Conv2dBackwardWeight) -> Result<()> {
        self.join_branch()?;
        if !op.is_plain() {
            return self.grouped_weight(op, batch, spans);
        }
        let site = Site::new(Direction::BackwardWeight, op, batch, false);
        self.with_algorithm(site, |cuda, algorithm| match algorithm {
            Algorithm::Implicit => cuda.beside(|cuda| cuda.implicit_weight(op, batch, spans)),
            Algorithm::Direct => cuda.beside(|cuda| cuda.direct_backward_weight(op, batch, &spans)),
            // There is one place for columns.
            Algorithm::Im2col | Algorithm::CublasLt if !op.is_pointwise() => cuda.im2col_weight(op, batch, spans),
            Algorithm::Im2col | Algorithm::CublasLt => cuda.beside(|cuda| cuda.im2col_weight(op, batch, spans)),
        })
    }

    fn conv2d_backward_input(&mut self, op: &Conv2d, batch: usize, spans: Conv2dBackwardInput) -> Result<()> {
        if !op.is_plain() {
            return self.grouped_input(op, batch, spans);
        }
        let site = Site::new(Direction::BackwardInput, op, batch, spans.epilogue.is_some());
        self.with_algorithm(site, |cuda, algorithm| match algorithm {
            Algorithm::Implicit => cuda.implicit_input(op, batch, spans),
            _ => {
                cuda.im2col_input(op, batch, spans)?;
                let rows = batch * op.input.pixels();
                cuda.gradient_epilogue(rows, op.input.channels, spans.d_input, spans.epilogue)
            }
        })
    }
}

impl Cuda {
    fn im2col_forward(&mut self, op: &Conv2d, batch: usize, spans: &Conv2dForward) -> Result<()> {
        let output = op.output()?;
        let memory = self.memory()?;
        let (weight, y) = (memory.weight_address(spans.weight)?, memory.address(spans.output)?);
        self.over_columns(op, output, batch, spans.input, |cuda, first, count, columns| {
            // columns [count, k·k·ic] · Wᵀ [k·k·ic, oc] → y [count, oc]
            cuda.blas.product(Product {
                m: count,
                n: output.channels,
                k: op.patch_len(),
                a: Operand { address: columns, transposed: false },
                b: Operand { address: weight, transposed: true },
                c: y + (first * output.channels * cuda.real_size()) as u64,
                float_result: false,
                accumulate: false,
            })
        })?;
        self.end_convolution(op, batch, spans)
    }

    fn im2col_weight(&mut self, op: &Conv2d, batch: usize, spans: Conv2dBackwardWeight) -> Result<()> {
        let output = op.output()?;
        let memory = self.memory()?;
        let (d_y, d_weight) = (memory.address(spans.d_output)?, memory.address(spans.d_weight)?);
        self.over_columns(op, output, batch, spans.input, |cuda, first, count, columns| {
            // d_yᵀ [oc, count] · columns [count, k·k·ic] → d_weight [oc, k·k·ic], pieces in order
            cuda.blas.product(Product {
                m: output.channels,
                n: op.patch_len(),
                k: count,
                a: Operand { address: d_y + (first * output.channels * cuda.real_size()) as u64, transposed: true },
                b: Operand { address: columns, transposed: false },
                c: d_weight,
                float_result: true,
                accumulate: first > 0,
            })
        })
    }

    fn im2col_input(&mut self, op: &Conv2d, batch: usize, spans: Conv2dBackwardInput) -> Result<()> {
        let output = op.output()?;
        let memory = self.memory()?;
        let (d_y, d_x) = (memory.address(spans.d_output)?, memory.address(spans.d_input)?);
        let weight = memory.weight_address(spans.weight)?;
        let columns = memory.columns.address();
        // d_y [rows, oc] · W [oc, k·k·ic] → d_columns [rows, k·k·ic]
        let product = |first: usize, rows: usize, c: u64, cuda: &Self| {
            cuda.blas.product(Product {
                m: rows,
                n: op.patch_len(),
                k: output.channels,
                a: Operand { address: d_y + (first * output.channels * cuda.real_size()) as u64, transposed: false },
                b: Operand { address: weight, transposed: false },
                c,
                float_result: false,
                accumulate: false,
            })
        };
        if op.is_pointwise() {
            return product(0, batch * output.pixels(), d_x, self);
        }
        let vectorised = self.vectorised(&[op.input.channels], &[spans.d_input]);
        let kernel = if vectorised { "col2im_vec" } else { "col2im" };
        let samples_at_once = (self.columns_capacity(op)? / output.pixels()).max(1);
        for first in (0..batch).step_by(samples_at_once) {
            let samples = samples_at_once.min(batch - first);
            product(first * output.pixels(), samples * output.pixels(), columns, self)?;
            let mut args =
                vec![Arg::Pointer(columns), Arg::Pointer(d_x), Arg::U64(first as u64), Arg::U64(samples as u64)];
            args.extend(window_args(op.input, output, op.window)?);
            let lanes = if vectorised { self.vector() } else { 1 };
            self.launch(kernel, samples * op.input.len() / lanes, &args)?;
        }
        Ok(())
    }

    fn real_size(&self) -> usize {
        if self.is_fp16() { 2 } else { 4 }
    }

    /// Rows of this convolution's columns that fit the workspace.
    fn columns_capacity(&self, op: &Conv2d) -> Result<usize> {
        Ok(self.memory()?.columns.len() / (op.patch_len() * self.real_size()))
    }

    /// Calls `body(self, first row, rows, address of their columns)` for pieces of the columns: the input itself where
    /// the convolution is pointwise, else their im2col.
    fn over_columns(
        &self,
        op: &Conv2d,
        output: Shape,
        batch: usize,
        input: Span,
        body: impl Fn(&Self, usize, usize, u64) -> Result<()>,
    ) -> Result<()> {
        let rows = batch * output.pixels();
        let x = self.memory()?.address(input.first(batch * op.input.len()))?;
        if op.is_pointwise() {
            return body(self, 0, rows, x);
        }
        let columns = self.memory()?.columns.address();
        let vectorised = self.vectorised(&[op.input.channels], &[input]);
        let (kernel, lanes) = if vectorised { ("im2col_vec", self.vector()) } else { ("im2col", 1) };
        let rows_at_once = self.columns_capacity(op)?.max(1);
        for first in (0..rows).step_by(rows_at_once) {
            let count = rows_at_once.min(rows - first);
            let mut args = vec![Arg::Pointer(x), Arg::Pointer(columns), Arg::U64(first as u64), Arg::U64(count as u64)];
            args.extend(window_args(op.input, output, op.window)?);
            self.launch(kernel, count * op.patch_len() / lanes, &args)?;
            body(self, first, count, columns)?;
        }
        Ok(())
    }
}

/// Height, width and channels of the input, height and width of the output, and the window: what every windowed kernel
/// takes last.
pub(super) fn window_args(input: Shape, output: Shape, window: Window) -> Result<Vec<Arg>> {
    let Window { kernel, stride, padding } = window;
    [input.height, input.width, input.channels, output.height, output.width, kernel, stride, padding]
        .into_iter()
        .map(u32_arg)
        .collect()
}
