//! Stochastic gradient descent over the flat buffers (`torch.optim.SGD`).

use super::Region;
use super::operands::operator;

/// SGD as PyTorch defines it (dampening 0):
/// `g = gradient + weight_decay · w`; with momentum `b = momentum · b + g` and `g = b`, or with Nesterov's
/// `g = g + momentum · b`; then `w = w − learning_rate · g`.
///
/// Before that, all gradients together may be clipped as `torch.nn.utils.clip_grad_norm_` does: multiplied by
/// `clip_norm / (norm + 1e-6)`, where that is below 1 and `norm` is the root of the sum of all their squares. Behind it,
/// an exponential moving average of the weights may follow them, `average = decay · average + (1 − decay) · w`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    pub momentum: f32,
    pub nesterov: bool,
    pub weight_decay: f32,
    pub clip_norm: Option<f32>,
    pub average_decay: Option<f64>,
    /// So many of the first parameters are never changed.
    pub frozen: usize,
}

impl Sgd {
    /// What gradients of that norm are multiplied by. NaN stays, so that it shows in the weights.
    pub fn clip_factor(clip_norm: f32, norm: f32) -> f32 {
        let factor = clip_norm / (norm + 1e-6);
        if factor > 1.0 { 1.0 } else { factor }
    }

    /// What the average and the weight are multiplied by; without an average, 0 and 1.
    pub fn average_shares(&self) -> (f32, f32) {
        let decay = self.average_decay.unwrap_or(0.0);
        (decay as f32, (1.0 - decay) as f32)
    }
}

/// The dynamic loss scale of half-precision training: gradients are computed of `scale` times the loss, so that small
/// ones do not vanish, and a step whose gradients overflow is skipped and halves it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    pub scale: f32,
    /// Steps since the last change; 2000 of them double the scale.
    pub good_steps: u32,
    pub skipped_steps: u64,
}

impl Default for LossScale {
    /// Where PyTorch's `GradScaler` begins.
    fn default() -> Self {
        Self { scale: 65536.0, good_steps: 0, skipped_steps: 0 }
    }
}

operator! {
    /// One update of all parameters from all gradients.
    pub struct SgdUpdate {
        value op: Sgd,
        /// All of their regions.
        updates weights: B,
        reads gradients: B,
        /// Where there is momentum.
        updates momentum: Option<B>,
        /// Where there is an average.
        updates average: Option<B>,
    }
    describe(self) { "SGD, rounded weights".into() }
    flops(self, len) {
        let average = self.average.map_or(0, |_| 3);
        let clipping = self.op.clip_norm.map_or(0, |_| 3);
        (if self.momentum.is_some() { 6 } else { 4 } + average + clipping) * len(self.weights)
    }
    // For clipping, the gradients are read once more.
    elements(self, len) {
        let buffers = self.reads().len() + self.writes().len() + usize::from(self.op.clip_norm.is_some());
        buffers * len(self.weights)
    }
}

impl SgdUpdate {
    /// Of its buffers, in their order.
    pub const REGIONS: [Region; 4] = [Region::Parameters, Region::Gradients, Region::Momentum, Region::Average];
}

impl<B> SgdUpdate<B> {
    /// With those of the buffers that `op` needs.
    pub fn new(op: Sgd, [weights, gradients, momentum, average]: [B; 4]) -> Self {
        let momentum = (op.momentum != 0.0).then_some(momentum);
        Self { op, weights, gradients, momentum, average: op.average_decay.map(|_| average) }
    }
}
