//! The axis of a chart: a range with ticks at round numbers.

/// An axis from `low` to `high`, with a tick at every multiple of `step`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    pub low: f64,
    pub high: f64,
    pub step: f64,
}

impl Axis {
    /// The smallest axis with about `ticks` round ticks that contains `low..=high` and stays within `limits`.
    pub fn around(low: f64, high: f64, ticks: usize, limits: (f64, f64)) -> Self {
        // A single value gets a margin in proportion to its size.
        let margin = if high > low { 0.0 } else { (0.1 * high.abs()).max(1e-3) };
        let (low, high) = ((low - margin).max(limits.0), (high + margin).min(limits.1));
        let step = round_step((high - low).max(1e-9) / ticks as f64);
        // The small offset absorbs rounding errors, so that 0.3 / 0.1 counts as three steps.
        let low = ((low / step + 1e-6).floor() * step).max(limits.0);
        let high = ((high / step - 1e-6).ceil() * step).min(limits.1);
        Self { low, high: high.max(low + step), step }
    }

    /// An axis of whole epochs from 1 to `last`; a single epoch is centred.
    pub fn epochs(last: f64, ticks: usize) -> Self {
        if last <= 1.0 {
            return Self { low: 0.0, high: 2.0, step: 1.0 };
        }
        Self { low: 1.0, high: last, step: round_step((last - 1.0) / ticks as f64).max(1.0) }
    }

    /// Multiples of the step within the axis.
    pub fn ticks(&self) -> Vec<f64> {
        let first = (self.low / self.step - 1e-6).ceil() as i64;
        let last = (self.high / self.step + 1e-6).floor() as i64;
        (first..=last).map(|multiple| multiple as f64 * self.step).collect()
    }

    /// The ticks of an axis of epochs. Epoch 1 has a tick too, if the next one is far enough away.
    pub fn epoch_ticks(&self) -> Vec<f64> {
        let mut ticks = self.ticks();
        if self.low < 1.0 {
            return vec![1.0];
        }
        if self.step > 2.0 {
            ticks.insert(0, 1.0);
        }
        ticks
    }

    /// The relative position of `value`: 0 at the low end, 1 at the high end.
    pub fn fraction(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Formats a tick with enough decimals to distinguish it from its neighbours, or with an exponent if it is large.
    pub fn tick_text(&self, tick: f64) -> String {
        if self.high >= 1e5 {
            return format!("{tick:.1e}");
        }
        let decimals = (-(self.step * 1.000_001).log10().floor()).clamp(0.0, 9.0) as usize;
        format!("{tick:.decimals$}")
    }
}

/// A logarithmic axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogAxis {
    low: f64,
    high: f64,
}

impl LogAxis {
    /// An axis of exactly `low..=high`, both above 0.
    pub fn new(low: f64, high: f64) -> Self {
        Self { low, high }
    }

    /// The powers of ten within the axis; of a short one, also 2 and 5 times these.
    pub fn ticks(&self) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let factors: &[f64] = if self.high / self.low > 1e3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let all = (first..=last).flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
        all.filter(|tick| (self.low * 0.999_999..=self.high * 1.000_001).contains(tick)).collect()
    }

    /// The relative position of `value`: 0 at the low end, 1 at the high end.
    pub fn fraction(&self, value: f64) -> f64 {
        (value / self.low).ln() / (self.high / self.low).ln()
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is at least `rough`.
fn round_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough * 0.999_999);
    factor.unwrap_or(10.0) * power
}
