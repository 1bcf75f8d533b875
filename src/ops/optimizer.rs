//! Optimisers over the flat buffers: SGD, Adam, AdamW and Muon (`torch.optim`), in groups of parameters.

use std::ops::Range;

use anyhow::{Result, ensure};

use super::Region;
use super::operands::operator;

/// How an update changes the parameters.
///
/// With `clip_norm`, gradients are first clipped as in `torch.nn.utils.clip_grad_norm_`: multiplied by `clip_norm /
/// (norm + 1e-6)` if that is below 1, with the L2 norm of all gradients but those of the frozen parameters at the
/// beginning. With `average_decay`, the update also maintains an exponential moving average of the weights, `average =
/// decay · average + (1 − decay) · w`; with `average_warm_up`, the decay after `t` updates is at most `(1 + t) / (10 + t)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Optimizer {
    pub rule: Rule,
    pub weight_decay: f32,
    pub clip_norm: Option<f32>,
    pub average_decay: Option<f64>,
    pub average_warm_up: bool,
}

/// The rule by which a gradient changes its weight. Rates and decays are those of the parameter's [`Group`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    Sgd(Sgd),
    Adam(Adam),
    Muon(Muon),
}

/// SGD as PyTorch defines it (dampening 0):
/// `g = gradient + weight_decay · w`; with momentum, `b = momentum · b + g` and `g = b`, or with Nesterov momentum
/// `g = g + momentum · b`; then `w = w − learning_rate · g`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    pub momentum: f32,
    pub nesterov: bool,
}

/// Adam and AdamW as PyTorch defines them (without AMSGrad), in update `t`, counted from 1:
/// with `decoupled` weight decay (AdamW), `w = w − learning_rate · weight_decay · w`, else `g = gradient + weight_decay ·
/// w`; then `m = β₁ · m + (1 − β₁) · g`, `v = β₂ · v + (1 − β₂) · g²` and
/// `w = w − learning_rate / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + epsilon)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// β₁ and β₂, in f64 because `1 − β₂` has few significant bits in f32.
    pub betas: [f64; 2],
    pub epsilon: f32,
    /// AdamW: weight decay is not part of the gradient.
    pub decoupled: bool,
}

/// Muon for groups of matrices, `[rows][columns]`, as PyTorch defines it (`torch.optim.Muon`; Jordan et al., "Muon: An
/// optimizer for hidden layers in neural networks", 2024): a step of size `learning_rate` along [`MuonDirection`], with
/// decoupled weight decay. Other parameters take steps of `sgd`.
///
/// With `normalises`, as in airbench's `airbench94_muon`, each matrix is first scaled to the norm √rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    pub momentum: f32,
    pub nesterov: bool,
    /// Iterations of Newton and Schulz.
    pub iterations: u32,
    pub normalises: bool,
    pub sgd: Sgd,
}

impl Default for Muon {
    /// PyTorch's defaults of Muon, and SGD with Nesterov momentum for other parameters, as in airbench's `airbench94_muon`.
    fn default() -> Self {
        let sgd = Sgd { momentum: 0.9, nesterov: true };
        Self { momentum: 0.95, nesterov: true, iterations: 5, normalises: false, sgd }
    }
}

impl Default for Rule {
    fn default() -> Self {
        Self::Sgd(Sgd::default())
    }
}

impl Default for Adam {
    /// PyTorch's defaults.
    fn default() -> Self {
        Self { betas: [0.9, 0.999], epsilon: 1e-8, decoupled: false }
    }
}

impl Rule {
    /// SGD with the given momentum.
    pub fn sgd(momentum: f32, nesterov: bool) -> Self {
        Self::Sgd(Sgd { momentum, nesterov })
    }

    /// Whether there is a buffer of momentum, or of Adam's first moment.
    pub fn has_momentum(&self) -> bool {
        match self {
            Self::Sgd(sgd) => sgd.momentum != 0.0,
            Self::Adam(_) | Self::Muon(_) => true,
        }
    }

    /// Whether there is a buffer of Adam's second moment.
    pub fn has_second_moment(&self) -> bool {
        matches!(self, Self::Adam(_))
    }

    /// The name for display.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sgd(_) => "SGD",
            Self::Adam(Adam { decoupled: false, .. }) => "Adam",
            Self::Adam(Adam { decoupled: true, .. }) => "AdamW",
            Self::Muon(_) => "Muon",
        }
    }
}

impl Adam {
    /// `1 / (1 − β₁ᵗ)` and `1 / √(1 − β₂ᵗ)`, for the update after `updates` others: `t = updates + 1`.
    pub fn bias_corrections(&self, updates: u64) -> [f64; 2] {
        let [first, second] = self.betas.map(|beta| 1.0 - power(beta, updates.saturating_add(1)));
        [1.0 / first, 1.0 / second.sqrt()]
    }
}

/// `base` to the power of `exponent` by repeated squaring, as `kernels/optimizer.cu` computes it.
fn power(mut base: f64, mut exponent: u64) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}

/// A range of the flat parameters that is updated in the same way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// The end of the range, which begins where the group before it ends.
    pub end: usize,
    /// The factor of the learning rate.
    pub rate_scale: f32,
    /// The factor of weight decay, 0 where none applies.
    pub decay_scale: f32,
    /// Whether the parameters do not change.
    pub frozen: bool,
    /// Whether Muon updates the parameters: their gradients are then its directions.
    pub is_matrix: bool,
}

impl Group {
    /// A group of ordinary parameters.
    pub const fn plain(end: usize) -> Self {
        Self { end, rate_scale: 1.0, decay_scale: 1.0, frozen: false, is_matrix: false }
    }

    pub const fn frozen(end: usize) -> Self {
        Self { frozen: true, ..Self::plain(end) }
    }
}

/// The most groups that an update can have; `MAX_GROUPS` in `kernels/optimizer.cu`.
pub const MAX_GROUPS: usize = 8;

/// The groups of an update. Parameters after the last group are a plain group of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Groups {
    all: [Group; MAX_GROUPS],
    count: usize,
}

impl Default for Groups {
    fn default() -> Self {
        Self { all: [Group::plain(0); MAX_GROUPS], count: 0 }
    }
}

impl Groups {
    /// # Errors
    /// There are more than [`MAX_GROUPS`], or they are not in order.
    pub fn new(groups: &[Group]) -> Result<Self> {
        ensure!(groups.len() <= MAX_GROUPS, "{} groups of parameters; at most {MAX_GROUPS} are possible", groups.len());
        ensure!(groups.is_sorted_by_key(|group| group.end), "the groups of parameters overlap");
        let mut this = Self { count: groups.len(), ..Self::default() };
        this.all[..groups.len()].copy_from_slice(groups);
        Ok(this)
    }

    /// The first `frozen` parameters do not change.
    pub const fn frozen(frozen: usize) -> Self {
        let mut all = [Group::plain(0); MAX_GROUPS];
        all[0] = Group::frozen(frozen);
        Self { all, count: 1 }
    }

    /// How many of `len` parameters are frozen before the first that is not.
    pub fn frozen_len(&self, len: usize) -> usize {
        let ranges = self.ranges(len);
        ranges.iter().take_while(|(_, group)| group.frozen).last().map_or(0, |(range, _)| range.end)
    }

    /// The ranges of `len` parameters that are not empty, with their groups.
    pub fn ranges(&self, len: usize) -> Vec<(Range<usize>, Group)> {
        let mut begin = 0;
        let groups = self.all[..self.count].iter().copied().chain([Group::plain(len)]);
        let range = |group: Group| {
            let range = begin..group.end.min(len);
            begin = range.end.max(begin);
            (range, group)
        };
        groups.map(range).filter(|(range, _)| !range.is_empty()).collect()
    }
}

impl Optimizer {
    /// The factor that clips gradients of norm `norm`. NaN is propagated, so that it shows up in the weights.
    pub fn clip_factor(clip_norm: f32, norm: f32) -> f32 {
        let factor = clip_norm / (norm + 1e-6);
        if factor > 1.0 { 1.0 } else { factor }
    }

    /// The coefficients of the average and of the weight in the average's update after `updates` others, 0 and 1 without
    /// an average. `kernels/optimizer.cu` does the same.
    pub fn average_coefficients(&self, updates: u64) -> (f32, f32) {
        let (decay, updates) = (self.average_decay.unwrap_or(0.0), updates as f64);
        let most = if self.average_warm_up { (1.0 + updates) / (10.0 + updates) } else { 1.0 };
        let decay = decay.min(most);
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
    pub struct OptimizerUpdate {
        value op: Optimizer,
        value groups: Groups,
        updates weights: B,
        reads gradients: B,
        /// Momentum, or Adam's first moment.
        updates momentum: Option<B>,
        /// Only with Adam.
        updates second_moment: Option<B>,
        /// Only with a weight average.
        updates average: Option<B>,
    }
    describe(self) { format!("{}, rounded weights", self.op.rule.name()) }
    flops(self, len) {
        let average = self.average.map_or(0, |_| 3);
        let clipping = self.op.clip_norm.map_or(0, |_| 3);
        let rule = match self.op.rule {
            Rule::Sgd(_) if self.momentum.is_none() => 4,
            Rule::Sgd(_) | Rule::Muon(_) => 6,
            Rule::Adam(_) => 15,
        };
        (rule + average + clipping) * len(self.weights)
    }
    // Clipping reads the gradients a second time.
    elements(self, len) {
        let buffers = self.reads().len() + self.writes().len() + usize::from(self.op.clip_norm.is_some());
        buffers * len(self.weights)
    }
}

impl OptimizerUpdate {
    /// The regions of its buffers, in field order.
    pub const REGIONS: [Region; 5] =
        [Region::Parameters, Region::Gradients, Region::Momentum, Region::SecondMoment, Region::Average];
}

impl<B> OptimizerUpdate<B> {
    /// An update with the buffers that `op` needs.
    pub fn new(op: Optimizer, groups: Groups, [weights, gradients, momentum, second_moment, average]: [B; 5]) -> Self {
        let momentum = op.rule.has_momentum().then_some(momentum);
        let second_moment = op.rule.has_second_moment().then_some(second_moment);
        Self { op, groups, weights, gradients, momentum, second_moment, average: op.average_decay.map(|_| average) }
    }
}

operator! {
    /// Replaces the gradient `g` of a matrix by Muon's direction: with `b = momentum · b + g` and `u = b`, or with Nesterov
    /// momentum `u = g + momentum · b`, the orthogonalised `u` times √max(1, rows / columns).
    ///
    /// `u / max(‖u‖, 10⁻⁷)` is nearly orthogonalised by a few iterations of Newton and Schulz, `x = a x + (b x xᵀ + c (x
    /// xᵀ)²) x` with the coefficients of [`MuonDirection::COEFFICIENTS`]; for more rows than columns, of the transpose.
    pub struct MuonDirection {
        value op: Muon,
        value rows: usize,
        updates gradient: B,
        updates momentum: B,
        /// The matrix itself, if it is normalised.
        updates weight: Option<B>,
        /// For the first matrix of a step, the gradients of all trained parameters. With a loss scale, the step must not change
        /// any momentum if one of them is not finite.
        reads all_gradients: Option<B>,
    }
    describe(self) { "Muon's direction".into() }
    flops(self, len) {
        let columns = len(self.gradient) / self.rows;
        let (short, long) = (self.rows.min(columns), self.rows.max(columns));
        let iteration = 4 * short * short * long + 2 * short * short * short;
        self.op.iterations as usize * iteration + 4 * len(self.gradient)
    }
}

impl MuonDirection {
    /// a, b and c.
    pub const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
    /// The smallest norm that is divided by.
    pub const MIN_NORM: f32 = 1e-7;

    /// Values that the iteration keeps, on a backend that divides the work between several launches: the matrix and its
    /// successor, and two square matrices of the shorter side.
    pub fn scratch_len(rows: usize, columns: usize) -> usize {
        let short = rows.min(columns);
        2 * (rows * columns + short * short)
    }

    /// √max(1, rows / columns)
    pub fn scale(&self) -> f32 {
        let columns = self.gradient.len / self.rows;
        (self.rows as f32 / columns as f32).max(1.0).sqrt()
    }
}
