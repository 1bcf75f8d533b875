//! The linear layer by the chosen algorithm: cuBLAS, cuBLASLt with bias and activation (or their gradients) as an
//! epilogue, or implicit GEMM as the convolution of one pixel.

use anyhow::Result;

use super::Lowering;
use super::grid::ImplicitProduct;
use super::site::{Site, as_conv};
use crate::cuda::convolution::Direction;
use crate::cuda::gemm::{EpilogueKind, Gemm, LtEpilogue, Operand, ReluMask};
use crate::cuda::program::{Address, Launch};
use crate::ops::{
    Activation, Algorithm, BiasActivationBackward, Candidate, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward,
    GradientEpilogue, Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, RunOn, Span,
};

impl RunOn<Lowering<'_>> for LinearForward {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { op, activation, input, weight, bias, output, relu_mask } = *self;
        let batch = input.len / op.in_features;
        let epilogue = lowering.forward_epilogue(self);
        // x [n, in] · Wᵀ [in, out] → y [n, out]
        let (x, w) = (Operand::plain(lowering.address(input)), Operand::transposed(lowering.weight(weight)));
        let gemm = Gemm::new([batch, op.out_features, op.in_features], x, w, lowering.address(output));
        let mask = relu_mask.is_some() && activation == Activation::Relu;
        let site = Site { mask, ..lowering.linear_site(Direction::Forward, &op, batch) };
        let (pointwise, residual, pool, statistics) = (as_conv(&op), None, None, None);
        let conv = Conv2dForward { op: pointwise, activation, input, weight, bias, residual, output, pool, statistics };
        let product = lowering.forward_product(&conv);
        let candidate = lowering.choose_product(&site, &gemm, epilogue, product);
        match (candidate.algorithm, epilogue) {
            (Algorithm::Implicit, _) => lowering.implicit_forward(&conv, candidate),
            (Algorithm::CublasLt, Some(epilogue)) => {
                lowering.launches.push(Launch::LtGemm(gemm, epilogue));
                if epilogue.kind == EpilogueKind::BiasRelu {
                    lowering.masks.extend(relu_mask);
                    return Ok(());
                }
                lowering.bias_activation_forward(activation, op.out_features, None, output)
            }
            _ => {
                lowering.gemm(gemm);
                lowering.bias_activation_forward(activation, op.out_features, bias, output)
            }
        }
    }
}

impl RunOn<Lowering<'_>> for LinearBackwardWeight {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { op, input, d_output, d_weight, d_bias } = *self;
        let batch = input.len / op.in_features;
        let deferred = d_bias.filter(|d_bias| lowering.deferred.contains(d_bias));
        let bias = deferred.map(|d_bias| lowering.address(d_bias));
        let epilogue = bias.map(|_| LtEpilogue { kind: EpilogueKind::BiasGradient, bias, mask: None });
        // d_yᵀ [out, n] · x [n, in] → d_weight [out, in]
        let (d_y, x) = (Operand::transposed(lowering.address(d_output)), Operand::plain(lowering.address(input)));
        let gemm = Gemm::new([op.out_features, op.in_features, batch], d_y, x, lowering.address(d_weight));
        let gemm = Gemm { float_result: true, ..gemm };
        let epilogue_name = if deferred.is_some() { "with epilogue" } else { "" };
        let site = Site { epilogue: epilogue_name, ..lowering.linear_site(Direction::BackwardWeight, &op, batch) };
        let conv = Conv2dBackwardWeight { op: as_conv(&op), input, d_output, d_weight };
        let product = lowering.backward_weight_product(&conv);
        let candidate = lowering.choose_product(&site, &gemm, epilogue, product);
        if let (Algorithm::CublasLt, Some(epilogue)) = (candidate.algorithm, epilogue) {
            lowering.launches.push(Launch::LtGemm(gemm, epilogue));
            return Ok(());
        }
        if let Some(d_bias) = deferred {
            let (activation, channels, d_bias) = (Activation::Identity, op.out_features, Some(d_bias));
            BiasActivationBackward { activation, channels, output: d_output, d_output, d_bias }.run_on(lowering)?;
        }
        if candidate.algorithm == Algorithm::Implicit {
            return lowering.implicit_backward_weight(&conv, candidate);
        }
        lowering.gemm(gemm);
        Ok(())
    }
}

impl RunOn<Lowering<'_>> for LinearBackwardInput {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { op, d_output, weight, d_input, epilogue } = *self;
        let batch = d_input.len / op.in_features;
        let lt_epilogue = lowering.input_epilogue(&op, epilogue);
        // d_y [n, out] · W [out, in] → d_x [n, in]
        let (d_y, w) = (Operand::plain(lowering.address(d_output)), Operand::plain(lowering.weight(weight)));
        let gemm = Gemm::new([batch, op.in_features, op.out_features], d_y, w, lowering.address(d_input));
        let mask = epilogue.is_some_and(|it| it.relu_mask.is_some() && it.activation == Activation::Relu);
        let site = lowering.linear_site(Direction::BackwardInput, &op, batch);
        let site = Site { epilogue: if epilogue.is_some() { "with epilogue" } else { "" }, mask, ..site };
        let (added, norm) = (None, None);
        let conv = Conv2dBackwardInput { op: as_conv(&op), d_output, weight, d_input, added, epilogue, norm };
        let product = lowering.backward_input_product(&conv);
        let candidate = lowering.choose_product(&site, &gemm, lt_epilogue, product);
        match (candidate.algorithm, lt_epilogue) {
            (Algorithm::Implicit, _) => lowering.implicit_backward_input(&conv, candidate),
            (Algorithm::CublasLt, Some(lt_epilogue)) => {
                lowering.launches.push(Launch::LtGemm(gemm, lt_epilogue));
                if lowering.is_16_bit() {
                    lowering.deferred.extend(epilogue.and_then(|it| it.d_bias));
                }
                Ok(())
            }
            _ => {
                lowering.gemm(gemm);
                lowering.gradient_epilogue(op.in_features, d_input, epilogue)
            }
        }
    }
}

impl Lowering<'_> {
    /// The site of a layer's product, without epilogue and mask.
    fn linear_site(&self, direction: Direction, op: &Linear, batch: usize) -> Site {
        let precision = self.target.precision;
        Site { direction, op: as_conv(op), batch, linear: true, epilogue: "", mask: false, precision }
    }

    /// Chooses a candidate. `product` is what implicit GEMM would compute.
    fn choose_product(
        &mut self,
        site: &Site,
        gemm: &Gemm<Address>,
        epilogue: Option<LtEpilogue<Address>>,
        product: Result<ImplicitProduct>,
    ) -> Candidate {
        let mut candidates = vec![Algorithm::Gemm.into()];
        candidates.extend(self.implicit_candidates(product));
        let by_lt = epilogue.is_some_and(|epilogue| self.choose.lt_supports(gemm, &epilogue));
        candidates.extend(by_lt.then_some(Candidate::from(Algorithm::CublasLt)));
        self.choose(site, &candidates)
    }

    /// The part of bias and activation that cuBLASLt can fuse into the forward product; `None` without a bias.
    fn forward_epilogue(&self, linear: &LinearForward) -> Option<LtEpilogue<Address>> {
        let bias = Some(self.weight(linear.bias?));
        let mask = linear.relu_mask.map(|mask| self.relu_mask(mask, linear.op.out_features));
        Some(match linear.activation {
            Activation::Relu => LtEpilogue { kind: EpilogueKind::BiasRelu, bias, mask },
            _ => LtEpilogue { kind: EpilogueKind::Bias, bias, mask: None },
        })
    }

    /// The epilogue that cuBLASLt can fuse into an input gradient: the gradient of a ReLU whose mask the forward
    /// product has written. With 16-bit storage the bias gradient is deferred to the weight gradient, because
    /// cuBLASLt would round it here.
    fn input_epilogue(&self, op: &Linear, epilogue: Option<GradientEpilogue>) -> Option<LtEpilogue<Address>> {
        let epilogue = epilogue.filter(|epilogue| epilogue.activation == Activation::Relu)?;
        let mask = epilogue.relu_mask.filter(|mask| self.masks.contains(mask))?;
        let bias = epilogue.d_bias.filter(|_| !self.is_16_bit()).map(|d_bias| self.address(d_bias));
        Some(LtEpilogue { kind: EpilogueKind::ReluGradient, bias, mask: Some(self.relu_mask(mask, op.in_features)) })
    }

    fn relu_mask(&self, span: Span, features: usize) -> ReluMask<Address> {
        ReluMask { address: self.address(span), leading: features.next_multiple_of(128) }
    }
}
