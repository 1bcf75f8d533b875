//! Mean and standard deviation of images, exact until the last division.

/// Per channel, the mean and standard deviation of `x / 255` over `[count][height][width][channels]`. A channel that is
/// the same everywhere has the deviation 1, so that normalising makes zeros of it.
pub fn normalisation(images: &[u8], channels: usize) -> (Vec<f32>, Vec<f32>) {
    let mut counts = vec![[0_u64; 256]; channels];
    for pixel in images.chunks_exact(channels) {
        for (counts, &value) in counts.iter_mut().zip(pixel) {
            counts[usize::from(value)] += 1;
        }
    }
    counts.iter().map(moments).unzip()
}

fn moments(counts: &[u64; 256]) -> (f32, f32) {
    let levels = || counts.iter().enumerate().map(|(level, &count)| (level as f64 / 255.0, count as f64));
    let count = counts.iter().sum::<u64>().max(1) as f64;
    let mean = levels().map(|(level, count)| level * count).sum::<f64>() / count;
    let variance = levels().map(|(level, count)| (level - mean).powi(2) * count).sum::<f64>() / count;
    (mean as f32, if variance > 0.0 { variance.sqrt() as f32 } else { 1.0 })
}
