//! Softmax cross-entropy, its gradient and the metrics, for few and many classes.

use cudarc::driver::CudaSlice;

use super::super::device::{Device, blocks, launch};
use super::{halves, in_both_orders, upload_u32, whole};

in_both_orders!(computes_losses_and_gradients, stores_gradients_as_halves, counts_steps_and_records_the_first_bad_one);

/// Launches the loss of the main classifier, without label smoothing.
macro_rules! main_head {
    ($device:expr, $name:expr, $($argument:expr),+ $(,)?) => {
        launch!($device, $name, blocks(1), $($argument),+, &0f32, &1f32, &0u32).unwrap()
    };
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
fn expected(logits: &[f32], labels: &[usize], classes: usize, scale: f64) -> (f64, u64, Vec<f64>) {
    let (mut loss, mut correct, mut d_logits) = (0.0, 0, Vec::new());
    for (row, &label) in logits.chunks(classes).zip(labels) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
        loss += sum.ln() + f64::from(max) - f64::from(row[label]);
        correct += u64::from(row.iter().position(|&x| x == max) == Some(label));
        let probability = |x: f32| f64::from(x - max).exp() / sum;
        d_logits
            .extend(row.iter().enumerate().map(|(c, &x)| (probability(x) - f64::from(u8::from(c == label))) * scale));
    }
    (loss, correct, d_logits)
}

fn computes_losses_and_gradients(device: Device) {
    for (rows, classes) in [(1, 2), (64, 10), (300, 3), (5, 33), (20, 1000)] {
        let logits = whole(rows * classes, 1);
        let labels: Vec<usize> = (0..rows).map(|i| (i * 7) % classes).collect();
        let (loss, correct, d_expected) = expected(&logits, &labels, classes, 1024.0 / rows as f64);
        let (source, target) = (device.upload(&logits), device.poisoned::<f32>(logits.len()));
        let (label, metrics, log) = (upload_u32(&device, &labels), fresh_metrics(&device), fresh_log(&device));
        let scale = device.upload(&[1024.0f32]);
        let d_bias = device.poisoned::<f32>(classes);
        let (n, c, none) = (rows as u32, classes as u32, 0u64);
        let name = "softmax_cross_entropy_f32";
        main_head!(device, name, &source, &label, &scale, &target, &d_bias, &metrics, &log, &n, &c);
        // Evaluation has no gradient, no loss scale and no log; it adds to the same metrics.
        main_head!(device, name, &source, &label, &none, &none, &none, &metrics, &none, &n, &c);

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
        for (got, wanted) in device.download(&target).into_iter().zip(d_expected) {
            assert!((f64::from(got) - wanted).abs() < 1e-6 * 1024.0 / rows as f64, "{got} {wanted}");
        }
    }
}

/// The gradient overwrites the logits, as a plan may let it.
fn stores_gradients_as_halves(device: Device) {
    for (rows, classes) in [(7, 10), (3, 40)] {
        let logits: Vec<f32> = whole(rows * classes, 2).iter().map(|x| x / 4.0).collect();
        let labels: Vec<usize> = (0..rows).map(|i| (i * 3) % classes).collect();
        let (_, _, d_expected) = expected(&logits, &labels, classes, 256.0 / rows as f64);
        let (values, label, scale) =
            (device.upload(&halves(&logits)), upload_u32(&device, &labels), device.upload(&[256.0f32]));
        let (metrics, none, n, c) = (fresh_metrics(&device), 0u64, rows as u32, classes as u32);
        let name = "softmax_cross_entropy_f16";
        main_head!(device, name, &values, &label, &scale, &values, &none, &metrics, &none, &n, &c);
        for (got, wanted) in device.download(&values).into_iter().zip(d_expected) {
            // Half a unit in the last place of fp16, plus what subnormals lose.
            assert!((got.to_f64() - wanted).abs() <= wanted.abs() / 2048.0 + 1e-5, "{got} {wanted}");
        }
    }
}

fn counts_steps_and_records_the_first_bad_one(device: Device) {
    let good = device.upload(&[0.0f32, 0.0]);
    let bad = device.upload(&[f32::NAN, 0.0]);
    let (label, wrong) = (upload_u32(&device, &[1]), upload_u32(&device, &[2]));
    let (metrics, log, none) = (fresh_metrics(&device), fresh_log(&device), 0u64);
    let name = "softmax_cross_entropy_f32";
    for (logits, label) in [(&good, &label), (&good, &wrong), (&bad, &label)] {
        main_head!(device, name, logits, label, &none, &none, &none, &metrics, &log, &1u32, &2u32);
    }
    let read = read_metrics(&device, &metrics);
    assert_eq!((read.steps, read.first_bad_step, read.correct), (3, 1, 0));
    let log = read_log(&device, &log);
    assert!(log[0].is_nan() && log[2].is_nan(), "the log is a ring: the third step overwrites the first");
    // With equal logits, the first class is the prediction.
    assert_eq!(log[1], 0.0);
}
