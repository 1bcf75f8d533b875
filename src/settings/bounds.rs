//! Parsers of flag values with their bounds. A value out of range is a usage error that names the flag.

/// A whole number of at least 1.
pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("it must be at least 1".into()),
        Ok(value) => Ok(value),
        Err(_) => Err("it must be a whole number of at least 1".into()),
    }
}

/// A batch size. The bound prevents overflow in lengths that are computed from it.
pub fn batch_size(text: &str) -> Result<usize, String> {
    match positive(text)? {
        size @ 1..=1_000_000 => Ok(size),
        _ => Err("it must be at most 1000000".into()),
    }
}

/// A number of timed steps.
pub fn bench_steps(text: &str) -> Result<usize, String> {
    match positive(text)? {
        steps @ 1..=1_000_000 => Ok(steps),
        _ => Err("it must be at most 1000000".into()),
    }
}

/// A number of epochs.
pub fn epochs(text: &str) -> Result<u32, String> {
    let epochs = positive(text)?;
    u32::try_from(epochs).map_err(|_| "it must be at most 4294967295".into())
}

/// A number of iterations of Newton and Schulz.
pub fn iterations(text: &str) -> Result<u32, String> {
    match positive(text)? {
        iterations @ 1..=100 => Ok(iterations as u32),
        _ => Err("it must be at most 100".into()),
    }
}

/// A number of segments of an image; at most one per pixel of the largest image.
pub fn segment_count(text: &str) -> Result<usize, String> {
    match positive(text)? {
        count @ 1..=16_777_216 => Ok(count),
        _ => Err("it must be at most 16777216".into()),
    }
}

/// A number of threads.
pub fn threads(text: &str) -> Result<usize, String> {
    match positive(text)? {
        threads @ 1..=1024 => Ok(threads),
        _ => Err("it must be at most 1024".into()),
    }
}

/// A finite number of at least 0.
pub fn non_negative(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("it must be a finite number of at least 0".into()),
    }
}

/// A finite number above 0.
pub fn above_zero(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("it must be a finite number above 0".into()),
    }
}

/// A number in `[0, 1)`.
pub fn below_one(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (0.0..1.0).contains(&value) => Ok(value),
        _ => Err("it must be at least 0 and below 1".into()),
    }
}

/// An accuracy as a fraction, in `(0, 1]`.
pub fn accuracy(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("it must be above 0 and at most 1".into()),
    }
}

/// The smallest `--crop-pct`.
pub const LEAST_PART: f64 = 0.1;

/// A number from [`LEAST_PART`] to 1.
pub fn part(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (LEAST_PART..=1.0).contains(&value) => Ok(value),
        _ => Err(format!("it must be from {LEAST_PART} to 1")),
    }
}

/// A number in `[0, 1]`.
pub fn zero_to_one(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("it must be from 0 to 1".into()),
    }
}

/// Any finite number.
pub fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("it must be a finite number".into()),
    }
}

/// A number in `(0, 1)`.
pub fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
        _ => Err("it must be above 0 and below 1".into()),
    }
}

/// A number of classes.
pub fn classes(text: &str) -> Result<usize, String> {
    match positive(text)? {
        classes @ 2..=1_000_000 => Ok(classes),
        _ => Err("it must be from 2 to 1000000".into()),
    }
}

/// A number of optimiser steps.
pub fn steps(text: &str) -> Result<u64, String> {
    positive(text).map(|steps| steps as u64)
}

/// A width in pixels, at most the largest side of an image.
pub fn pixels(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(pixels @ 0..=4096) => Ok(pixels),
        _ => Err("it must be a whole number from 0 to 4096".into()),
    }
}

/// A seed. The bound is that of TOML's integers.
pub fn seed(text: &str) -> Result<u64, String> {
    let seed = text.parse().ok().filter(|seed| i64::try_from(*seed).is_ok());
    seed.ok_or_else(|| format!("it must be a whole number from 0 to {}", i64::MAX))
}
