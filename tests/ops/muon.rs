//! Muon's directions against an f64 iteration, and the update along them.

use cnn_cuda::cpu::Cpu;
use cnn_cuda::ops::{Backend, Group, Groups, LossScale, Muon, MuonDirection, Optimizer, Region, Rule, Sgd, Span};

use super::lab::{Lab, grouped_update, optimizer_update, random};
use super::optimizer::unit_loss_scale;
use super::{FP32, Tolerance, compare, cpu};

/// Muon's direction of a matrix with `rows` rows in f64, from a gradient with momentum.
fn direction(matrix: &[f64], rows: usize, iterations: u32) -> Vec<f64> {
    let columns = matrix.len() / rows;
    if rows > columns {
        let transposed = direction(&transpose(matrix, columns), columns, iterations);
        let scale = (rows as f64 / columns as f64).sqrt();
        return transpose(&transposed, rows).iter().map(|value| scale * value).collect();
    }
    let [a, b, c] = MuonDirection::COEFFICIENTS.map(f64::from);
    let norm = matrix.iter().map(|value| value * value).sum::<f64>().sqrt().max(1e-7);
    let mut x: Vec<f64> = matrix.iter().map(|value| value / norm).collect();
    for _ in 0..iterations {
        let gram = product(&x, rows, &transpose(&x, columns), rows);
        let square = product(&gram, rows, &gram, rows);
        let polynomial: Vec<f64> = gram.iter().zip(square).map(|(g, square)| b * g + c * square).collect();
        let step = product(&polynomial, rows, &x, columns);
        x.iter_mut().zip(step).for_each(|(x, step)| *x = a * *x + step);
    }
    x
}

fn transpose(matrix: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|column| matrix.iter().skip(column).step_by(columns).copied()).collect()
}

/// `a [rows][inner] · b [inner][columns]`
fn product(a: &[f64], rows: usize, b: &[f64], columns: usize) -> Vec<f64> {
    let inner = a.len() / rows;
    let row = |row: usize| {
        let mut sums = vec![0.0; columns];
        for (a, b) in a[row * inner..][..inner].iter().zip(b.chunks_exact(columns)) {
            sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
        }
        sums
    };
    (0..rows).flat_map(row).collect()
}

/// Five iterations multiply the rounding errors of small singular values by up to 3.4445⁵ = 485.
pub const DIRECTION: Tolerance = Tolerance { absolute: 3e-4, relative: 1e-4 };

/// If any gradient overflows, no momentum changes, and a direction counts for the loss scale that the update divides by.
pub fn check_overflowing_direction<B: Backend>(lab: &mut Lab<B>) {
    let (op, rows) = (Muon { iterations: 1, ..Muon::default() }, 4);
    let [gradient, momentum] = [Region::Gradients, Region::Momentum].map(|region| Span::new(region, 8, 64));
    let all = Span::new(Region::Gradients, 0, 100);
    for (scale, extra) in [(1024.0, f32::INFINITY), (1024.0, 1.0), (1.0, 1.0)] {
        lab.backend.set_loss_scale(LossScale { scale, ..LossScale::default() }).expect("a scale");
        lab.backend.write(all, &[scale; 100]).expect("write");
        lab.backend.write(Span::new(Region::Gradients, 90, 1), &[extra]).expect("write");
        lab.backend.write(momentum, &[2.0; 64]).expect("write");
        lab.run(MuonDirection { op, rows, gradient, momentum, weight: None, all_gradients: Some(all) });
        let expected = if extra.is_finite() { 2.0 * op.momentum + 1.0 } else { 2.0 };
        assert_eq!(lab.get(momentum), [expected; 64], "scale {scale}, {extra}");
        // All values are equal, so the matrix has the one singular value 1, of which the iteration makes a + b + c.
        let direction = lab.get(gradient)[0] / scale;
        let equal = MuonDirection::<Span>::COEFFICIENTS.iter().sum::<f32>() / 8.0;
        assert!((direction - equal).abs() < 2e-3, "{direction}, not {equal}");
        // The update resets the flag.
        lab.backend.set_learning_rates(&[0.0]).expect("rate");
        lab.run(optimizer_update(Optimizer { rule: Rule::Muon(op), ..Optimizer::default() }, 100));
    }
}

#[test]
fn muons_directions_are_orthogonalised_momentum() {
    for threads in [1, 3] {
        check_directions(&mut Lab::new(Cpu::new(Some(threads)).expect("threads")), DIRECTION);
    }
}

/// Two steps of Muon's direction, for matrices narrower and wider than the blocks of a product. Tests of other backends
/// use it too.
pub fn check_directions<B: Backend>(lab: &mut Lab<B>, tolerance: Tolerance) {
    for (rows, columns) in [(1, 9), (9, 1), (7, 7), (5, 45), (45, 5), (33, 70), (64, 130), (130, 33), (25, 300)] {
        for nesterov in [false, true] {
            let op = Muon { momentum: 0.75, nesterov, ..Muon::default() };
            lab.clear();
            unit_loss_scale(lab);
            let len = rows * columns;
            let buffer = lab.put(Region::Momentum, &vec![0.0; len]);
            let mut momentum = vec![0.0; len];
            for step in 0..2 {
                let gradients = random(len, step);
                let gradient = Span::new(Region::Gradients, 3, len);
                lab.backend.write(gradient, &gradients).expect("write");
                lab.run(MuonDirection { op, rows, gradient, momentum: buffer, weight: None, all_gradients: None });
                let mut sum = Vec::new();
                for (b, &g) in momentum.iter_mut().zip(&gradients) {
                    *b = 0.75 * *b + f64::from(g);
                    sum.push(if nesterov { f64::from(g) + 0.75 * *b } else { *b });
                }
                let what = format!("{rows}×{columns}, nesterov {nesterov}, step {step}");
                compare(&what, &lab.get(gradient), &direction(&sum, rows, 5), tolerance);
                compare(&what, &lab.get(buffer), &momentum, FP32);
            }
        }
    }
}

/// Fewer iterations, and a matrix that is scaled to the norm √rows.
#[test]
fn muon_normalises_its_matrices() {
    check_normalised_direction(&mut cpu(), DIRECTION);
}

pub fn check_normalised_direction<B: Backend>(lab: &mut Lab<B>, tolerance: Tolerance) {
    let (rows, columns) = (5, 21);
    let op = Muon { momentum: 0.5, nesterov: true, iterations: 3, normalises: true, ..Muon::default() };
    lab.clear();
    unit_loss_scale(lab);
    let [gradients, weights] = [3, 4].map(|seed| random(rows * columns, seed));
    let gradient = lab.put(Region::Gradients, &gradients);
    let momentum = lab.put(Region::Momentum, &vec![0.0; rows * columns]);
    let weight = lab.put(Region::Parameters, &weights);
    lab.run(MuonDirection { op, rows, gradient, momentum, weight: Some(weight), all_gradients: None });
    let sum: Vec<f64> = gradients.iter().map(|&g| 1.5 * f64::from(g)).collect();
    compare("direction", &lab.get(gradient), &direction(&sum, rows, 3), tolerance);
    let norm = weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
    let scaled: Vec<f64> = weights.iter().map(|&w| f64::from(w) * 5.0_f64.sqrt() / norm).collect();
    compare("weight", &lab.get(weight), &scaled, FP32);
}

#[test]
fn muon_takes_a_gradient_of_zeros_and_shows_nan() {
    let mut lab = cpu();
    let (op, rows) = (Muon::default(), 3);
    let [gradient, momentum] = [Region::Gradients, Region::Momentum].map(|region| Span::new(region, 0, 12));
    for (value, expected) in [(0.0, Some(0.0)), (f32::NAN, None)] {
        lab.backend.write(momentum, &[0.0; 12]).expect("write");
        let mut gradients = [0.0; 12];
        gradients[5] = value;
        lab.backend.write(gradient, &gradients).expect("write");
        lab.run(MuonDirection { op, rows, gradient, momentum, weight: None, all_gradients: None });
        let direction = lab.get(gradient);
        assert!(direction.iter().all(|&it| expected.map_or(it.is_nan(), |expected| it == expected)), "{direction:?}");
    }
}

/// Matrices move along their directions with decoupled weight decay; other parameters take steps of SGD.
#[test]
fn muons_update_moves_matrices_along_their_directions() {
    let mut lab = cpu();
    check_muon_update(&mut lab);
    let clipped = Optimizer { rule: Rule::Muon(Muon::default()), clip_norm: Some(1.0), ..Optimizer::default() };
    assert!(lab.try_run(optimizer_update(clipped, 5)).is_err(), "it is not clipped");
}

pub fn check_muon_update<B: Backend>(lab: &mut Lab<B>) {
    let muon = Muon { sgd: Sgd { momentum: 0.5, nesterov: true }, ..Muon::default() };
    let op = Optimizer { rule: Rule::Muon(muon), weight_decay: 0.5, ..Optimizer::default() };
    let groups =
        Groups::new(&[Group { is_matrix: true, ..Group::plain(3) }, Group { rate_scale: 2.0, ..Group::plain(5) }])
            .expect("groups");
    let span = |region| Span::new(region, 0, 5);
    for (region, value) in [(Region::Parameters, 4.0), (Region::Gradients, 1.0), (Region::Momentum, 8.0)] {
        lab.backend.write(span(region), &[value; 5]).expect("write");
    }
    unit_loss_scale(lab);
    lab.backend.set_learning_rates(&[0.25]).expect("rate");
    lab.run(grouped_update(op, groups, 5));
    // 4 − 0.25 · (1 + 0.5 · 4), and with b = 0.5 · 8 + 3 = 7: 4 − 0.5 · (3 + 0.5 · 7).
    assert_eq!(lab.get(span(Region::Parameters)), [3.25, 3.25, 3.25, 0.75, 0.75]);
    assert_eq!(lab.get(span(Region::Momentum)), [8.0, 8.0, 8.0, 7.0, 7.0]);
}
