//! im2col and col2im: scalar and vectorised, whole and in chunks.

use super::super::device::{Device, blocks, launch};
use super::{geometry, halves, in_both_orders, whole};

in_both_orders!(unfolds, unfolds_a_chunk, folds, folds_a_range_of_samples, folds_halves);

#[derive(Clone, Copy)]
struct Case {
    samples: usize,
    height: usize,
    width: usize,
    channels: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl Case {
    const fn new([samples, height, width, channels]: [usize; 4], [kernel, stride, padding]: [usize; 3]) -> Self {
        Self { samples, height, width, channels, kernel, stride, padding }
    }

    fn outputs(&self) -> (usize, usize) {
        let along = |size| (size + 2 * self.padding - self.kernel) / self.stride + 1;
        (along(self.height), along(self.width))
    }

    fn rows(&self) -> usize {
        let (height, width) = self.outputs();
        self.samples * height * width
    }

    fn row_size(&self) -> usize {
        self.kernel * self.kernel * self.channels
    }

    fn inputs(&self) -> usize {
        self.samples * self.height * self.width * self.channels
    }

    /// The index of the input that each column element holds, or None in the padding.
    fn sources(&self) -> Vec<Option<usize>> {
        let (out_height, out_width) = self.outputs();
        let inside = |out: usize, k: usize, size: usize| {
            (out * self.stride + k).checked_sub(self.padding).filter(|&position| position < size)
        };
        let mut sources = Vec::new();
        for row in 0..self.rows() {
            let (sample, y, x) = (row / out_width / out_height, row / out_width % out_height, row % out_width);
            for cell in 0..self.row_size() {
                let (channel, kx) = (cell % self.channels, cell / self.channels % self.kernel);
                let ky = cell / self.channels / self.kernel;
                let at = inside(y, ky, self.height).zip(inside(x, kx, self.width));
                sources.push(at.map(|(y, x)| ((sample * self.height + y) * self.width + x) * self.channels + channel));
            }
        }
        sources
    }

    fn geometry(&self) -> [u32; 11] {
        geometry([self.height, self.width, self.channels, 1], self.outputs(), [self.kernel, self.stride, self.padding])
    }
}

const CASES: &[Case] = &[
    Case::new([2, 5, 7, 3], [3, 1, 0]),
    Case::new([1, 4, 4, 1], [2, 3, 1]),
    Case::new([3, 6, 5, 4], [3, 2, 1]),
    Case::new([1, 3, 3, 8], [1, 2, 0]),
    Case::new([2, 2, 9, 8], [5, 1, 2]),
];

fn expected_columns(case: Case, input: &[f32]) -> Vec<f32> {
    case.sources().into_iter().map(|source| source.map_or(0.0, |at| input[at])).collect()
}

fn expected_fold(case: Case, columns: &[f32]) -> Vec<f32> {
    let mut sums = vec![0.0; case.inputs()];
    for (source, value) in case.sources().into_iter().zip(columns) {
        if let Some(at) = source {
            sums[at] += value;
        }
    }
    sums
}

fn run(device: &Device, kernel: &str, case: Case, input: &[f32], output: usize, range: (usize, usize)) -> Vec<f32> {
    let (source, target) = (device.upload(input), device.poisoned::<f32>(output));
    let (first, count) = (range.0 as u64, range.1 as u64);
    launch!(device, kernel, blocks(3), &source, &target, &first, &count, &case.geometry(), &0u32).unwrap();
    device.download(&target)
}

fn kernels_for(case: Case, name: &str) -> Vec<String> {
    let vector = case.channels.is_multiple_of(4).then(|| format!("{name}_vec_f32"));
    [Some(format!("{name}_f32")), vector].into_iter().flatten().collect()
}

fn unfolds(device: Device) {
    for &case in CASES {
        let input = whole(case.inputs(), 1);
        let expected = expected_columns(case, &input);
        for kernel in kernels_for(case, "im2col") {
            assert_eq!(run(&device, &kernel, case, &input, expected.len(), (0, case.rows())), expected, "{kernel}");
        }
    }
}

fn unfolds_a_chunk(device: Device) {
    for &case in CASES {
        let input = whole(case.inputs(), 2);
        let (first, count) = (case.rows() / 3, case.rows() / 2);
        let expected = &expected_columns(case, &input)[first * case.row_size()..][..count * case.row_size()];
        for kernel in kernels_for(case, "im2col") {
            assert_eq!(run(&device, &kernel, case, &input, expected.len(), (first, count)), expected, "{kernel}");
        }
    }
}

fn folds(device: Device) {
    for &case in CASES {
        let columns = whole(case.rows() * case.row_size(), 3);
        let expected = expected_fold(case, &columns);
        for kernel in kernels_for(case, "col2im") {
            assert_eq!(run(&device, &kernel, case, &columns, expected.len(), (0, case.samples)), expected, "{kernel}");
        }
    }
}

fn folds_a_range_of_samples(device: Device) {
    let case = CASES[2];
    let columns = whole(case.rows() * case.row_size(), 4);
    let sample = case.inputs() / case.samples;
    let expected = &expected_fold(case, &columns)[sample..2 * sample];
    let chunk = &columns[columns.len() / 3..][..columns.len() / 3];
    for kernel in kernels_for(case, "col2im") {
        let result = run(&device, &kernel, case, chunk, case.inputs(), (1, 1));
        assert_eq!(&result[sample..2 * sample], expected, "{kernel}");
        assert!(
            result[..sample].iter().chain(&result[2 * sample..]).all(|v| v.is_nan()),
            "{kernel}: other samples are untouched"
        );
    }
}

/// Unfolds and folds fp16 values, which represent such small whole numbers exactly.
fn folds_halves(device: Device) {
    for &case in CASES {
        let input = whole(case.inputs(), 5);
        let columns = expected_columns(case, &input);
        let suffix = if case.channels.is_multiple_of(8) { "_vec_f16" } else { "_f16" };
        let source = device.upload(&halves(&input));
        let middle = device.poisoned::<half::f16>(columns.len());
        let target = device.poisoned::<half::f16>(case.inputs());
        let op = case.geometry();
        let (zero, rows, samples) = (0u64, case.rows() as u64, case.samples as u64);
        let (unfold, fold) = (format!("im2col{suffix}"), format!("col2im{suffix}"));
        launch!(device, &unfold, blocks(2), &source, &middle, &zero, &rows, &op, &0u32).unwrap();
        launch!(device, &fold, blocks(2), &middle, &target, &zero, &samples, &op, &0u32).unwrap();
        assert_eq!(device.download(&middle), halves(&columns));
        assert_eq!(device.download(&target), halves(&expected_fold(case, &columns)));
    }
}
