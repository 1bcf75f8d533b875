//! A map of one value per position.

/// `[height][width]` values.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    pub height: usize,
    pub width: usize,
    pub values: Vec<f32>,
}

impl Map {
    /// # Panics
    /// If there are not `height · width` values.
    pub fn new(height: usize, width: usize, values: Vec<f32>) -> Self {
        assert_eq!(values.len(), height * width, "{height} × {width} values");
        Self { height, width, values }
    }

    /// The map with its smallest value moved to 0 and its largest scaled to almost 1, as the package `grad-cam` does:
    /// `(x − min) / (max − min + 1e-7)`.
    pub fn normalised(&self) -> Self {
        let (low, high) = self.range();
        let values = self.values.iter().map(|value| (value - low) / (1e-7 + (high - low))).collect();
        Self { values, ..*self }
    }

    /// The smallest and the largest value; both 0 without values.
    pub fn range(&self) -> (f32, f32) {
        let first = self.values.first().copied().unwrap_or(0.0);
        self.values.iter().fold((first, first), |(low, high), &value| (low.min(value), high.max(value)))
    }

    /// Bilinear interpolation between the centres of the pixels, without antialiasing (`cv2.resize`;
    /// `torch.nn.functional.interpolate` with `align_corners=False`).
    pub fn resized(&self, height: usize, width: usize) -> Self {
        // The two source positions of a target position, and the weight of the second.
        let taps = |to: usize, from: usize| {
            move |index: usize| {
                let at = ((index as f32 + 0.5) * from as f32 / to as f32 - 0.5).clamp(0.0, (from - 1) as f32);
                let low = at as usize;
                (low, (low + 1).min(from - 1), at - low as f32)
            }
        };
        let (row, column) = (taps(height, self.height), taps(width, self.width));
        let columns: Vec<_> = (0..width).map(column).collect();
        let at = |row: usize, column: usize| self.values[row * self.width + column];
        let mut values = Vec::with_capacity(height * width);
        for (top, bottom, down) in (0..height).map(row) {
            for &(left, right, along) in &columns {
                let upper = at(top, left) * (1.0 - along) + at(top, right) * along;
                let lower = at(bottom, left) * (1.0 - along) + at(bottom, right) * along;
                values.push(upper * (1.0 - down) + lower * down);
            }
        }
        Self { height, width, values }
    }
}
