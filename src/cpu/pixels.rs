//! Operations on the bytes of one picture, with the arithmetic and the roundings of Pillow, on which torchvision's
//! transforms of pictures are built. `kernels/pixels.cuh` computes the same.

use crate::ops::PixelOp;
use crate::shape::Shape;

/// A table of the new level of each level.
type Levels = [u8; 256];

/// Applies an operation to `pixels`, `[height][width][C]`; `other` is scratch of the same length.
pub fn apply<const C: usize>(
    op: PixelOp,
    matrices: &[[i32; 6]],
    shape: Shape,
    pixels: &mut Vec<u8>,
    other: &mut Vec<u8>,
) {
    let each = |pixels: &mut [u8], f: &dyn Fn(&[u8]) -> [u8; 3]| {
        if C == 3 {
            pixels.chunks_exact_mut(C).for_each(|pixel| pixel.copy_from_slice(&f(pixel)));
        }
    };
    match op {
        PixelOp::Identity => {}
        PixelOp::Affine(index) => {
            affine::<C>(matrices[index as usize], shape, pixels, other);
            std::mem::swap(pixels, other);
        }
        PixelOp::Brightness(factor) => map_all(pixels, |level| blend(0, level, factor)),
        PixelOp::Contrast(factor) => {
            let mean = mean_gray::<C>(pixels);
            map_all(pixels, |level| blend(mean, level, factor));
        }
        PixelOp::Saturation(factor) => each(pixels, &|pixel| {
            let gray = gray_of(pixel);
            [0, 1, 2].map(|channel| blend(gray, pixel[channel], factor))
        }),
        PixelOp::Hue(shift) => each(pixels, &|pixel| {
            let [hue, saturation, value] = hsv_of([pixel[0], pixel[1], pixel[2]]);
            rgb_of([hue.wrapping_add(shift), saturation, value])
        }),
        PixelOp::Sharpness(factor) => {
            smooth::<C>(shape, pixels, other);
            pixels.iter_mut().zip(&*other).for_each(|(level, &smooth)| *level = blend(smooth, *level, factor));
        }
        PixelOp::Posterize(bits) => map_all(pixels, |level| level & !((1u32 << (8 - bits)) - 1) as u8),
        PixelOp::Solarize(first) => {
            map_all(pixels, |level| if u32::from(level) < first { level } else { 255 - level });
        }
        PixelOp::AutoContrast => map_channels::<C>(pixels, stretched),
        PixelOp::Equalize => map_channels::<C>(pixels, equalised),
    }
}

/// `PIL.Image.blend`, which drops the fraction.
fn blend(a: u8, b: u8, factor: f32) -> u8 {
    (f32::from(a) + factor * (f32::from(b) - f32::from(a))) as u8
}

/// The gray level of a pixel, as of Pillow's mode `L`.
fn gray_of(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [0, 1, 2].map(|channel| u32::from(pixel[channel]));
    ((19_595 * red + 38_470 * green + 7_471 * blue + 0x8000) >> 16) as u8
}

fn mean_gray<const C: usize>(pixels: &[u8]) -> u8 {
    let gray = |pixel: &[u8]| u64::from(if C == 3 { gray_of(pixel) } else { pixel[0] });
    let (sum, count) = (pixels.chunks_exact(C).map(gray).sum::<u64>(), (pixels.len() / C) as u64);
    ((2 * sum + count) / (2 * count)) as u8
}

fn map_all(pixels: &mut [u8], f: impl Fn(u8) -> u8) {
    let table: Levels = std::array::from_fn(|level| f(level as u8));
    pixels.iter_mut().for_each(|level| *level = table[usize::from(*level)]);
}

/// Maps the levels of each channel by a table that depends on how often each occurs.
fn map_channels<const C: usize>(pixels: &mut [u8], table: impl Fn(&[u32; 256]) -> Levels) {
    for channel in 0..C {
        let mut counts = [0; 256];
        pixels[channel..].iter().step_by(C).for_each(|&level| counts[usize::from(level)] += 1);
        let table = table(&counts);
        pixels[channel..].iter_mut().step_by(C).for_each(|level| *level = table[usize::from(*level)]);
    }
}

/// `PIL.ImageOps.autocontrast`
fn stretched(counts: &[u32; 256]) -> Levels {
    let low = counts.iter().position(|&count| count > 0).unwrap_or(0);
    let high = counts.iter().rposition(|&count| count > 0).unwrap_or(0);
    if high <= low {
        return std::array::from_fn(|level| level as u8);
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    std::array::from_fn(|level| (level as f64 * scale + offset) as u8)
}

/// `PIL.ImageOps.equalize`
fn equalised(counts: &[u32; 256]) -> Levels {
    let total: u32 = counts.iter().sum();
    let last = counts.iter().rposition(|&count| count > 0).unwrap_or(0);
    let step = (total - counts[last]) / 255;
    if step == 0 {
        return std::array::from_fn(|level| level as u8);
    }
    let mut sum = step / 2;
    std::array::from_fn(|level| {
        let new = sum / step;
        sum += counts[level];
        new.min(255) as u8
    })
}

/// Takes every pixel from the nearest pixel of its source; black outside.
fn affine<const C: usize>(matrix: [i32; 6], shape: Shape, pixels: &[u8], output: &mut [u8]) {
    let [a, b, c, d, e, f] = matrix;
    let Shape { height, width, .. } = shape;
    for (y, row) in output.chunks_exact_mut(width * C).enumerate() {
        for (x, to) in row.chunks_exact_mut(C).enumerate() {
            let (x, y) = (x as i32, y as i32);
            let (column, row) = ((a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16);
            let inside = (0..width as i32).contains(&column) && (0..height as i32).contains(&row);
            match inside {
                true => to.copy_from_slice(&pixels[(row as usize * width + column as usize) * C..][..C]),
                false => to.fill(0),
            }
        }
    }
}

/// `PIL.ImageFilter.SMOOTH`: a mean in which the pixel counts five times, and each of the eight around it once. The border
/// stays as it is.
fn smooth<const C: usize>(Shape { height, width, .. }: Shape, pixels: &[u8], output: &mut [u8]) {
    output.copy_from_slice(pixels);
    let stride = width * C;
    for y in 1..height.saturating_sub(1) {
        for at in y * stride + C..(y + 1) * stride - C {
            let row = |at: usize| u32::from(pixels[at - C]) + u32::from(pixels[at]) + u32::from(pixels[at + C]);
            let sum = row(at - stride) + row(at) + row(at + stride) + 4 * u32::from(pixels[at]);
            output[at] = ((2 * sum + 13) / 26) as u8;
        }
    }
}

/// Hue, saturation and value, as of Pillow's mode `HSV`.
fn hsv_of(rgb: [u8; 3]) -> [u8; 3] {
    let [red, green, blue] = rgb;
    let (most, least) = (red.max(green).max(blue), red.min(green).min(blue));
    if most == least {
        return [0, 0, most];
    }
    let range = f32::from(most - least);
    let [r, g, b] = rgb.map(|level| f32::from(most - level) / range);
    let hue = if red == most {
        b - g
    } else if green == most {
        (2.0 + f64::from(r) - f64::from(b)) as f32
    } else {
        (4.0 + f64::from(g) - f64::from(r)) as f32
    };
    let turns = f64::from(hue) / 6.0 + 1.0;
    let hue = (turns - turns.floor()) as f32;
    let byte = |part: f32| (f64::from(part) * 255.0) as u8;
    [byte(hue), byte(range / f32::from(most)), most]
}

/// The colour of a hue, saturation and value.
fn rgb_of([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let sixths = f64::from(hue) * 6.0 / 255.0;
    let (sector, v) = (sixths.floor(), f64::from(value));
    let fraction = (sixths - sector) as f32;
    let part = (f64::from(saturation) / 255.0) as f32;
    let byte = |value: f64| value.round() as u8;
    let least = byte(v * (1.0 - f64::from(part)));
    let falling = byte(v * (1.0 - f64::from(part * fraction)));
    let rising = byte(v * (1.0 - f64::from(part) * (1.0 - f64::from(fraction))));
    match sector as u32 % 6 {
        0 => [value, rising, least],
        1 => [falling, value, least],
        2 => [least, value, rising],
        3 => [least, falling, value],
        4 => [rising, least, value],
        _ => [value, least, falling],
    }
}
