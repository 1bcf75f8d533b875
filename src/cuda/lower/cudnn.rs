//! Convolutions by cuDNN. Bias, activation and everything else that follows are separate passes.

use anyhow::Result;

use super::Lowering;
use super::params::params;
use crate::cuda::convolution::{Convolution, Direction, MAX_ALIGNMENT, Problem};
use crate::cuda::program::{Address, Buffer, Launch};
use crate::ops::{Conv2d, Conv2dBackwardWeight, Conv2dForward, Span};

/// The workspace, that of the im2col columns. With 16-bit storage, it starts with the weight gradient as cuDNN writes it.
const WORKSPACE: Address = Address::at(Buffer::Columns);

impl Lowering<'_> {
    /// A convolution of `input` with `weight` to `output`, or of their gradients.
    pub(super) fn convolution(
        &self,
        direction: Direction,
        op: &Conv2d,
        input: Span,
        [weight, output]: [Address; 2],
    ) -> Convolution<Address> {
        let rounded_gradient = self.rounded_gradient_bytes(direction, op);
        let weight = if rounded_gradient > 0 { WORKSPACE } else { weight };
        let tensors = [self.address(input), weight, output];
        let alignments = tensors.map(|address| address.alignment(MAX_ALIGNMENT));
        let workspace = self.target.columns.saturating_sub(rounded_gradient);
        let problem = Problem { direction, op: *op, batch: input.len / op.input.len(), alignments, workspace };
        Convolution { problem, tensors, workspace: WORKSPACE.plus(rounded_gradient) }
    }

    /// Whether cuDNN is a candidate for a problem.
    pub(super) fn cudnn_applies(&mut self, problem: &Problem) -> bool {
        let rounded_gradient = self.rounded_gradient_bytes(problem.direction, &problem.op);
        problem.batch > 0 && rounded_gradient <= self.target.columns && self.choose.cudnn_applies(problem)
    }

    /// Bytes of the weight gradient in the workspace; 0 if cuDNN writes it to its place.
    fn rounded_gradient_bytes(&self, direction: Direction, op: &Conv2d) -> usize {
        let is_rounded = direction == Direction::BackwardWeight && self.is_16_bit();
        if is_rounded { (2 * op.weight_len()).next_multiple_of(256) } else { 0 }
    }

    pub(super) fn cudnn_forward(&mut self, conv: &Conv2dForward, convolution: Convolution<Address>) -> Result<()> {
        self.cudnn(convolution);
        self.bias_activation_forward(conv.activation, conv.op.out_channels, conv.bias, conv.output)
    }

    pub(super) fn cudnn_backward_weight(
        &mut self,
        conv: &Conv2dBackwardWeight,
        convolution: Convolution<Address>,
    ) -> Result<()> {
        self.cudnn(convolution);
        if !self.is_16_bit() {
            return Ok(());
        }
        let Conv2dBackwardWeight { d_weight, .. } = *conv;
        let params = params!(self.target, 24 bytes, [source = WORKSPACE, target = d_weight], count: u64 = d_weight.len);
        self.launch_over("widen", d_weight.len, params)
    }

    /// Launches a convolution alone.
    pub(super) fn cudnn(&mut self, convolution: Convolution<Address>) {
        self.launches.push(Launch::Cudnn(convolution));
    }
}
