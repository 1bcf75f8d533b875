// Where branches of the network meet: sums of activations and gradients, copies, and concatenation of channels.
#include "common.cuh"

// output = left + right; output may be either of them.
KERNEL(add_forward)(const real* left, const real* right, real* output, u64 count) {
    GRID_STRIDE(i, (count + VEC - 1) / VEC) {
        float sum[VEC], other[VEC];
        load_some(sum, left, i * VEC, count);
        load_some(other, right, i * VEC, count);
#pragma unroll
        for (u32 lane = 0; lane < VEC; ++lane) sum[lane] += other[lane];
        store_some(output, sum, i * VEC, count);
    }
}

// target += source: the plan's sum of the gradients of an activation that several operators read.
KERNEL(accumulate)(real* target, const real* __restrict__ source, u64 count) {
    GRID_STRIDE(i, (count + VEC - 1) / VEC) {
        float sum[VEC], other[VEC];
        load_some(sum, target, i * VEC, count);
        load_some(other, source, i * VEC, count);
#pragma unroll
        for (u32 lane = 0; lane < VEC; ++lane) sum[lane] += other[lane];
        store_some(target, sum, i * VEC, count);
    }
}

KERNEL(copy)(const real* __restrict__ source, real* __restrict__ target, u64 count) {
    GRID_STRIDE(i, (count + VEC - 1) / VEC) {
        float values[VEC];
        load_some(values, source, i * VEC, count);
        store_some(target, values, i * VEC, count);
    }
}

// Copies `channels` values of each pixel between buffers whose pixels are `*_stride` values apart, from channel
// `source_offset` to channel `target_offset`: concatenation one way, its gradient the other.
KERNEL(copy_channels)(const real* __restrict__ source, real* __restrict__ target, u64 pixels, u32 channels,
                      u32 source_stride, u32 source_offset, u32 target_stride, u32 target_offset) {
    GRID_STRIDE(i, pixels * channels) {
        u64 pixel = i;
        const u32 channel = take_digit(pixel, channels);
        const real value = source[pixel * source_stride + source_offset + channel];
        target[pixel * target_stride + target_offset + channel] = value;
    }
}

// The same where channels, strides and offsets are multiples of VEC.
KERNEL(copy_channels_vec)(const real* __restrict__ source, real* __restrict__ target, u64 pixels, u32 channels,
                          u32 source_stride, u32 source_offset, u32 target_stride, u32 target_offset) {
    GRID_STRIDE(i, pixels * (channels / VEC)) {
        u64 pixel = i;
        const u32 channel = take_digit(pixel, channels / VEC) * VEC;
        const Vec vec = load_vec(source + pixel * source_stride + source_offset + channel);
        store_vec(target + pixel * target_stride + target_offset + channel, vec);
    }
}

// Every `stride`-th pixel in both directions, its channels from `first_channel` on between zeros: a residual network's
// shortcut without parameters.
KERNEL(subsample_forward)(const real* __restrict__ input, real* __restrict__ output, u64 count, u32 height, u32 width,
                          u32 channels, u32 out_height, u32 out_width, u32 out_channels, u32 stride,
                          u32 first_channel) {
    GRID_STRIDE(i, count) {
        u64 sample = i;
        const u32 channel = take_digit(sample, out_channels) - first_channel;  // Wraps below it.
        const u32 x = take_digit(sample, out_width) * stride;
        const u32 y = take_digit(sample, out_height) * stride;
        const u64 from = ((sample * height + y) * width + x) * channels + channel;
        store(output + i, channel < channels ? load(input[from]) : 0.0f);
    }
}

// Its gradient: zero for the pixels that were left out.
KERNEL(subsample_backward)(const real* __restrict__ d_output, real* __restrict__ d_input, u64 count, u32 height,
                           u32 width, u32 channels, u32 out_height, u32 out_width, u32 out_channels, u32 stride,
                           u32 first_channel) {
    GRID_STRIDE(i, count) {
        u64 sample = i;
        const u32 channel = take_digit(sample, channels) + first_channel;
        const u32 x = take_digit(sample, width);
        const u32 y = take_digit(sample, height);
        const bool kept = x % stride == 0 && y % stride == 0;
        const u64 from = ((sample * out_height + y / stride) * out_width + x / stride) * out_channels + channel;
        store(d_input + i, kept ? load(d_output[from]) : 0.0f);
    }
}
