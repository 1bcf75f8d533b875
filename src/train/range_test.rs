//! The learning-rate range test (Smith, "Cyclical learning rates for training neural networks", 2017): training at
//! learning rates that grow from step to step shows at which of them the loss falls fastest.

use anyhow::{Context, Result, ensure};

use super::Trainer;
use crate::ops::Backend;

/// The learning rates of a range test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateRange {
    pub min: f32,
    pub max: f32,
    /// At least two.
    pub steps: usize,
}

impl RateRange {
    /// The rate of step `step`, counted from 0: from `min` to `max`, each the same multiple of the one before.
    pub fn rate(&self, step: usize) -> f32 {
        let (min, max) = (f64::from(self.min), f64::from(self.max));
        (min * (max / min).powf(step as f64 / (self.steps - 1) as f64)) as f32
    }
}

/// One step of a range test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RangeStep {
    pub rate: f32,
    /// The step's loss before its update. The last may be infinite or NaN.
    pub loss: f64,
    /// The average of the losses so far with exponentially falling weights, corrected for its beginning at 0.
    pub smoothed: f64,
}

/// Why a range test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeEnding {
    /// After the highest rate.
    Complete,
    /// The smoothed loss exceeded [`RangeTest::MOST_RISE`] times its minimum, or was not finite.
    Diverged,
}

/// The result of a range test, and how its numbers follow from the losses.
#[derive(Clone, Debug, PartialEq)]
pub struct RangeTest {
    pub range: RateRange,
    pub steps: Vec<RangeStep>,
    sum: f64,
}

/// What a range test suggests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suggestion {
    /// The rate at which the smoothed loss falls fastest.
    pub steepest: f32,
    /// The rate at which the smoothed loss is lowest.
    pub lowest: f32,
}

impl Suggestion {
    /// The lower of the steepest rate, which PyTorch Lightning suggests, and a tenth of the lowest one, the older rule of
    /// fastai. If the loss begins on a plateau, it falls fastest just before it diverges.
    pub fn rate(&self) -> f32 {
        self.steepest.min(self.lowest / 10.0)
    }
}

impl RangeTest {
    /// The weight of the average so far, as in fastai and PyTorch Lightning.
    pub const SMOOTHING: f64 = 0.98;
    /// The multiple of its minimum at which the smoothed loss ends the test, as in fastai and PyTorch Lightning.
    pub const MOST_RISE: f64 = 4.0;
    /// The fraction of the smoothed loss that must be lost for a suggestion; a smaller fall may be noise.
    pub const LEAST_FALL: f64 = 0.01;

    pub fn new(range: RateRange) -> Self {
        Self { range, steps: Vec::new(), sum: 0.0 }
    }

    /// Adds the loss of the next step. Returns whether the test goes on.
    pub fn push(&mut self, loss: f64) -> bool {
        let rate = self.range.rate(self.steps.len());
        self.sum = Self::SMOOTHING * self.sum + (1.0 - Self::SMOOTHING) * loss;
        let smoothed = self.sum / (1.0 - Self::SMOOTHING.powi(self.steps.len() as i32 + 1));
        self.steps.push(RangeStep { rate, loss, smoothed });
        self.ending().is_none()
    }

    /// Why the test is over; `None` if it goes on.
    pub fn ending(&self) -> Option<RangeEnding> {
        let last = self.steps.last()?.smoothed;
        let lowest = self.steps.iter().map(|step| step.smoothed).fold(f64::INFINITY, f64::min);
        if !last.is_finite() || last > Self::MOST_RISE * lowest {
            return Some(RangeEnding::Diverged);
        }
        (self.steps.len() == self.range.steps).then_some(RangeEnding::Complete)
    }

    /// The rates at which the smoothed loss falls fastest, by central differences, and is lowest. The first tenth of the
    /// steps, whose averages are of few losses, and the last step do not count.
    ///
    /// # Errors
    /// The test ended too early, or the loss did not fall.
    pub fn suggestion(&self) -> Result<Suggestion> {
        let (first, end) = (self.range.steps / 10, self.steps.len().saturating_sub(1));
        let counted = self.steps.get(first..end).unwrap_or_default();
        ensure!(
            counted.len() >= 3,
            "the loss diverged after {} steps, at a learning rate of {:e}; a lower --min-lr gives more steps before that",
            self.steps.len(),
            self.steps.last().map_or(0.0, |step| step.rate)
        );
        let lowest = counted.iter().min_by(|a, b| a.smoothed.total_cmp(&b.smoothed)).context("no step")?;
        let before = counted[0].smoothed;
        ensure!(
            lowest.smoothed < (1.0 - Self::LEAST_FALL) * before,
            "the smoothed loss hardly fell, from {before:.4} to {:.4}{}",
            lowest.smoothed,
            match self.ending() {
                Some(RangeEnding::Diverged) => ", before it diverged: try more --steps",
                _ => ": try a higher --max-lr, or more --steps",
            }
        );
        let slope = |at: usize| {
            let (left, right) = (at.saturating_sub(1), (at + 1).min(counted.len() - 1));
            (counted[right].smoothed - counted[left].smoothed) / (right - left) as f64
        };
        let steepest = (0..counted.len()).min_by(|&a, &b| slope(a).total_cmp(&slope(b))).context("no step")?;
        Ok(Suggestion { steepest: counted[steepest].rate, lowest: lowest.rate })
    }
}

impl<B: Backend> Trainer<B> {
    /// Trains one step at each rate of the range, from the current weights, until the loss diverges. The weights are then
    /// those after the test.
    pub fn range_test(&mut self, range: RateRange) -> Result<RangeTest> {
        ensure!(range.steps >= 2 && range.min > 0.0 && range.min < range.max, "a range test needs a range of rates");
        self.backend.log_steps(self.batches_per_epoch() as usize)?;
        let mut test = RangeTest::new(range);
        while test.ending().is_none() {
            if self.position.step_in_epoch == self.steps_per_epoch() {
                self.position.epoch += 1;
                self.position.step_in_epoch = 0;
            }
            if self.position.step_in_epoch == 0 {
                self.unfreeze_if_due();
                self.begin_epoch()?;
            }
            self.backend.set_learning_rates(&[range.rate(test.steps.len())])?;
            let step = self.position.total_steps;
            self.step()?;
            let losses = self.take_step_losses(step)?;
            test.push(losses.first().context("the device reported no loss")?.loss.into());
        }
        Ok(test)
    }
}
