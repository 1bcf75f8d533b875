// Where branches of the network meet: sums of activations and gradients, copies, and concatenation of channels.
#include "geometry.cuh"

struct AddParams {
    const real *left, *right;
    real* output;
    u64 count;
    static constexpr u32 READS = 2, POINTERS = 3;
};
static_assert(sizeof(AddParams) == 32, "the layout is shared with Rust");

// output = left + right; output may be either of them. One thread per 16 bytes.
KERNEL(add_forward)(const __grid_constant__ AddParams p) {
    GRID_STRIDE(i, (p.count + VEC - 1) / VEC) {
        float sum[VEC], other[VEC];
        load_some(sum, p.left, i * VEC, p.count);
        load_some(other, p.right, i * VEC, p.count);
#pragma unroll
        for (u32 lane = 0; lane < VEC; ++lane) sum[lane] += other[lane];
        store_some(p.output, sum, i * VEC, p.count);
    }
}

struct CopyParams {
    const real* source;
    real* target;
    u64 count;
    static constexpr u32 READS = 1, POINTERS = 2;
};
static_assert(sizeof(CopyParams) == 24, "the layout is shared with Rust");

// target = source. One thread per 16 bytes.
KERNEL(copy)(const __grid_constant__ CopyParams p) {
    const real* __restrict__ source = p.source;
    real* __restrict__ target = p.target;
    GRID_STRIDE(i, (p.count + VEC - 1) / VEC) {
        float values[VEC];
        load_some(values, source, i * VEC, p.count);
        store_some(target, values, i * VEC, p.count);
    }
}

struct CopyChannelsParams {
    const real* source;
    real* target;
    u64 pixels;
    u32 channels, source_stride, source_offset, target_stride, target_offset, unused;
    static constexpr u32 READS = 1, POINTERS = 2;
};
static_assert(sizeof(CopyChannelsParams) == 48, "the layout is shared with Rust");

// Copies `channels` values of each pixel between buffers whose pixels are `*_stride` values apart, from channel
// `source_offset` to channel `target_offset`: concatenation one way, its gradient the other. One thread per value.
KERNEL(copy_channels)(const __grid_constant__ CopyChannelsParams p) {
    const real* __restrict__ source = p.source;
    real* __restrict__ target = p.target;
    GRID_STRIDE(i, p.pixels * p.channels) {
        u64 pixel = i;
        const u32 channel = take_digit(pixel, p.channels);
        const real value = source[pixel * p.source_stride + p.source_offset + channel];
        target[pixel * p.target_stride + p.target_offset + channel] = value;
    }
}

// The same where channels, strides and offsets are multiples of VEC: one thread per 16 bytes.
KERNEL(copy_channels_vec)(const __grid_constant__ CopyChannelsParams p) {
    const real* __restrict__ source = p.source;
    real* __restrict__ target = p.target;
    GRID_STRIDE(i, p.pixels * (p.channels / VEC)) {
        u64 pixel = i;
        const u32 channel = take_digit(pixel, p.channels / VEC) * VEC;
        const Vec vec = load_vec(source + pixel * p.source_stride + p.source_offset + channel);
        store_vec(target + pixel * p.target_stride + p.target_offset + channel, vec);
    }
}

struct SubsampleParams {
    const real* source;
    real* target;
    u64 count;
    Geometry op;  // A kernel of 1.
    u32 first_channel;
    static constexpr u32 READS = 1, POINTERS = 2;
};
static_assert(sizeof(SubsampleParams) == 72, "the layout is shared with Rust");

// output[y][x] = input[y · stride][x · stride], its channels from `first_channel` on between zeros: a residual network's
// shortcut without parameters. One thread per output.
KERNEL(subsample_forward)(const __grid_constant__ SubsampleParams p) {
    const real* __restrict__ input = p.source;
    real* __restrict__ output = p.target;
    GRID_STRIDE(i, p.count) {
        const Position at = p.op.output_position(i);
        const u32 channel = at.channel - p.first_channel;  // Wraps below it.
        const u64 from = p.op.input_at(at.sample, at.y * p.op.stride, at.x * p.op.stride) + channel;
        store(output + i, channel < p.op.channels ? load(input[from]) : 0.0f);
    }
}

// Its gradient: zero for the pixels that were left out. One thread per input.
KERNEL(subsample_backward)(const __grid_constant__ SubsampleParams p) {
    const real* __restrict__ d_output = p.source;
    real* __restrict__ d_input = p.target;
    GRID_STRIDE(i, p.count) {
        const Position at = p.op.input_position(i);
        const bool kept = at.x % p.op.stride == 0 && at.y % p.op.stride == 0;
        const u64 from = p.op.output_at(at.sample, at.y / p.op.stride, at.x / p.op.stride) + at.channel + p.first_channel;
        store(d_input + i, kept ? load(d_output[from]) : 0.0f);
    }
}
