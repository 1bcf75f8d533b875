//! Weight gradients of grouped convolutions, whose blocks sum in shared memory.

use super::super::device::{Device, blocks, launch};
use super::{in_both_orders, whole};

in_both_orders!(sums_weight_gradients);

/// Samples, height, width; input and output channels, groups; stride, padding, dilation of a 3×3 kernel.
const CASES: &[([usize; 3], [usize; 3], [usize; 3])] =
    &[([2, 5, 4], [4, 6, 2], [1, 1, 1]), ([1, 7, 9], [3, 3, 3], [2, 2, 2]), ([20, 6, 6], [2, 1, 1], [1, 0, 2])];

fn sums_weight_gradients(device: Device) {
    for &([samples, height, width], [channels, outs, groups], [stride, padding, dilation]) in CASES {
        let along = |size: usize| (size + 2 * padding - 2 * dilation - 1) / stride + 1;
        let (out_height, out_width, ins) = (along(height), along(width), channels / groups);
        let input = whole(samples * height * width * channels, 1);
        let d_output = whole(samples * out_height * out_width * outs, 2);
        let mut expected = vec![0.0; outs * 9 * ins];
        for (i, sum) in expected.iter_mut().enumerate() {
            let (c, kx, ky, out) = (i % ins, i / ins % 3, i / ins / 3 % 3, i / ins / 9);
            for pixel in 0..samples * out_height * out_width {
                let (x, y, sample) =
                    (pixel % out_width, pixel / out_width % out_height, pixel / out_width / out_height);
                let (x, y) = (x * stride + kx * dilation, y * stride + ky * dilation);
                if x < padding || y < padding || x - padding >= width || y - padding >= height {
                    continue;
                }
                let at = (sample * height + y - padding) * width + x - padding;
                *sum += input[at * channels + out / (outs / groups) * ins + c] * d_output[pixel * outs + out];
            }
        }
        let (source, gradients) = (device.upload(&input), device.upload(&d_output));
        let target = device.poisoned::<f32>(expected.len());
        let (count, pixels) = (expected.len() as u64, (samples * out_height * out_width) as u64);
        let sizes = [height, width, channels, out_height, out_width, outs, 3, stride, padding, groups, dilation];
        let op = sizes.map(|size| size as u32);
        let name = "grouped_backward_weight_f32";
        let (x, y, t, n, p) = (&source, &gradients, &target, &count, &pixels);
        // There are fewer blocks than weights, so each block computes several.
        launch!(device, name, blocks(5), x, y, t, n, p, &op, &0u32).unwrap();
        assert_eq!(device.download(t), expected);
    }
}
