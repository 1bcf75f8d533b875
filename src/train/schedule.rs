//! The learning-rate schedule of a run.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How the learning rate changes after the warm-up. It has the same form in files and on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Schedule {
    #[default]
    Constant,
    /// Multiplied by `factor` after every `epochs` epochs (`torch.optim.lr_scheduler.StepLR`).
    Step { epochs: u32, factor: f32 },
    /// A linear fall to `end` times the rate (`LinearLR` with `start_factor=1`, stepped after every step).
    Linear { end: f32 },
    /// Half a cosine from the rate to zero (`CosineAnnealingLR`, stepped after every step).
    Cosine,
    /// A linear rise to the rate over the fraction `rise` of the run, then a linear fall to nearly zero (`OneCycleLR`
    /// with `anneal_strategy="linear"` and its default factors 25 and 10⁴).
    OneCycle { rise: f32 },
}

/// How long the rate rises linearly from nearly zero, before the schedule begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmUp {
    Epochs(u32),
    Steps(u64),
}

impl Default for WarmUp {
    fn default() -> Self {
        Self::Epochs(0)
    }
}

impl WarmUp {
    pub fn steps(self, steps_per_epoch: u64) -> u64 {
        match self {
            Self::Epochs(epochs) => u64::from(epochs) * steps_per_epoch,
            Self::Steps(steps) => steps,
        }
    }
}

/// Learning rate, schedule and warm-up of a run.
///
/// ```
/// use cnn_cuda::train::{LearningRate, Schedule, WarmUp};
///
/// let cosine = LearningRate { rate: 0.1, schedule: Schedule::Cosine, warm_up: WarmUp::Epochs(1) };
/// let (steps_per_epoch, epochs) = (100, 5);
/// assert_eq!(cosine.at(49, steps_per_epoch, epochs), 0.05);
/// assert_eq!(cosine.at(300, steps_per_epoch, epochs), 0.05);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LearningRate {
    /// The initial learning rate; the highest one for one-cycle.
    pub rate: f32,
    pub schedule: Schedule,
    pub warm_up: WarmUp,
}

impl LearningRate {
    /// A rate that never changes.
    pub fn constant(rate: f32) -> Self {
        Self { rate, schedule: Schedule::Constant, warm_up: WarmUp::default() }
    }

    /// The learning rate of optimiser step `step`, counted from 0, in a run of `epochs` epochs.
    pub fn at(&self, step: u64, steps_per_epoch: u64, epochs: u32) -> f32 {
        let warm_up = self.warm_up.steps(steps_per_epoch);
        if step < warm_up {
            return (f64::from(self.rate) * (step + 1) as f64 / warm_up as f64) as f32;
        }
        let (step, total) = (step - warm_up, (u64::from(epochs) * steps_per_epoch).saturating_sub(warm_up));
        let factor = match self.schedule {
            Schedule::Constant => return self.rate,
            Schedule::Step { epochs, factor } => {
                let drops = step / (u64::from(epochs) * steps_per_epoch);
                f64::from(factor).powi(i32::try_from(drops).unwrap_or(i32::MAX))
            }
            Schedule::Linear { end } => 1.0 - step as f64 / total as f64 * (1.0 - f64::from(end)),
            Schedule::Cosine => (1.0 + (std::f64::consts::PI * step as f64 / total as f64).cos()) / 2.0,
            Schedule::OneCycle { rise } => one_cycle(step as f64, total as f64, f64::from(rise)),
        };
        (f64::from(self.rate) * factor) as f32
    }
}

/// PyTorch's `OneCycleLR`, as a fraction of its highest rate.
fn one_cycle(step: f64, total: f64, rise: f64) -> f64 {
    const FIRST: f64 = 1.0 / 25.0;
    const LAST: f64 = FIRST / 1e4;
    let (top, end) = (rise * total - 1.0, total - 1.0);
    let line = |from: f64, to: f64, fraction: f64| from + (to - from) * fraction.clamp(0.0, 1.0);
    // A rise of a single step starts at the top.
    let risen = if top > 0.0 { step / top } else { 1.0 };
    if step <= top { line(FIRST, 1.0, risen) } else { line(1.0, LAST, (step - top) / (end - top)) }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let numbers: Vec<&str> = parts.collect();
        let fraction = |text: &str| text.parse::<f32>().ok().filter(|value| *value > 0.0 && *value < 1.0);
        match (name, &numbers[..]) {
            ("constant", []) => Ok(Self::Constant),
            ("linear", []) => Ok(Self::Linear { end: 0.0 }),
            ("linear", [end]) => {
                let end = end.parse().ok().filter(|end| (0.0..1.0).contains(end));
                let end = end.ok_or("linear:END takes a factor of at least 0 and below 1")?;
                Ok(Self::Linear { end })
            }
            ("cosine", []) => Ok(Self::Cosine),
            ("one-cycle", []) => Ok(Self::OneCycle { rise: 0.3 }),
            ("one-cycle", [rise]) => {
                let rise = fraction(rise).ok_or("one-cycle:RISE takes a fraction of the run above 0 and below 1")?;
                Ok(Self::OneCycle { rise })
            }
            ("step", [epochs, factor]) => {
                let epochs = epochs.parse().ok().filter(|epochs| *epochs > 0);
                let epochs = epochs.ok_or("step:EPOCHS:FACTOR takes a whole number of epochs")?;
                let factor = fraction(factor).ok_or("step:EPOCHS:FACTOR takes a factor above 0 and below 1")?;
                Ok(Self::Step { epochs, factor })
            }
            _ => {
                let names = "constant, step:EPOCHS:FACTOR, linear, linear:END, cosine, one-cycle or one-cycle:RISE";
                Err(format!("it must be {names}"))
            }
        }
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.to_string()
    }
}

impl TryFrom<String> for Schedule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Step { epochs, factor } => write!(f, "step:{epochs}:{factor}"),
            Self::Linear { end } => write!(f, "linear:{end}"),
            Self::Cosine => f.write_str("cosine"),
            Self::OneCycle { rise } => write!(f, "one-cycle:{rise}"),
        }
    }
}
