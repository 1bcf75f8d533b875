//! The linear layer on CUDA, by the algorithm that was chosen for it: products by cuBLAS, products by cuBLASLt that end in
//! bias and activation or in their gradients, or the implicit convolution of one pixel.

use anyhow::{Context, Result};

use super::Cuda;
use super::algorithm::Site;
use super::gemm::{Operand, Product};
use super::gemm_lt::{Ending, Signs};
use super::together::Left;
use crate::ops::{
    Activation, Algorithm, BiasOps, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, GradientEpilogue,
    Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, LinearOps, Span,
};
use crate::shape::{Shape, Window};

/// The convolution that a linear layer is.
pub(super) fn as_conv(op: &Linear) -> Conv2d {
    let window = Window { kernel: 1, stride: 1, padding: 0 };
    Conv2d::new(Shape::new(1, 1, op.in_features), op.out_features, window)
}

impl LinearOps for Cuda {
    fn linear_forward(&mut self, op: &Linear, batch: usize, spans: LinearForward) -> Result<()> {
        let LinearForward { input, weight, bias, activation, output, signs } = spans;
        let (conv, ending) = (as_conv(op), self.forward_ending(op, &spans)?);
        let site = Site::linear_forward(op, batch, &spans);
        let by_lt = self.lt_offers(ending, || self.forward_product(op, batch, spans))?;
        let site = site.or_by_lt(by_lt);
        let run = |cuda: &mut Self, algorithm| match (algorithm, ending) {
            (Algorithm::Implicit, _) => {
                let spans = Conv2dForward { input, weight, bias, activation, output, pool: None };
                cuda.implicit_forward(&conv, batch, &spans)
            }
            (Algorithm::CublasLt, Some(ending)) => cuda.lt_forward(op, batch, spans, ending),
            _ => {
                cuda.blas.product(cuda.forward_product(op, batch, spans)?)?;
                cuda.bias_activation_forward(activation, batch, op.out_features, bias, output)
            }
        };
        let algorithm = self.choose(site, 0.0, &run)?;
        if let Some(signs) = signs {
            let by_lt = algorithm == Algorithm::CublasLt;
            // The way back is yet to be tried with signs, which may be worth a slower product here.
            let for_a_trial = !by_lt && !self.capturing && !self.is_settled(&site) && self.toll_of_lt(&site).is_some();
            if for_a_trial {
                run(self, Algorithm::CublasLt)?;
            }
            let kept = &mut self.memory_mut()?.signs;
            if by_lt || for_a_trial {
                kept.insert(signs.offset, site)
            } else {
                kept.remove(&signs.offset)
            };
        }
        run(self, algorithm)
    }

    fn linear_backward_weight(&mut self, op: &Linear, batch: usize, spans: LinearBackwardWeight) -> Result<()> {
        self.join_branch()?;
        let plain = Site::linear_backward_weight(op, batch, false);
        let run_plain = |cuda: &mut Self, algorithm| cuda.weight_alone(op, batch, spans, algorithm);
        let left = spans.d_bias.and_then(|d_bias| Some((d_bias, *self.memory().ok()?.left.get(&d_bias.offset)?)));
        let Some((d_bias, left)) = left else { return self.with_algorithm(plain, run_plain) };
        let ending = Ending::BiasGradient { d_bias: self.memory()?.address(d_bias)? };
        let by_lt = self.lt_offers(Some(ending), || self.weight_product(op, batch, spans))?;
        let site = Site::linear_backward_weight(op, batch, true).or_by_lt(by_lt);
        let run = |cuda: &mut Self, algorithm| match algorithm {
            Algorithm::CublasLt => cuda.beside(|cuda| cuda.lt_product(&cuda.weight_product(op, batch, spans)?, ending)),
            _ => {
                // Not beside: it writes the gradient, unchanged, that the input gradient reads.
                let (identity, d_output) = (Activation::Identity, spans.d_output);
                cuda.bias_activation_backward(identity, batch, op.out_features, d_output, d_output, Some(d_bias))?;
                run_plain(cuda, algorithm)
            }
        };
        let algorithm = self.choose(site, 0.0, &run)?;
        if !self.capturing {
            self.settle_sum(left, site, plain, &run_plain)?;
        }
        run(self, algorithm)
    }

    fn linear_backward_input(&mut self, op: &Linear, batch: usize, spans: LinearBackwardInput) -> Result<()> {
        let LinearBackwardInput { d_output, weight, d_input, epilogue } = spans;
        let (conv, ending) = (as_conv(op), self.input_ending(op, epilogue)?);
        let site = Site::linear_backward_input(op, batch, epilogue.as_ref());
        let by_lt = self.lt_offers(ending, || self.input_product(op, batch, spans))?;
        let forward = epilogue.and_then(|it| self.memory().ok()?.signs.get(&it.signs?.offset).copied());
        let toll = forward.and_then(|forward| self.toll_of_lt(&forward)).unwrap_or(0.0);
        let run = |cuda: &mut Self, algorithm| match (algorithm, ending) {
            (Algorithm::Implicit, _) => {
                cuda.implicit_input(&conv, batch, Conv2dBackwardInput { d_output, weight, d_input, epilogue })
            }
            (Algorithm::CublasLt, Some(ending)) => cuda.lt_product(&cuda.input_product(op, batch, spans)?, ending),
            _ => {
                cuda.blas.product(cuda.input_product(op, batch, spans)?)?;
                cuda.gradient_epilogue(batch, op.in_features, d_input, epilogue)
            }
        };
        let site = site.or_by_lt(by_lt);
        let algorithm = self.choose(site, toll, &run)?;
        let by_lt = algorithm == Algorithm::CublasLt;
        if let Some(forward) = forward.filter(|_| !self.capturing) {
            self.settle(forward, by_lt);
        }
        if let Some(d_bias) = epilogue.and_then(|it| it.d_bias) {
            let left = forward.filter(|_| by_lt && self.is_fp16()).map(|forward| Left { input: site, forward });
            let all = &mut self.memory_mut()?.left;
            all.remove(&d_bias.offset);
            all.extend(left.map(|left| (d_bias.offset, left)));
        }
        run(self, algorithm)
    }
}

/// Products by cuBLASLt.
impl Cuda {
    /// What of a layer's end cuBLASLt does with the product; nothing where it can do nothing.
    fn forward_ending(&self, op: &Linear, spans: &LinearForward) -> Result<Option<Ending>> {
        let Some(bias) = spans.bias else { return Ok(None) };
        let bias = self.memory()?.weight_address(bias)?;
        let signs = |span| self.signs(span, op.out_features);
        Ok(Some(match spans.activation {
            Activation::Relu => Ending::BiasRelu { bias, signs: spans.signs.map(signs).transpose()? },
            _ => Ending::Bias { bias },
        }))
    }

    /// What of an epilogue cuBLASLt does with the product: back through a ReLU whose signs it has left on the way forward. In
    /// fp16 the bias gradient is left to the weight gradient.
    fn input_ending(&self, op: &Linear, epilogue: Option<GradientEpilogue>) -> Result<Option<Ending>> {
        let is_relu = |epilogue: &GradientEpilogue| epilogue.activation == Activation::Relu;
        let Some(GradientEpilogue { signs: Some(signs), d_bias, .. }) = epilogue.filter(is_relu) else {
            return Ok(None);
        };
        if !self.memory()?.signs.contains_key(&signs.offset) {
            return Ok(None);
        }
        let d_bias = match d_bias {
            // It would have the type of the product, and be rounded.
            Some(d_bias) if !self.is_fp16() => Some(self.memory()?.address(d_bias)?),
            _ => None,
        };
        Ok(Some(Ending::ReluGradient { signs: self.signs(signs, op.in_features)?, d_bias }))
    }

    fn signs(&self, span: Span, features: usize) -> Result<Signs> {
        Ok(Signs { address: self.memory()?.address(span)?, leading: features.next_multiple_of(128) })
    }

    fn lt_offers(&self, ending: Option<Ending>, product: impl Fn() -> Result<Product>) -> Result<bool> {
        let Some(ending) = ending.filter(|_| self.considers_lt()) else { return Ok(false) };
        self.blas.lt().map_or(Ok(false), |lt| Ok(lt.offers(&product()?, ending)))
    }

    fn lt_product(&self, product: &Product, ending: Ending) -> Result<()> {
        self.blas.lt().context("cuBLASLt is gone")?.product(product, ending)
    }

    fn lt_forward(&mut self, op: &Linear, batch: usize, spans: LinearForward, ending: Ending) -> Result<()> {
        self.lt_product(&self.forward_product(op, batch, spans)?, ending)?;
        let count = batch * op.out_features;
        match ending {
            Ending::Bias { .. } => self.bias_activation_forward(spans.activation, count, 1, None, spans.output),
            _ => Ok(()),
        }
    }
}

/// Weight gradients.
impl Cuda {
    /// One without the bias gradient.
    fn weight_alone(
        &mut self,
        op: &Linear,
        batch: usize,
        spans: LinearBackwardWeight,
        algorithm: Algorithm,
    ) -> Result<()> {
        let LinearBackwardWeight { input, d_output, d_weight, .. } = spans;
        self.beside(|cuda| match algorithm {
            Algorithm::Implicit => {
                cuda.implicit_weight(&as_conv(op), batch, Conv2dBackwardWeight { input, d_output, d_weight })
            }
            _ => cuda.blas.product(cuda.weight_product(op, batch, spans)?),
        })
    }
}

/// Products as cuBLAS and cuBLASLt take them.
impl Cuda {
    fn forward_product(&self, op: &Linear, batch: usize, spans: LinearForward) -> Result<Product> {
        let memory = self.memory()?;
        // x [n, in] · Wᵀ [in, out] → y [n, out]
        Ok(Product {
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

    fn weight_product(&self, op: &Linear, batch: usize, spans: LinearBackwardWeight) -> Result<Product> {
        let memory = self.memory()?;
        // d_yᵀ [out, n] · x [n, in] → d_weight [out, in]
        Ok(Product {
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

    fn input_product(&self, op: &Linear, batch: usize, spans: LinearBackwardInput) -> Result<Product> {
        let memory = self.memory()?;
        // d_y [n, out] · W [out, in] → d_x [n, in]
        Ok(Product {
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
