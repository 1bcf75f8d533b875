//! Stochastic gradient descent over the flat buffers (`torch.optim.SGD`).

use anyhow::Result;

/// SGD as PyTorch defines it (dampening 0):
/// `g = gradient + weight_decay · w`; with momentum `b = momentum · b + g` and `g = b`, or with Nesterov's
/// `g = g + momentum · b`; then `w = w − learning_rate · g`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    pub momentum: f32,
    pub nesterov: bool,
    pub weight_decay: f32,
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

    /// The loss scale, where the precision needs one; waits for the device.
    fn loss_scale(&mut self) -> Result<Option<LossScale>> {
        Ok(None)
    }

    /// Goes on with a loss scale; without effect where the precision needs none.
    fn set_loss_scale(&mut self, _loss_scale: LossScale) -> Result<()> {
        Ok(())
    }
}
