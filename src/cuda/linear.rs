//! The linear layer on CUDA: three products by cuBLAS.

use anyhow::Result;

use super::Cuda;
use super::gemm::{Operand, Product};
use crate::ops::{BiasOps, Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, LinearOps};

impl LinearOps for Cuda {
    fn linear_forward(&mut self, op: &Linear, batch: usize, spans: LinearForward) -> Result<()> {
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
        })?;
        self.bias_activation_forward(spans.activation, batch, op.out_features, spans.bias, spans.output)
    }

    fn linear_backward_weight(&mut self, op: &Linear, batch: usize, spans: LinearBackwardWeight) -> Result<()> {
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

    fn linear_backward_input(&mut self, op: &Linear, batch: usize, spans: LinearBackwardInput) -> Result<()> {
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
        })?;
        self.gradient_epilogue(batch, op.in_features, spans.d_input, spans.epilogue)
    }
}
