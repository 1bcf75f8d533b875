// Operators that join branches of the network: sums, copies, concatenation of channels, and shortcut subsampling.
#include "geometry.cuh"

struct AddParams : Params<2, 3, 32> {
    const real *left, *right;
    real* output;
    u64 count;
};

// output = left + right; output may be either of them. One thread per 16 bytes.
KERNEL(add_forward, AddParams) {
    map(p.output, p.count, [](float left, float right) { return left + right; }, p.left, p.right);
}

struct CopyParams : Params<1, 2, 24> {
    const real* source;
    real* target;
    u64 count;
};

// target = source. One thread per 16 bytes.
KERNEL(copy, CopyParams) {
    map(p.target, p.count, [](float value) { return value; }, p.source);
}

struct CopyChannelsParams : Params<1, 2, 48> {
    const real* source;
    real* target;
    u64 pixels;
    u32 channels, source_stride, source_offset, target_stride, target_offset;
};

template <u32 V>
static __device__ __forceinline__ void copy_some(const CopyChannelsParams& p) {
    for_channels<V>(p.pixels * p.channels, p.channels, [&](u64, u64 pixel, u32 channel) {
        const Pack<V, real> values = read_pack<V>(p.source + pixel * p.source_stride + p.source_offset + channel);
        store_pack(p.target + pixel * p.target_stride + p.target_offset + channel, values);
    });
}

// Copies `channels` values of each pixel from channel `source_offset` of `source` to channel `target_offset` of
// `target`; `source_stride` and `target_stride` are the channels per pixel. This is concatenation, and in the other
// direction its gradient. One thread per value. copy_channels_vec also requires strides and offsets that are multiples
// of VEC.
KERNEL(copy_channels, CopyChannelsParams) { copy_some<1>(p); }
KERNEL(copy_channels_vec, CopyChannelsParams) { copy_some<VEC>(p); }

struct SubsampleParams : Params<1, 2, 72> {
    const real* source;
    real* target;
    u64 count;
    Geometry op;  // With kernel size 1.
    u32 first_channel;
};

// output[y][x] = input[y · stride][x · stride], with the input's channels starting at `first_channel` and zeros in the
// other channels: the parameter-free shortcut of a residual network. One thread per output.
KERNEL(subsample_forward, SubsampleParams) {
    GRID_STRIDE(i, p.count) {
        const Position at = p.op.output_position(i);
        const u32 channel = at.channel - p.first_channel;  // Wraps around below first_channel.
        const u64 from = p.op.input_at(at.sample, at.y * p.op.stride, at.x * p.op.stride) + channel;
        store(p.target + i, channel < p.op.channels ? read(p.source + from) : 0.0f);
    }
}

// The gradient of subsample_forward; zero for the skipped pixels. One thread per input.
KERNEL(subsample_backward, SubsampleParams) {
    GRID_STRIDE(i, p.count) {
        const Position at = p.op.input_position(i);
        const bool kept = at.x % p.op.stride == 0 && at.y % p.op.stride == 0;
        const u64 from =
            p.op.output_at(at.sample, at.y / p.op.stride, at.x / p.op.stride) + at.channel + p.first_channel;
        store(p.target + i, kept ? read(p.source + from) : 0.0f);
    }
}
