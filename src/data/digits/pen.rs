//! Draws one digit: jitters and distorts a skeleton, and traces it with a soft pen of varying width.

use super::SIDE;
use super::strokes::{CENTRE, DIGITS, HEIGHT, Point};
use crate::rng::Philox;

/// The number of line segments between two points of a skeleton; at 28×28 more would not be visible.
const SEGMENTS: usize = 6;
/// The height of a digit in pixels before random scaling, as in MNIST.
const BOX_SIDE: f32 = 20.0;
/// The standard deviation of the jitter of a skeleton's points, in units of the page.
const JITTER: f32 = 0.3;

/// Draws the digit `class` into `image`, `[28][28]`, white on black. All pixels are overwritten.
pub fn draw(class: u32, random: &mut Philox, image: &mut [u8]) {
    let skeletons = DIGITS[class as usize];
    let skeleton = skeletons[random.below(skeletons.len() as u32) as usize];
    let distortion = Distortion::new(random);
    let pen = Pen::new(random);
    let mut coverage = [0.0f32; SIDE * SIDE];
    let mut length_drawn = 0.0;
    for stroke in skeleton {
        let jittered: Vec<Point> = jitter(stroke, random);
        let mut previous = None;
        for point in interpolate(&jittered) {
            let point = distortion.apply(point);
            let (from, radius) = (previous.unwrap_or(point), pen.radius_at(length_drawn));
            length_drawn += (point[0] - from[0]).hypot(point[1] - from[1]);
            pen.draw_segment(from, point, radius, &mut coverage);
            previous = Some(point);
        }
    }
    for (pixel, ink) in image.iter_mut().zip(coverage) {
        *pixel = (pen.intensity * ink + pen.noise * approximate_normal(random)).round() as u8; // `as` saturates
    }
}

/// Moves the points of a stroke at random. The two points of a sharp corner move together.
fn jitter(stroke: &[Point], random: &mut Philox) -> Vec<Point> {
    let mut jittered: Vec<Point> = Vec::with_capacity(stroke.len());
    for (index, point) in stroke.iter().enumerate() {
        let moved = match index.checked_sub(1) {
            Some(before) if stroke[before] == *point => jittered[before],
            _ => [point[0] + JITTER * random.normal(), point[1] + JITTER * random.normal()],
        };
        jittered.push(moved);
    }
    jittered
}

/// The Catmull–Rom spline through `points`, as a polyline. A point given twice separates two splines.
fn interpolate(points: &[Point]) -> Vec<Point> {
    let mut line = vec![points[0]];
    for index in 1..points.len() {
        let (start, end) = (points[index - 1], points[index]);
        if start == end {
            continue;
        }
        // At an end or a corner, the point itself replaces the missing neighbour.
        let before = points[index.saturating_sub(2)];
        let after = points[(index + 1).min(points.len() - 1)];
        for segment in 1..=SEGMENTS {
            let t = segment as f32 / SEGMENTS as f32;
            line.push([0, 1].map(|axis| catmull_rom([before[axis], start[axis], end[axis], after[axis]], t)));
        }
    }
    line
}

/// Interpolates between `p[1]` (`t = 0`) and `p[2]` (`t = 1`).
fn catmull_rom(p: [f32; 4], t: f32) -> f32 {
    let linear = p[2] - p[0];
    let square = 2.0 * p[0] - 5.0 * p[1] + 4.0 * p[2] - p[3];
    let cubic = 3.0 * (p[1] - p[2]) + p[3] - p[0];
    p[1] + 0.5 * t * (linear + t * (square + t * cubic))
}

/// Maps the page to pixels: rotation, shear, scale, translation and smooth elastic waves.
struct Distortion {
    matrix: [[f32; 2]; 2],
    offset: Point,
    waves: [Wave; 4],
}

/// A displacement of `amplitude · sin(frequency · position + phase)`.
struct Wave {
    frequency: Point,
    phase: f32,
    amplitude: Point,
}

impl Distortion {
    fn new(random: &mut Philox) -> Self {
        let (sin, cos) = (0.12 * random.normal()).clamp(-0.3, 0.3).sin_cos();
        let shear = (0.12 * random.normal()).clamp(-0.35, 0.35);
        let size = BOX_SIDE / HEIGHT * random.uniform(0.86, 1.08);
        let (across, down) = (size * random.uniform(0.8, 1.18), size);
        let middle = SIDE as f32 / 2.0;
        Self {
            // Rotation · shear · scale; a positive shear leans the digit to the right.
            matrix: [[cos * across, (-cos * shear - sin) * down], [sin * across, (cos - sin * shear) * down]],
            offset: [middle + random.uniform(-1.5, 1.5), middle + random.uniform(-1.5, 1.5)],
            waves: std::array::from_fn(|_| Wave {
                frequency: [0.17 * random.normal(), 0.17 * random.normal()],
                phase: random.uniform(0.0, std::f32::consts::TAU),
                amplitude: [0.65 * random.normal(), 0.65 * random.normal()],
            }),
        }
    }

    fn apply(&self, point: Point) -> Point {
        let (x, y) = (point[0] - CENTRE[0], point[1] - CENTRE[1]);
        let linear = [0, 1].map(|row| self.matrix[row][0] * x + self.matrix[row][1] * y);
        let mut warped = [linear[0] + self.offset[0], linear[1] + self.offset[1]];
        for wave in &self.waves {
            let sine = (wave.frequency[0] * linear[0] + wave.frequency[1] * linear[1] + wave.phase).sin();
            warped = [warped[0] + wave.amplitude[0] * sine, warped[1] + wave.amplitude[1] * sine];
        }
        warped
    }
}

/// The pen that draws the digit; lengths are in pixels.
struct Pen {
    /// Half of the mean line width.
    radius: f32,
    /// The relative amplitude and the phase of the periodic variation of the line width.
    pressure: f32,
    phase: f32,
    /// The width of the soft edge of the line.
    softness: f32,
    /// The gray level of full ink, and the standard deviation of the noise in every pixel.
    intensity: f32,
    noise: f32,
}

impl Pen {
    fn new(random: &mut Philox) -> Self {
        Self {
            radius: random.uniform(0.75, 1.85),
            pressure: random.uniform(0.0, 0.3),
            phase: random.uniform(0.0, std::f32::consts::TAU),
            softness: random.uniform(1.0, 2.2),
            intensity: random.uniform(190.0, 275.0),
            noise: random.uniform(0.0, 14.0),
        }
    }

    /// Half of the line width after `length_drawn` pixels of line.
    fn radius_at(&self, length_drawn: f32) -> f32 {
        self.radius * (1.0 + self.pressure * (0.25 * length_drawn + self.phase).sin())
    }

    /// Draws a straight segment of half width `radius`. A pixel's coverage is the maximum over all segments.
    fn draw_segment(&self, from: Point, to: Point, radius: f32, coverage: &mut [f32]) {
        let reach = radius + 0.5 * self.softness;
        let along = [to[0] - from[0], to[1] - from[1]];
        let length_squared = (along[0] * along[0] + along[1] * along[1]).max(1e-9);
        let [columns, rows] = [0, 1].map(|axis| {
            let low = (from[axis].min(to[axis]) - reach).ceil().max(0.0) as usize;
            let high = (from[axis].max(to[axis]) + reach).floor() + 1.0;
            low..(high.max(0.0) as usize).min(SIDE)
        });
        for row in rows {
            for column in columns.clone() {
                let offset = [column as f32 - from[0], row as f32 - from[1]];
                let t = ((offset[0] * along[0] + offset[1] * along[1]) / length_squared).clamp(0.0, 1.0);
                let (dx, dy) = (offset[0] - t * along[0], offset[1] - t * along[1]);
                let ink = (reach - (dx * dx + dy * dy).sqrt()) / self.softness;
                let pixel = &mut coverage[row * SIDE + column];
                *pixel = pixel.max(ink.clamp(0.0, 1.0));
            }
        }
    }
}

/// An approximately standard normal value, from the sum of four random bytes. Every pixel needs one, and a true normal
/// value would take much longer.
fn approximate_normal(random: &mut Philox) -> f32 {
    let sum: u32 = random.next_u32().to_le_bytes().into_iter().map(u32::from).sum();
    (sum as f32 - 510.0) * (1.0 / 147.8)
}
