//! Stochastic gradient descent over the flat buffers (`torch.optim.SGD`).

use anyhow::Result;

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

/// The optimiser.
pub trait OptimizerOps {
    /// The learning rates of the steps that follow, one each; the last holds on.
    ///
    /// # Errors
    /// Where there is none.
    fn set_learning_rates(&mut self, rates: &[f32]) -> Result<()>;

    /// One update of all parameters from all gradients.
    fn sgd_step(&mut self, op: &Sgd) -> Result<()>;

    /// Exchanges the parameters and their average, so that the average is evaluated; another call puts them back.
    fn swap_average(&mut self) -> Result<()>;

    /// The loss scale, where the precision needs one; waits for the device.
    fn loss_scale(&mut self) -> Result<Option<LossScale>> {
        Ok(None)
    }

    /// Goes on with a loss scale; without effect where the precision needs none.
    fn set_loss_scale(&mut self, _loss_scale: LossScale) -> Result<()> {
        Ok(())
    }
}
