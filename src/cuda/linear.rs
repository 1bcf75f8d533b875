//! The linear layer on CUDA, by the algorithm that was chosen for it: products by cuBLAS, or the implicit convolution of
//! one pixel.

use anyhow::Result;

use super::Cuda;
use super::algorithm::{Direction, Site};
use super::gemm::{Operand, Product};
use crate::ops::{
    Algorithm, BiasOps, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, Linear, LinearBackwardInput,
    LinearBackwardWeight, LinearForward, LinearOps,
};
use crate::shape::{Shape, Window};

/// The convolution that a linear layer is.
fn as_conv(op: &Linear) -> Conv2d {
    let window = Window { kernel: 1, stride: 1, padding: 0 };
    Conv2d::new(Shape::new(1, 1, op.in_features), op.out_features, window)
}

impl LinearOps for Cuda {
    fn linear_forward(&mut self, op: &Linear, batch: usize, spans: LinearForward) -> Result<()> {
        let LinearForward { input, weight, bias, activation, output } = spans;
        let conv = as_conv(op);
        self.with_algorithm(Site::linear(Direction::Forward, &conv, batch, false), |cuda, algorithm| match algorithm {
            Algorithm::Implicit => {
                let spans = Conv2dForward { input, weight, bias, activation, output, pool: None };
                cuda.implicit_forward(&conv, batch, &spans)
            }
            _ => {
                cuda.blas_forward(op, batch, spans)?;
                cuda.bias_activation_forward(activation, batch, op.out_features, bias, output)
            }
        })
    }

    fn linear_backward_weight(&mut self, op: &Linear, batch: usize, spans: LinearBackwardWeight) -> Result<()> {
        self.join_branch()?;
        let LinearBackwardWeight { input, d_output, d_weight } = spans;
        let conv = as_conv(op);
        let site = Site::linear(Direction::BackwardWeight, &conv, batch, false);
        self.with_algorithm(site, |cuda, algorithm| {
            cuda.beside(|cuda| match algorithm {
                Algorithm::Implicit => {
                    cuda.implicit_weight(&conv, batch, Conv2dBackwardWeight { input, d_output, d_weight })
                }
                _ => cuda.blas_weight(op, batch, spans),
            })
        })
    }

    fn linear_backward_input(&mut self, op: &Linear, batch: usize, spans: LinearBackwardInput) -> Result<()> {
        let LinearBackwardInput { d_output, weight, d_input, epilogue } = spans;
        let conv = as_conv(op);
        let site = Site::linear(Direction::BackwardInput, &conv, batch, epilogue.is_some());
        self.with_algorithm(site, |cuda, algorithm| match algorithm {
            Algorithm::Implicit => {
                cuda.implicit_input(&conv, batch, Conv2dBackwardInput { d_output, weight, d_input, epilogue })
            }
            _ => {
                cuda.blas_input(op, batch, spans)?;
                cuda.gradient_epilogue(batch, op.in_features, d_input, epilogue)
            }
        })
    }
}

impl Cuda {
    fn blas_forward(&mut self, op: &Linear, batch: usize, spans: LinearForward) -> Result<()> {
        let memory = self.memory()?;
        // x [n, in] · Wᵀ [in, out] → y [n, out]
        self.blas.product(Product {
            m: batch,
            n: op.out_features,
            k: op.in_features,
            a: Operand { address: memory.address(spans.input)?, transposed: false },
            b: Operand { address: memory.weight_address(spans.weight)?, transposed: true },
            c: memory.address(spans.output)?,
            float_result: false,
            accumulate: false,
        })
    }

    fn blas_weight(&mut self, op: &Linear, batch: usize, spans: LinearBackwardWeight) -> Result<()> {
        let memory = self.memory()?;
        // d_yᵀ [out, n] · x [n, in] → d_weight [out, in]
        self.blas.product(Product {
            m: op.out_features,
            n: op.in_features,
            k: batch,
            a: Operand { address: memory.address(spans.d_output)?, transposed: true },
            b: Operand { address: memory.address(spans.input)?, transposed: false },
            c: memory.address(spans.d_weight)?,
            float_result: true,
            accumulate: false,
        })
    }

    fn blas_input(&mut self, op: &Linear, batch: usize, spans: LinearBackwardInput) -> Result<()> {
        let memory = self.memory()?;
        // d_y [n, out] · W [out, in] → d_x [n, in]
        self.blas.product(Product {
            m: batch,
            n: op.in_features,
            k: op.out_features,
            a: Operand { address: memory.address(spans.d_output)?, transposed: false },
            b: Operand { address: memory.weight_address(spans.weight)?, transposed: false },
            c: memory.address(spans.d_input)?,
            float_result: false,
            accumulate: false,
        })
    }
}
