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

/// The optimiser.
pub trait OptimizerOps {
    /// The learning rate of the steps that follow.
    fn set_learning_rate(&mut self, learning_rate: f32) -> Result<()>;

    /// One update of all parameters from all gradients.
    fn sgd_step(&mut self, op: &Sgd) -> Result<()>;
}
