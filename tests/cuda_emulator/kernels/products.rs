//! Compares every tile of the convolutions that run on tensor cores with plain convolutions of whole numbers, which are
//! exact in every precision.

mod case;

use super::super::device::{Device, launch};
use super::in_both_orders;
use case::{Case, Storage, Tile, download, each_tile, name, null, small};

in_both_orders!(
    computes_the_forward_pass,
    pools_the_forward_pass,
    computes_the_weight_gradient,
    computes_the_input_gradient,
    reads_any_number_of_channels,
    adds_splits_in_two_levels,
    sums_many_tiles_of_columns,
);

/// A device that loads the kernels and allows them all of its shared memory.
fn for_tiles(device: Device) -> Device {
    device.with_target("sm_90a").with_shared(227 * 1024)
}

fn convolved(case: Case, input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let mut sums: Vec<f32> = (0..case.rows()).flat_map(|_| bias.to_vec()).collect();
    case.visit(|row, place, at| {
        for channel in 0..case.out_channels {
            sums[row * case.out_channels + channel] += input[at] * weight[channel * case.patch() + place];
        }
    });
    sums
}

fn forward(device: &Device, case: Case, tile: &Tile, storage: Storage, splits: usize) {
    let input = small(case.samples * case.input.iter().product::<usize>(), 1);
    let weight = small(case.out_channels * case.patch(), 2);
    let bias = small(case.out_channels, 3);
    let expected: Vec<f32> =
        convolved(case, &input, &weight, &bias).into_iter().map(|sum| storage.rounded(sum.max(0.0))).collect();
    let count = case.rows().div_ceil(tile.rows) * case.out_channels.div_ceil(tile.cols);
    let (partials, counters) = tile.scratch(device, count, splits);
    let output = storage.poisoned(device, expected.len());
    launch!(
        device,
        &name(tile, storage),
        tile.config(count, splits),
        &storage.upload(device, &input),
        &storage.upload(device, &weight),
        &device.upload(&bias),
        &output,
        &null(),
        &partials,
        &counters,
        &null(),
        &null(),
        &null(),
        &null(),
        &case.geometry(),
        &(case.samples as u32),
        &0.0_f32,
        &0_u32,
        &0.0_f32,
        &0.0_f32,
    )
    .unwrap_or_else(|error| panic!("{} {storage:?} {case:?}: {error}", tile.name));
    assert_eq!(download(device, &output), expected, "{} {storage:?} {case:?}", tile.name);
}

const ODD: &[Case] = &[
    Case::new(2, [7, 9, 8], 24, [3, 1, 0]),
    Case::new(1, [13, 11, 24], 72, [3, 1, 1]),
    Case::new(2, [9, 10, 16], 8, [3, 2, 1]),
    Case::new(3, [8, 7, 8], 136, [1, 2, 0]),
    Case::new(37, [1, 1, 264], 40, [1, 1, 0]),
    Case::new(1, [17, 16, 8], 16, [7, 3, 4]),
];

fn computes_the_forward_pass(device: Device) {
    let device = for_tiles(device);
    for &case in ODD {
        for splits in [1, 2] {
            each_tile("conv2d_forward", &[case.input[2]], |tile, storage| {
                forward(&device, case, tile, storage, splits);
            });
        }
    }
}

fn pools_the_forward_pass(device: Device) {
    let device = for_tiles(device);
    for case in [Case::new(3, [7, 9, 8], 24, [3, 1, 0]), Case::new(1, [12, 13, 16], 40, [3, 1, 1])] {
        each_tile("conv2d_forward", &[case.input[2]], |tile, storage| pooled(&device, case, tile, storage));
    }
}

fn pooled(device: &Device, case: Case, tile: &Tile, storage: Storage) {
    let input = small(case.samples * case.input.iter().product::<usize>(), 1);
    let weight = small(case.out_channels * case.patch(), 2);
    let (height, width) = case.outputs();
    let (pools, channels) = (case.samples * (height / 2) * (width / 2), case.out_channels);
    let sums = convolved(case, &input, &weight, &vec![0.0; channels]);
    let (mut maxima, mut places) = (vec![0.0_f32; pools * channels], vec![0; pools * channels]);
    for at in 0..pools * channels {
        let (pool, channel) = (at / channels, at % channels);
        let (sample, y, x) = (pool / (width / 2) / (height / 2), pool / (width / 2) % (height / 2), pool % (width / 2));
        let mut best = f32::NEG_INFINITY;
        for part in 0..4 {
            let place = (2 * y + part / 2) * width + 2 * x + part % 2;
            let value = storage.rounded(sums[(sample * height * width + place) * channels + channel].max(0.0));
            if value > best {
                best = value;
                places[at] = place as u32;
            }
        }
        maxima[at] = best;
    }
    let count = (4 * pools).div_ceil(tile.rows) * channels.div_ceil(tile.cols);
    let output = storage.poisoned(device, maxima.len());
    let argmax = device.poisoned::<u32>(places.len());
    let (partials, counters) = tile.scratch(device, count, 1);
    launch!(
        device,
        &name(tile, storage),
        tile.config(count, 1),
        &storage.upload(device, &input),
        &storage.upload(device, &weight),
        &null(),
        &output,
        &argmax,
        &partials,
        &counters,
        &null(),
        &null(),
        &null(),
        &null(),
        &case.geometry(),
        &(case.samples as u32),
        &0.0_f32,
        &1_u32,
        &0.0_f32,
        &0.0_f32,
    )
    .unwrap_or_else(|error| panic!("{} {storage:?} {case:?}: {error}", tile.name));
    assert_eq!(download(device, &output), maxima, "{} {storage:?} {case:?}", tile.name);
    assert_eq!(device.download(&argmax), places, "{} {storage:?} {case:?}", tile.name);
}

fn backward_weight(device: &Device, case: Case, tile: &Tile, storage: Storage, splits: usize) {
    let input = small(case.samples * case.input.iter().product::<usize>(), 4);
    let d_output = small(case.rows() * case.out_channels, 5);
    let mut expected = vec![0.0; case.out_channels * case.patch()];
    case.visit(|row, place, at| {
        for channel in 0..case.out_channels {
            expected[channel * case.patch() + place] += d_output[row * case.out_channels + channel] * input[at];
        }
    });
    let count = case.out_channels.div_ceil(tile.rows) * case.patch().div_ceil(tile.cols);
    let (partials, counters) = tile.scratch(device, count, splits);
    let d_weight = device.poisoned::<f32>(expected.len());
    launch!(
        device,
        &name(tile, storage),
        tile.config(count, splits),
        &storage.upload(device, &input),
        &storage.upload(device, &d_output),
        &d_weight,
        &partials,
        &counters,
        &case.geometry(),
        &(case.samples as u32),
    )
    .unwrap_or_else(|error| panic!("{} {storage:?} {case:?}: {error}", tile.name));
    assert_eq!(device.download(&d_weight), expected, "{} {storage:?} {case:?}", tile.name);
}

fn computes_the_weight_gradient(device: Device) {
    let device = for_tiles(device);
    for &case in ODD {
        for splits in [1, 3] {
            each_tile("conv2d_backward_weight", &[case.input[2], case.out_channels], |tile, storage| {
                backward_weight(&device, case, tile, storage, splits);
            });
        }
    }
}

/// The tiles along the rows of the input gradient: those of every phase.
fn input_tiles(case: Case, rows: usize) -> usize {
    let phase =
        |remainder: usize, size: usize| (0..size).filter(|at| (at + case.padding) % case.stride == remainder).count();
    let phases = (0..case.stride * case.stride).map(|index| {
        case.samples * phase(index / case.stride, case.input[0]) * phase(index % case.stride, case.input[1])
    });
    phases.map(|lines| lines.div_ceil(rows)).sum()
}

fn backward_input(device: &Device, case: Case, tile: &Tile, storage: Storage, splits: usize) {
    let channels = case.input[2];
    let weight = small(case.out_channels * case.patch(), 6);
    let d_output = small(case.rows() * case.out_channels, 7);
    let output = small(case.samples * case.input.iter().product::<usize>(), 8);
    let mut expected = vec![0.0; output.len()];
    case.visit(|row, place, at| {
        for channel in 0..case.out_channels {
            expected[at] += d_output[row * case.out_channels + channel] * weight[channel * case.patch() + place];
        }
    });
    let mut d_bias = vec![0.0; channels];
    for (at, value) in expected.iter_mut().enumerate() {
        *value = if output[at] > 0.0 { storage.rounded(*value) } else { 0.0 };
        d_bias[at % channels] += *value;
    }
    let (tiles, across) = (input_tiles(case, tile.rows), channels.div_ceil(tile.cols));
    let (partials, counters) = tile.scratch(device, tiles * across, splits);
    let (d_input, sums) = (storage.poisoned(device, expected.len()), device.poisoned::<f32>(channels));
    let parts_counters = device.upload(&vec![0_u32; across * (1 + tiles.div_ceil(32))]);
    launch!(
        device,
        &name(tile, storage),
        tile.config(tiles * across, splits),
        &storage.upload(device, &d_output),
        &storage.upload(device, &weight),
        &storage.upload(device, &output),
        &null(),
        &null(),
        &null(),
        &null(),
        &null(),
        &d_input,
        &sums,
        &null(),
        &device.poisoned::<f32>(2 * tiles * channels),
        &parts_counters,
        &partials,
        &counters,
        &case.geometry(),
        &(case.samples as u32),
        &0.0_f32,
        &0_u32,
    )
    .unwrap_or_else(|error| panic!("{} {storage:?} {case:?}: {error}", tile.name));
    assert_eq!(download(device, &d_input), expected, "{} {storage:?} {case:?}", tile.name);
    assert_eq!(device.download(&sums), d_bias, "{} {storage:?} {case:?}", tile.name);
    assert!(device.download(&parts_counters).iter().all(|&counter| counter == 0), "the counters are reset");
}

fn computes_the_input_gradient(device: Device) {
    let device = for_tiles(device);
    for &case in ODD {
        for splits in [1, 2] {
            each_tile("conv2d_backward_input", &[case.input[2], case.out_channels], |tile, storage| {
                backward_input(&device, case, tile, storage, splits);
            });
        }
    }
}

fn reads_any_number_of_channels(device: Device) {
    let device = for_tiles(device);
    for case in [Case::new(1, [9, 8, 3], 5, [7, 2, 3]), Case::new(2, [5, 6, 1], 70, [3, 1, 0])] {
        each_tile("conv2d_forward", &[1], |tile, storage| forward(&device, case, tile, storage, 1));
        each_tile("conv2d_backward_weight", &[1], |tile, storage| backward_weight(&device, case, tile, storage, 2));
        each_tile("conv2d_backward_input", &[1], |tile, storage| backward_input(&device, case, tile, storage, 2));
    }
}

fn adds_splits_in_two_levels(device: Device) {
    let device = for_tiles(device);
    let case = Case::new(9, [10, 10, 8], 16, [3, 1, 1]);
    each_tile("conv2d_backward_weight", &[8], |tile, storage| backward_weight(&device, case, tile, storage, 19));
}

fn sums_many_tiles_of_columns(device: Device) {
    let device = for_tiles(device);
    let case = Case::new(3, [48, 61, 8], 8, [1, 1, 0]);
    each_tile("conv2d_backward_input", &[8], |tile, storage| backward_input(&device, case, tile, storage, 1));
}
