//! Draws one digit: a skeleton, shaken and distorted, traced by a soft pen of varying width.

use super::SIDE;
use super::strokes::{CENTRE, DIGITS, HEIGHT, Point};
use crate::rng::Philox;

/// Straight pieces between two points of a skeleton; at 28×28 more would not be seen.
const PIECES: usize = 6;
/// The digit's height in pixels before it is scaled, as in MNIST.
const BOX_SIDE: f32 = 20.0;
/// How far a hand misses a point of the skeleton: a standard deviation, in units of the page.
const SHAKE: f32 = 0.3;

/// Draws digit `class` over `image`, `[28][28]`, white on black.
pub fn draw(class: u32, random: &mut Philox, image: &mut [u8]) {
    let ways = DIGITS[class as usize];
    let skeleton = ways[random.below(ways.len() as u32) as usize];
    let distortion = Distortion::new(random);
    let pen = Pen::new(random);
    let mut darkness = [0.0f32; SIDE * SIDE];
    let mut drawn = 0.0;
    for stroke in skeleton {
        let shaken: Vec<Point> = shake(stroke, random);
        let mut previous = None;
        for point in smooth(&shaken) {
            let point = distortion.apply(point);
            let (from, width) = (previous.unwrap_or(point), pen.width_at(drawn));
            drawn += (point[0] - from[0]).hypot(point[1] - from[1]);
            pen.press(from, point, width, &mut darkness);
            previous = Some(point);
        }
    }
    for (pixel, ink) in image.iter_mut().zip(darkness) {
        *pixel = (pen.intensity * ink + pen.noise * rough_normal(random)).round() as u8; // `as` saturates
    }
}

/// The points of a stroke where a hand would put them; a corner stays one.
fn shake(stroke: &[Point], random: &mut Philox) -> Vec<Point> {
    let mut shaken: Vec<Point> = Vec::with_capacity(stroke.len());
    for (index, point) in stroke.iter().enumerate() {
        let moved = match index.checked_sub(1) {
            Some(before) if stroke[before] == *point => shaken[before],
            _ => [point[0] + SHAKE * random.normal(), point[1] + SHAKE * random.normal()],
        };
        shaken.push(moved);
    }
    shaken
}

/// The Catmull–Rom spline through `points`, as a polyline. A point given twice parts it into two splines.
fn smooth(points: &[Point]) -> Vec<Point> {
    let mut line = vec![points[0]];
    for index in 1..points.len() {
        let (start, end) = (points[index - 1], points[index]);
        if start == end {
            continue;
        }
        // At an end or a corner the neighbour is the point itself, so the spline leaves it straight.
        let before = points[index.saturating_sub(2)];
        let after = points[(index + 1).min(points.len() - 1)];
        for piece in 1..=PIECES {
            let t = piece as f32 / PIECES as f32;
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

/// From the page to pixels: rotation, shear, scale, translation and a smooth elastic wave.
struct Distortion {
    matrix: [[f32; 2]; 2],
    offset: Point,
    waves: [Wave; 4],
}

/// A displacement of `reach · sin(along · position + phase)`.
struct Wave {
    along: Point,
    phase: f32,
    reach: Point,
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
                along: [0.17 * random.normal(), 0.17 * random.normal()],
                phase: random.uniform(0.0, std::f32::consts::TAU),
                reach: [0.65 * random.normal(), 0.65 * random.normal()],
            }),
        }
    }

    fn apply(&self, point: Point) -> Point {
        let (x, y) = (point[0] - CENTRE[0], point[1] - CENTRE[1]);
        let straight = [0, 1].map(|row| self.matrix[row][0] * x + self.matrix[row][1] * y);
        let mut bent = [straight[0] + self.offset[0], straight[1] + self.offset[1]];
        for wave in &self.waves {
            let lift = (wave.along[0] * straight[0] + wave.along[1] * straight[1] + wave.phase).sin();
            bent = [bent[0] + wave.reach[0] * lift, bent[1] + wave.reach[1] * lift];
        }
        bent
    }
}

/// What the digit is drawn with; lengths are in pixels.
struct Pen {
    /// Half the mean width of the line.
    radius: f32,
    /// The part by which pressure makes the line thicker and thinner, and where on the line it does.
    pressure: f32,
    phase: f32,
    /// The width over which the edge of the line fades.
    softness: f32,
    /// Grey level of full ink, and the standard deviation of the noise over all.
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

    /// Half the width after `drawn` pixels of line.
    fn width_at(&self, drawn: f32) -> f32 {
        self.radius * (1.0 + self.pressure * (0.25 * drawn + self.phase).sin())
    }

    /// Draws a straight piece: a pixel is as dark as the darkest piece makes it.
    fn press(&self, from: Point, to: Point, width: f32, darkness: &mut [f32]) {
        let reach = width + 0.5 * self.softness;
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
                let pixel = &mut darkness[row * SIDE + column];
                *pixel = pixel.max(ink.clamp(0.0, 1.0));
            }
        }
    }
}

/// Nearly normal with deviation 1, from the sum of four random bytes: much cheaper than the real one, which 784
/// pixels of 14,000 images would feel.
fn rough_normal(random: &mut Philox) -> f32 {
    let sum: u32 = random.next_u32().to_le_bytes().into_iter().map(u32::from).sum();
    (sum as f32 - 510.0) * (1.0 / 147.8)
}
