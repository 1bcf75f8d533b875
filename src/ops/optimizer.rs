//! Stochastic gradient descent over the flat buffers (`torch.optim.SGD`).

use super::Region;
use super::operands::operator;

/// SGD as PyTorch defines it (dampening 0):
/// `g = gradient + weight_decay · w`; with momentum, `b = momentum · b + g` and `g = b`, or with Nesterov momentum
/// `g = g + momentum · b`; then `w = w − learning_rate · g`.
///
/// With `clip_norm`, gradients are first clipped as in `torch.nn.utils.clip_grad_norm_`: multiplied by `clip_norm /
/// (norm + 1e-6)` if that is below 1, with the L2 norm of all gradients. With `average_decay`, the update also
/// maintains an exponential moving average of the weights, `average = decay · average + (1 − decay) · w`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    pub momentum: f32,
    pub nesterov: bool,
    pub weight_decay: f32,
    pub clip_norm: Option<f32>,
    pub average_decay: Option<f64>,
    /// The number of leading parameters that are frozen.
    pub frozen: usize,
}

impl Sgd {
    /// The factor that clips gradients of norm `norm`. NaN is propagated, so that it shows up in the weights.
    pub fn clip_factor(clip_norm: f32, norm: f32) -> f32 {
        let factor = clip_norm / (norm + 1e-6);
        if factor > 1.0 { 1.0 } else { factor }
    }

    /// The coefficients of the average and of the weight in the average's update; 0 and 1 without an average.
    pub fn average_coefficients(&self) -> (f32, f32) {
        let decay = self.average_decay.unwrap_or(0.0);
        (decay as f32, (1.0 - decay) as f32)
    }
}

/// The dynamic loss scale of half-precision training. Gradients are those of `scale` times the loss, so that small ones
/// do not underflow. A step with overflowing gradients is skipped and halves the scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    pub scale: f32,
    /// Successful steps since the last change of the scale, which doubles after 2000 of them.
    pub good_steps: u32,
    pub skipped_steps: u64,
}

impl Default for LossScale {
    /// The initial scale of PyTorch's `GradScaler`.
    fn default() -> Self {
        Self { scale: 65536.0, good_steps: 0, skipped_steps: 0 }
    }
}

operator! {
    /// One update of all parameters. Every buffer is a whole region.
    pub struct SgdUpdate {
        value op: Sgd,
        updates weights: B,
        reads gradients: B,
        /// Only with momentum.
        updates momentum: Option<B>,
        /// Only with a weight average.
        updates average: Option<B>,
    }
    describe(self) { "SGD, rounded weights".into() }
    flops(self, len) {
        let average = self.average.map_or(0, |_| 3);
        let clipping = self.op.clip_norm.map_or(0, |_| 3);
        (if self.momentum.is_some() { 6 } else { 4 } + average + clipping) * len(self.weights)
    }
    // Clipping reads the gradients a second time.
    elements(self, len) {
        let buffers = self.reads().len() + self.writes().len() + usize::from(self.op.clip_norm.is_some());
        buffers * len(self.weights)
    }
}

impl SgdUpdate {
    /// The regions of its buffers, in field order.
    pub const REGIONS: [Region; 4] = [Region::Parameters, Region::Gradients, Region::Momentum, Region::Average];
}

impl<B> SgdUpdate<B> {
    /// An update with the buffers that `op` needs.
    pub fn new(op: Sgd, [weights, gradients, momentum, average]: [B; 4]) -> Self {
        let momentum = (op.momentum != 0.0).then_some(momentum);
        Self { op, weights, gradients, momentum, average: op.average_decay.map(|_| average) }
    }
}
