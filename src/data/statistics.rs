//! Mean and standard deviation of images, computed from exact histograms.

/// The number of occurrences of every value, per channel.
pub struct Histogram(Vec<[u64; 256]>);

impl Histogram {
    pub fn new(channels: usize) -> Self {
        Self(vec![[0; 256]; channels])
    }

    /// Counts the values of images `[count][height][width][channels]`. A gray value is counted in every channel.
    pub fn add(&mut self, images: &[u8], channels: usize) {
        for pixel in images.chunks_exact(channels) {
            for (counts, &value) in self.0.iter_mut().zip(pixel.iter().cycle()) {
                counts[usize::from(value)] += 1;
            }
        }
    }

    /// The mean and standard deviation of `x / 255`, for the first `channels` channels. A constant channel gets a standard
    /// deviation of 1, so that it becomes 0 when normalised.
    pub fn normalisation(&self, channels: usize) -> (Vec<f32>, Vec<f32>) {
        self.0.iter().take(channels).map(moments).unzip()
    }
}

/// The mean and standard deviation of each channel of images `[count][height][width][channels]`.
pub fn normalisation(images: &[u8], channels: usize) -> (Vec<f32>, Vec<f32>) {
    let mut histogram = Histogram::new(channels);
    histogram.add(images, channels);
    histogram.normalisation(channels)
}

fn moments(counts: &[u64; 256]) -> (f32, f32) {
    let levels = || counts.iter().enumerate().map(|(level, &count)| (level as f64 / 255.0, count as f64));
    let count = counts.iter().sum::<u64>().max(1) as f64;
    let mean = levels().map(|(level, count)| level * count).sum::<f64>() / count;
    let variance = levels().map(|(level, count)| (level - mean).powi(2) * count).sum::<f64>() / count;
    (mean as f32, if variance > 0.0 { variance.sqrt() as f32 } else { 1.0 })
}
