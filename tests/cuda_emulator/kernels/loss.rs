//! Softmax cross-entropy, its gradient and the metrics, for few and many classes.

use cudarc::driver::{CudaSlice, LaunchConfig};

use super::super::device::{Device, Field, launch};
use super::{halves, in_both_orders, upload_u32, whole};

in_both_orders!(
    computes_losses_and_gradients,
    smooths_and_weights,
    stores_gradients_as_halves,
    passes_on_what_is_not_finite,
    counts_steps_and_records_the_first_bad_one,
);

/// How a launch divides rows: threads per row, threads per block, blocks, and whether a thread reads 16 bytes.
#[derive(Clone, Copy, Debug)]
struct Division(u32, u32, u32, bool);

/// One block for all rows.
const ONE: Division = Division(2, 32, 1, false);

/// Launches the loss with the kernel's fields from the logits to the step log, and those from `rows` on.
fn run(device: &Device, storage: &str, by: Division, tensors: [&dyn Field; 7], numbers: [&dyn Field; 5]) {
    let Division(lanes, threads, blocks, vector) = by;
    let name = format!("softmax_cross_entropy{}_{storage}", if vector { "_vec" } else { "" });
    let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
    let (partial, block_counters) = (device.poisoned::<u64>(2 * blocks as usize), device.upload(&[0u32]));
    let [logits, labels, scale, target, d_bias, metrics, log] = tensors;
    let [rows, classes, smoothing, weight, auxiliary] = numbers;
    let (p, c, l) = (&partial, &block_counters, &lanes);
    let (x, y, s, d, b, m) = (logits, labels, scale, target, d_bias, metrics);
    // Neither weights of classes nor a mixed batch.
    let n = &0_u64;
    launch!(device, &name, config, x, y, s, n, n, d, b, m, log, p, c, rows, classes, l, smoothing, weight, auxiliary)
        .unwrap();
    assert_eq!(device.download(&block_counters), [0], "{by:?}");
}

/// The fields of the device's metrics struct.
#[derive(Debug, PartialEq)]
struct Metrics {
    loss_sum: f64,
    correct: u64,
    count: u64,
    steps: u64,
    first_bad_step: i64,
}

fn fresh_metrics(device: &Device) -> CudaSlice<u64> {
    device.upload(&[0u64, 0, 0, 0, -1i64 as u64])
}

/// An empty `StepLog` for two steps.
fn fresh_log(device: &Device) -> CudaSlice<u64> {
    let nothing = u64::from(f32::NAN.to_bits());
    device.upload(&[2, nothing | nothing << 32, nothing | nothing << 32])
}

/// The losses and accuracies, alternating.
fn read_log(device: &Device, log: &CudaSlice<u64>) -> Vec<f32> {
    let words = device.download(log).into_iter().skip(1);
    words.flat_map(|word| [word as u32, (word >> 32) as u32].map(f32::from_bits)).collect()
}

fn read_metrics(device: &Device, metrics: &CudaSlice<u64>) -> Metrics {
    let [loss, correct, count, steps, bad] = device.download(metrics).try_into().unwrap();
    Metrics { loss_sum: f64::from_bits(loss), correct, count, steps, first_bad_step: bad as i64 }
}

/// The loss sum, the number of correct predictions and the gradients, in f64.
fn expected(logits: &[f32], labels: &[usize], smoothing: f64, scale: f64) -> (f64, u64, Vec<f64>) {
    let classes = logits.len() / labels.len();
    let (mut loss, mut correct, mut d_logits) = (0.0, 0, Vec::new());
    for (row, &label) in logits.chunks(classes).zip(labels) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
        let target = |c: usize| smoothing / classes as f64 + if c == label { 1.0 - smoothing } else { 0.0 };
        let log_probability = |x: f32| f64::from(x - max) - sum.ln();
        loss -= row.iter().enumerate().map(|(c, &x)| target(c) * log_probability(x)).sum::<f64>();
        correct += u64::from(row.iter().position(|&x| x == max) == Some(label));
        d_logits.extend(row.iter().enumerate().map(|(c, &x)| (log_probability(x).exp() - target(c)) * scale));
    }
    (loss, correct, d_logits)
}

/// Rows, classes, and how they are divided: a thread, part of a warp, a warp and a block for a row, in one round and in
/// several, in one block and in several, with rows left over.
const CASES: &[(usize, usize, Division)] = &[
    (1, 2, ONE),
    (5, 3, Division(4, 32, 1, false)),
    (64, 10, Division(16, 1024, 1, false)),
    (300, 3, Division(4, 128, 5, false)),
    (37, 1, Division(1, 64, 1, false)),
    (5, 33, Division(32, 96, 1, false)),
    (21, 100, Division(32, 128, 3, false)),
    (20, 1001, Division(128, 128, 7, false)),
    (3, 2500, Division(256, 256, 1, false)),
    (9, 40, Division(8, 64, 1, true)),
    (20, 1000, Division(128, 128, 20, true)),
    (3, 104, Division(32, 32, 2, true)),
];

fn computes_losses_and_gradients(device: Device) {
    for &(rows, classes, by) in CASES {
        let logits = whole(rows * classes, 1);
        let labels: Vec<usize> = (0..rows).map(|i| (i * 7) % classes).collect();
        let (loss, correct, d_expected) = expected(&logits, &labels, 0.0, 1024.0 / rows as f64);
        let (source, target) = (device.upload(&logits), device.poisoned::<f32>(logits.len()));
        let (label, metrics, log) = (upload_u32(&device, &labels), fresh_metrics(&device), fresh_log(&device));
        let (scale, d_bias) = (device.upload(&[1024.0f32]), device.poisoned::<f32>(classes));
        let (n, c, none) = (rows as u32, classes as u32, 0u64);
        let numbers: [&dyn Field; 5] = [&n, &c, &0f32, &1f32, &0u32];
        run(&device, "f32", by, [&source, &label, &scale, &target, &d_bias, &metrics, &log], numbers);
        // Evaluation has no gradient, no loss scale and no log; it adds to the same metrics.
        run(&device, "f32", by, [&source, &label, &none, &none, &none, &metrics, &none], numbers);

        let read = read_metrics(&device, &metrics);
        assert!((read.loss_sum - 2.0 * loss).abs() < 1e-6 * (1.0 + loss.abs()), "{rows}×{classes}: {read:?} {loss}");
        let counts = (read.correct, read.count, read.steps, read.first_bad_step);
        assert_eq!(counts, (2 * correct, 2 * rows as u64, 2, -1));
        let gradients = device.download(&target);
        for (class, got) in device.download(&d_bias).into_iter().enumerate() {
            let column = gradients.iter().skip(class).step_by(classes);
            let (sum, size) =
                column.fold((0.0, 0.0), |(sum, size), &d| (sum + f64::from(d), size + f64::from(d.abs())));
            assert!((f64::from(got) - sum).abs() <= 1e-6 * size + 1e-6, "class {class}: {got} {sum}");
        }
        let log = read_log(&device, &log);
        assert!((f64::from(log[0]) - loss / rows as f64).abs() < 1e-5 * (1.0 + loss / rows as f64));
        assert_eq!(log[1], correct as f32 / rows as f32);
        assert!(log[2].is_nan(), "the second step was not logged");
        for (got, wanted) in gradients.into_iter().zip(d_expected) {
            assert!((f64::from(got) - wanted).abs() < 1e-6 * 1024.0 / rows as f64, "{got} {wanted}");
        }
    }
}

/// An auxiliary classifier with label smoothing adds its weighted loss to the step before.
fn smooths_and_weights(device: Device) {
    for &(rows, classes, by) in CASES {
        let logits = whole(rows * classes, 1);
        let labels: Vec<usize> = (0..rows).map(|i| (i * 7) % classes).collect();
        let (loss, _, d_expected) = expected(&logits, &labels, 0.125, 0.25 / rows as f64);
        let (source, target) = (device.upload(&logits), device.poisoned::<f32>(logits.len()));
        let label = upload_u32(&device, &labels);
        let metrics = device.upload(&[1f64.to_bits(), 2, 3, 1, -1i64 as u64]);
        let log = device.upload(&[2u64, u64::from(0.5f32.to_bits()), 0]);
        let (n, c, none) = (rows as u32, classes as u32, 0u64);
        let numbers: [&dyn Field; 5] = [&n, &c, &0.125f32, &0.25f32, &1u32];
        run(&device, "f32", by, [&source, &label, &none, &target, &none, &metrics, &log], numbers);
        let read = read_metrics(&device, &metrics);
        assert!((read.loss_sum - 1.0 - 0.25 * loss).abs() < 2e-6 * (1.0 + loss.abs()), "{by:?}: {read:?} {loss}");
        assert_eq!((read.correct, read.count, read.steps, read.first_bad_step), (2, 3, 1, -1));
        let mean = 0.25 * loss / rows as f64;
        assert!((f64::from(read_log(&device, &log)[0]) - 0.5 - mean).abs() < 1e-5 * (1.0 + mean));
        for (got, wanted) in device.download(&target).into_iter().zip(d_expected) {
            assert!((f64::from(got) - wanted).abs() < 1e-6 / rows as f64, "{got} {wanted}");
        }
    }
}

/// The gradient overwrites the logits, as a plan may let it.
fn stores_gradients_as_halves(device: Device) {
    let divisions = [
        (7, 10, Division(16, 128, 1, false)),
        (3, 40, Division(32, 96, 1, false)),
        (3, 40, Division(8, 32, 1, true)),
        (6, 1032, Division(128, 128, 4, true)),
        (6, 1027, Division(256, 256, 6, false)),
    ];
    for (rows, classes, by) in divisions {
        let logits: Vec<f32> = whole(rows * classes, 2).iter().map(|x| x / 4.0).collect();
        let labels: Vec<usize> = (0..rows).map(|i| (i * 3) % classes).collect();
        let (_, _, d_expected) = expected(&logits, &labels, 0.0, 256.0 / rows as f64);
        let (values, label, scale) =
            (device.upload(&halves(&logits)), upload_u32(&device, &labels), device.upload(&[256.0f32]));
        let (metrics, none, n, c) = (fresh_metrics(&device), 0u64, rows as u32, classes as u32);
        let numbers: [&dyn Field; 5] = [&n, &c, &0f32, &1f32, &0u32];
        run(&device, "f16", by, [&values, &label, &scale, &values, &none, &metrics, &none], numbers);
        for (got, wanted) in device.download(&values).into_iter().zip(d_expected) {
            // Half a unit in the last place of fp16, plus what subnormals lose.
            assert!((got.to_f64() - wanted).abs() <= wanted.abs() / 2048.0 + 1e-5, "{got} {wanted}");
        }
    }
}

/// A NaN counts as the largest logit and spoils its row only; −∞ is a probability of zero; a row of −∞, +∞ or an
/// invalid label has no finite loss.
fn passes_on_what_is_not_finite(device: Device) {
    for by in [Division(8, 64, 1, true), Division(32, 128, 2, false), Division(128, 128, 3, false)] {
        let (classes, infinity) = (40usize, f32::INFINITY);
        let mut rows = vec![whole(classes, 5); 6];
        (rows[0][17], rows[1][3], rows[2][39]) = (f32::NAN, -infinity, infinity);
        (rows[3], rows[5][9], rows[5][31]) = (vec![-infinity; classes], 30.0, 30.0);
        let label = upload_u32(&device, &[17, 3, 39, 0, classes, 9]);
        let (source, target) = (device.upload(&rows.concat()), device.poisoned::<f32>(6 * classes));
        let (metrics, none) = (fresh_metrics(&device), 0u64);
        let numbers: [&dyn Field; 5] = [&6u32, &(classes as u32), &0f32, &1f32, &0u32];
        run(&device, "f32", by, [&source, &label, &none, &target, &none, &metrics, &none], numbers);
        let read = read_metrics(&device, &metrics);
        // The NaN, the +∞, the first of all −∞ and the first of two maxima are the predictions.
        assert_eq!((read.correct, read.first_bad_step), (4, 0), "{by:?}");
        let gradients = device.download(&target);
        for (row, finite) in [false, true, false, false, true, true].into_iter().enumerate() {
            let row = &gradients[row * classes..][..classes];
            assert!(row.iter().all(|d| d.is_finite()) == finite && (finite || row.iter().any(|d| d.is_nan())));
        }
        assert_eq!(gradients[classes + 3], -1.0 / 6.0);
        assert!(gradients[4 * classes..5 * classes].iter().all(|&d| d >= 0.0), "an invalid label is no class");
    }
}

fn counts_steps_and_records_the_first_bad_one(device: Device) {
    let good = device.upload(&[0.0f32, 0.0]);
    let bad = device.upload(&[f32::NAN, 0.0]);
    let (label, wrong) = (upload_u32(&device, &[1]), upload_u32(&device, &[2]));
    let (metrics, log, none) = (fresh_metrics(&device), fresh_log(&device), 0u64);
    let numbers: [&dyn Field; 5] = [&1u32, &2u32, &0f32, &1f32, &0u32];
    for (logits, label) in [(&good, &label), (&good, &wrong), (&bad, &label)] {
        run(&device, "f32", ONE, [logits, label, &none, &none, &none, &metrics, &log], numbers);
    }
    let read = read_metrics(&device, &metrics);
    assert_eq!((read.steps, read.first_bad_step, read.correct), (3, 1, 0));
    let log = read_log(&device, &log);
    assert!(log[0].is_nan() && log[2].is_nan(), "the log is a ring: the third step overwrites the first");
    // With equal logits, the first class is the prediction.
    assert_eq!(log[1], 0.0);
}
