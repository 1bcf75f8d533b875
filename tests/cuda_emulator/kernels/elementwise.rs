//! Bias, activations, joins and conversions, also with counts that are not multiples of a vector.

use cudarc::driver::LaunchConfig;
use half::{bf16, f16};

use super::super::device::{Device, blocks, launch, launch_planted};
use super::{halves, in_both_orders, whole};

in_both_orders!(
    adds_bias_and_activates,
    masks_and_sums_columns,
    activates_backward,
    adds_and_copies,
    copies_channels,
    rounds_as_ieee_does,
);

fn active(value: f32, slope: f32) -> f32 {
    if value > 0.0 {
        value
    } else if slope == 0.0 {
        0.0
    } else {
        slope * value
    }
}

const SLOPES: [f32; 3] = [1.0, 0.0, 0.25];

fn adds_bias_and_activates(device: Device) {
    for (channels, vector) in [(3usize, false), (8, false), (8, true), (16, true)] {
        for slope in SLOPES {
            let (input, bias) = (whole(11 * channels, 1), whole(channels, 2));
            let expected: Vec<f32> =
                input.iter().enumerate().map(|(i, x)| active(x + bias[i % channels], slope)).collect();
            let (wide, narrow) = (device.upload(&input), device.upload(&halves(&input)));
            let (b, count, c) = (device.upload(&bias), input.len() as u64, channels as u32);
            let name = if vector { "bias_activation_forward_vec" } else { "bias_activation_forward" };
            // In place.
            launch!(device, &format!("{name}_f32"), blocks(1), &wide, &b, &wide, &count, &c, &slope).unwrap();
            launch!(device, &format!("{name}_f16"), blocks(1), &narrow, &b, &narrow, &count, &c, &slope).unwrap();
            assert_eq!(device.download(&wide), expected);
            assert_eq!(device.download(&narrow), halves(&expected));
        }
    }
}

/// Rows, channels, elements per vector, vectors per block, and blocks that share the rows.
const PASSES: &[(usize, usize, usize, u32, u32)] = &[
    (1000, 10, 1, 16, 7),
    (37, 33, 1, 32, 3),
    (5, 64, 1, 32, 1),
    (64, 1, 1, 4, 2),
    (3000, 3, 1, 4, 12),
    (1000, 16, 4, 4, 5),
    (37, 24, 4, 8, 1),
    (300, 136, 4, 8, 4),
    (3000, 4, 4, 1, 40),
    (9, 128, 4, 8, 2),
];

/// Runs twice with the same counters, which the last block must reset.
fn masks_and_sums_columns(device: Device) {
    for &(rows, channels, vector, width, row_blocks) in PASSES {
        for slope in SLOPES {
            let (y, d_y) = (whole(rows * channels, 4), whole(rows * channels, 3));
            let masked: Vec<f32> = y.iter().zip(&d_y).map(|(&y, &d)| if y > 0.0 { d } else { slope * d }).collect();
            let sums: Vec<f32> = (0..channels).map(|c| masked.iter().skip(c).step_by(channels).sum()).collect();
            let column_blocks = (channels.div_ceil(vector) as u32).div_ceil(width);
            let columns = column_blocks as usize * width as usize * vector;
            let partial = device.poisoned::<f32>(row_blocks as usize * columns);
            let block_counters = device.upload(&vec![0u32; column_blocks as usize]);
            let config =
                LaunchConfig { grid_dim: (column_blocks, row_blocks, 1), block_dim: (512, 1, 1), shared_mem_bytes: 0 };
            let name = if vector > 1 { "bias_activation_backward_vec_f32" } else { "bias_activation_backward_f32" };
            let (n, c, output) = (rows as u64, channels as u32, device.upload(&y));
            for _ in 0..2 {
                let (gradient, target) = (device.upload(&d_y), device.poisoned::<f32>(channels));
                let (g, t, p, a) = (&gradient, &target, &partial, &block_counters);
                launch!(device, name, config, &output, g, t, p, a, &n, &c, &width, &slope).unwrap();
                assert_eq!(device.download(&gradient), masked);
                assert_eq!(device.download(&target), sums, "{rows} {channels} {width} {row_blocks}");
                assert!(device.download(&block_counters).iter().all(|&count| count == 0));
            }
        }
    }
}

fn activates_backward(device: Device) {
    for slope in SLOPES {
        let (output, d_output) = (whole(45, 4), whole(45, 5));
        let expected: Vec<f32> =
            output.iter().zip(&d_output).map(|(&y, &d)| if y > 0.0 { d } else { slope * d }).collect();
        let (y, d, count) = (device.upload(&output), device.upload(&d_output), 45u64);
        launch!(device, "activation_backward_f32", blocks(1), &y, &d, &d, &count, &slope).unwrap();
        assert_eq!(device.download(&d), expected);
    }
    // As in PyTorch's ReLU, NaN stays NaN and −∞ becomes +0.
    let values = device.upload(&[f32::NAN, f32::NEG_INFINITY, -0.0, f32::INFINITY]);
    launch!(device, "activation_forward_f32", blocks(1), &values, &values, &4u64, &0.0f32).unwrap();
    let result = device.download(&values);
    assert!(result[0].is_nan());
    assert_eq!(result[1..].iter().map(|v| v.to_bits()).collect::<Vec<_>>(), [0, 0, f32::INFINITY.to_bits()]);
}

fn adds_and_copies(device: Device) {
    for count in [1usize, 7, 8, 1029] {
        let (left, right) = (whole(count, 6), whole(count, 7));
        let sums: Vec<f32> = left.iter().zip(&right).map(|(a, b)| a + b).collect();
        let (a, b, out) = (device.upload(&left), device.upload(&right), device.poisoned::<f32>(count));
        let n = count as u64;
        launch!(device, "add_forward_f32", blocks(1), &a, &b, &out, &n).unwrap();
        assert_eq!(device.download(&out), sums);
        launch!(device, "copy_f32", blocks(1), &b, &out, &n).unwrap();
        assert_eq!(device.download(&out), right);
        launch!(device, "add_forward_f32", blocks(1), &a, &b, &a, &n).unwrap();
        assert_eq!(device.download(&a), sums);
        let (a, b) = (device.upload(&halves(&left)), device.upload(&halves(&right)));
        launch!(device, "add_forward_f16", blocks(1), &a, &b, &a, &n).unwrap();
        assert_eq!(device.download(&a), halves(&sums));
    }
}

fn copies_channels(device: Device) {
    for (kernel, channels, from, to) in
        [("copy_channels_f32", 3u32, (5u32, 2u32), (7u32, 1u32)), ("copy_channels_vec_f32", 8, (12, 4), (16, 8))]
    {
        let pixels = 9usize;
        let source = whole(pixels * from.0 as usize, 8);
        let (a, b) = (device.upload(&source), device.poisoned::<f32>(pixels * to.0 as usize));
        let ((source_stride, source_offset), (target_stride, target_offset)) = (from, to);
        let (n, c) = (pixels as u64, channels);
        let (s, so, t, to) = (&source_stride, &source_offset, &target_stride, &target_offset);
        launch!(device, kernel, blocks(1), &a, &b, &n, &c, s, so, t, to).unwrap();
        for (i, value) in device.download(&b).into_iter().enumerate() {
            let (pixel, channel) = (i / target_stride as usize, (i % target_stride as usize) as i64);
            let copied = channel - i64::from(target_offset);
            if (0..i64::from(channels)).contains(&copied) {
                let at = pixel * source_stride as usize + source_offset as usize + copied as usize;
                assert_eq!(value, source[at], "{kernel} at {i}");
            } else {
                assert!(value.is_nan(), "{kernel} writes {i}, outside its channels");
            }
        }
    }
}

fn rounds_as_ieee_does(device: Device) {
    check_rounding(&device, "f16", |bits| f16::from_bits(bits).to_f32(), |value| f16::from_f32(value).to_bits());
    check_rounding(&device, "bf16", |bits| bf16::from_bits(bits).to_f32(), |value| bf16::from_f32(value).to_bits());
}

/// Compares all numbers of a 16-bit storage type, and the floats around every rounding boundary, with the `half` crate.
fn check_rounding(device: &Device, storage: &str, widen: fn(u16) -> f32, round: fn(f32) -> u16) {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let (source, target, count) = (device.upload(&all), device.poisoned::<f32>(all.len()), all.len() as u32);
    let to_float = format!("planted_to_float_{storage}");
    launch_planted!(device, &to_float, blocks(4), &source, &target, &count).unwrap();
    let floats = device.download(&target);
    for (&bits, &float) in all.iter().zip(&floats) {
        let expected = widen(bits);
        assert!(expected == float || expected.is_nan() && float.is_nan(), "{bits:#x} {float}");
    }
    let near: Vec<f32> = floats
        .windows(2)
        .filter(|pair| pair.iter().all(|v| v.is_finite()))
        .flat_map(|pair| {
            let middle = (pair[0] + pair[1]) / 2.0;
            [middle, f32::from_bits(middle.to_bits() + 1), f32::from_bits(middle.to_bits().wrapping_sub(1))]
        })
        .chain([65519.99, 65520.0, -65520.0, 1e30, f32::INFINITY, f32::NEG_INFINITY, 1e-30, -0.0])
        .filter(|v| !v.is_nan())
        .collect();
    let (source, target, count) = (device.upload(&near), device.poisoned::<u16>(near.len()), near.len() as u32);
    let to_real = format!("planted_to_real_{storage}");
    launch_planted!(device, &to_real, blocks(4), &source, &target, &count).unwrap();
    for (&float, bits) in near.iter().zip(device.download(&target)) {
        assert_eq!(bits, round(float), "{storage} of {float}");
    }
}
