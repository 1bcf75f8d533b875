//! Grouped and dilated convolutions: one small matrix product for each group and kernel row or element.

use rayon::prelude::*;

use super::gemm::kernel::{Gemm, LeftStrides, Start};
use super::geometry::Geometry;
use super::runtime::scratch::{self, Buffer, grown};
use super::{Instructions, Real};

/// Number of partial sums of the weight gradient, which are then added in a fixed order.
const WEIGHT_GROUPS: usize = 8;

/// The number of groups, and the sizes of one group.
#[derive(Clone, Copy)]
struct GroupSizes {
    groups: usize,
    kernel: usize,
    in_channels: usize,
    out_channels: usize,
}

impl Geometry {
    fn group_sizes(&self) -> GroupSizes {
        let groups = self.op.groups;
        GroupSizes {
            groups,
            kernel: self.op.window.kernel,
            in_channels: self.op.input.channels / groups,
            out_channels: self.op.out_channels / groups,
        }
    }

    /// Offset in the padded input of a group's first input for a kernel element.
    fn grouped_input(&self, group: usize, ky: usize, kx: usize) -> usize {
        let channels = self.op.input.channels;
        self.op.dilation * (ky * self.line + kx * channels) + group * self.group_sizes().in_channels
    }

    /// Packs the weights as [`Geometry::grouped_forward`] reads them, `[group][ky][kx][ic][oc]`.
    pub fn grouped_weights<R: Real>(&self, weight: &[R], target: &mut [f32]) {
        let GroupSizes { kernel, in_channels, out_channels, .. } = self.group_sizes();
        let block = in_channels * out_channels;
        target.chunks_exact_mut(block).enumerate().for_each(|(index, target)| {
            let (group, place) = (index / (kernel * kernel), index % (kernel * kernel));
            for (at, target) in target.iter_mut().enumerate() {
                let (ic, oc) = (at / out_channels, at % out_channels);
                *target = weight[((group * out_channels + oc) * kernel * kernel + place) * in_channels + ic].get();
            }
        });
    }

    /// Computes some output lines `y` of a sample from its padded input.
    pub fn grouped_forward(
        &self,
        set: Instructions,
        x: &[f32],
        weights: &[f32],
        bias: &[f32],
        y: &mut [f32],
        relu: bool,
    ) {
        let GroupSizes { groups, kernel, in_channels, out_channels } = self.group_sizes();
        let (line, row) = self.strides();
        let product = Gemm {
            lines: y.len() / (self.output.width * self.output.channels),
            rows: self.output.width,
            cols: out_channels,
            outer: kernel,
            inner: in_channels,
            a: LeftStrides { line, row, outer: self.op.dilation * self.op.input.channels, inner: 1 },
            b_outer: in_channels * out_channels,
            b_inner: out_channels,
            c_line: self.output.width * self.output.channels,
            c_row: self.output.channels,
            pairs: false,
        };
        let rows = weights.chunks_exact(kernel * in_channels * out_channels);
        for (index, weights) in rows.enumerate().take(groups * kernel) {
            let (group, ky) = (index / kernel, index % kernel);
            let start = match (ky, bias.is_empty()) {
                (0, true) => Start::Zero,
                (0, false) => Start::Bias(&bias[group * out_channels..]),
                _ => Start::Accumulate,
            };
            let x = &x[self.grouped_input(group, ky, 0)..];
            product.run(set, x, weights, &mut y[group * out_channels..], start, relu && ky + 1 == kernel);
        }
    }

    /// The weight gradient of a batch; `partials` is a buffer for partial sums.
    pub fn grouped_backward_weight<R: Real>(
        &self,
        set: Instructions,
        x: &[R],
        d_y: &[R],
        d_weight: &mut [f32],
        partials: &mut Vec<f32>,
    ) {
        let GroupSizes { kernel, in_channels, out_channels, .. } = self.group_sizes();
        let len = d_weight.len();
        let lines = d_y.len() / (self.output.width * self.output.channels);
        let lines_per_group = lines.div_ceil(WEIGHT_GROUPS);
        let sums = grown(partials, lines.div_ceil(lines_per_group) * len);
        sums.par_chunks_mut(len).enumerate().for_each(|(group, partial)| {
            partial.fill(0.0);
            for at in group * lines_per_group..((group + 1) * lines_per_group).min(lines) {
                self.grouped_add_line(set, x, d_y, at, partial);
            }
        });
        let (first, others) = sums.split_at_mut(len);
        for group in others.chunks_exact(len) {
            first.iter_mut().zip(group).for_each(|(sum, term)| *sum += term);
        }
        let patch = kernel * kernel * in_channels;
        d_weight.par_chunks_mut(patch).enumerate().for_each(|(channel, d_weight)| {
            let (group, oc) = (channel / out_channels, channel % out_channels);
            for (at, d_weight) in d_weight.iter_mut().enumerate() {
                *d_weight = first[(group * patch + at) * out_channels + oc];
            }
        });
    }

    /// Adds the contribution of one output line to `partial`, `[group][ky][kx][ic][oc]`.
    fn grouped_add_line<R: Real>(&self, set: Instructions, x: &[R], d_y: &[R], at: usize, partial: &mut [f32]) {
        let GroupSizes { kernel, in_channels, out_channels, .. } = self.group_sizes();
        let (sample, line) = (at / self.output.height, at % self.output.height);
        let product = Gemm {
            lines: 1,
            rows: in_channels,
            cols: out_channels,
            outer: 1,
            inner: self.output.width,
            a: LeftStrides { row: 1, inner: self.strides().1, ..LeftStrides::default() },
            b_inner: self.output.channels,
            c_row: out_channels,
            ..Gemm::default()
        };
        let line_len = self.output.width * self.output.channels;
        scratch::with_floats(set, &d_y[at * line_len..][..line_len], Buffer::Converted, |d_y| {
            self.with_padded(set, &x[sample * self.op.input.len()..][..self.op.input.len()], line, 1, |x| {
                for (index, sum) in partial.chunks_exact_mut(in_channels * out_channels).enumerate() {
                    let (group, place) = (index / (kernel * kernel), index % (kernel * kernel));
                    let x = &x[self.grouped_input(group, place / kernel, place % kernel)..];
                    product.run(set, x, &d_y[group * out_channels..], sum, Start::Accumulate, false);
                }
            });
        });
    }

    /// The input gradient of one sample.
    pub fn grouped_backward_input<R: Real>(&self, set: Instructions, d_y: &[f32], weight: &[f32], d_x: &mut [R]) {
        let (input, padding) = (self.op.input, self.op.window.padding);
        let GroupSizes { groups, kernel, in_channels, out_channels } = self.group_sizes();
        let (c_line, c_row) = self.strides();
        let patch = kernel * kernel * in_channels;
        let product = Gemm {
            lines: self.output.height,
            rows: self.output.width,
            cols: in_channels,
            outer: 1,
            inner: out_channels,
            a: LeftStrides {
                line: self.output.width * self.output.channels,
                row: self.output.channels,
                outer: 0,
                inner: 1,
            },
            b_outer: 0,
            b_inner: patch,
            c_line,
            c_row,
            pairs: false,
        };
        scratch::with(Buffer::Padded, (input.height + 2 * padding) * self.line, |padded| {
            padded.fill(0.0);
            for (group, place) in (0..groups).flat_map(|group| (0..kernel * kernel).map(move |place| (group, place))) {
                let weight = &weight[group * out_channels * patch + place * in_channels..];
                let d_x = &mut padded[self.grouped_input(group, place / kernel, place % kernel)..];
                product.run(set, &d_y[group * out_channels..], weight, d_x, Start::Accumulate, false);
            }
            self.without_padding(set, padded, d_x);
        });
    }
}
