// The window of an operator over an image, NHWC: of convolutions, pooling and subsampling. `Geometry` of src/cuda/geometry.rs.
#pragma once

#include "common.cuh"

// A range of coordinates along one axis, [begin, end).
struct Span {
    u32 begin, end;
};

// One value of an image: its sample, its pixel, and its channel.
struct Position {
    u64 sample;
    u32 y, x, channel;
};

// Vector number `i` of V channels of images [samples][height][width][channels]; its channel is the vector's first.
template <u32 V>
__device__ __forceinline__ Position position_of(u64 i, u32 height, u32 width, u32 channels) {
    Position at;
    at.channel = divmod(i, channels / V) * V;
    at.x = divmod(i, width);
    at.y = divmod(i, height);
    at.sample = i;
    return at;
}

// Output (y, x) sees the inputs (y · stride + ky · dilation − padding, x · stride + kx · dilation − padding), ky and kx below
// `kernel`. Adaptive pooling has no window, and 0 for it.
struct Geometry {
    u32 height, width, channels;
    u32 out_height, out_width, out_channels;
    u32 kernel, stride, padding, groups, dilation;

    // Values of one window, and of a filter, without groups.
    __device__ __forceinline__ u32 patch() const { return kernel * kernel * channels; }
    __device__ __forceinline__ u32 out_pixels() const { return out_height * out_width; }

    // Of the input's or output's vectors.
    template <u32 V = 1>
    __device__ __forceinline__ Position input_position(u64 i) const {
        return position_of<V>(i, height, width, channels);
    }
    template <u32 V = 1>
    __device__ __forceinline__ Position output_position(u64 i) const {
        return position_of<V>(i, out_height, out_width, out_channels);
    }

    // The number of a pixel's first value.
    __device__ __forceinline__ u64 input_at(u64 sample, u32 y, u32 x) const {
        return ((sample * height + y) * width + x) * channels;
    }
    __device__ __forceinline__ u64 output_at(u64 sample, u32 y, u32 x) const {
        return ((sample * out_height + y) * out_width + x) * out_channels;
    }

    // The same of an input pixel within its sample; before it, or beyond, in the padding.
    __device__ __forceinline__ long long place(int y, int x) const { return ((long long)y * width + x) * channels; }

    // Whether a pixel of the input is there, not in the padding.
    __device__ __forceinline__ bool has(u32 y, u32 x) const { return y < height && x < width; }

    // The input under an output and a place in the kernel, along one axis. Before the input it wraps to a number beyond it.
    __device__ __forceinline__ u32 under(u32 out, u32 place) const { return out * stride + place * dilation - padding; }

    // Without dilation, along an axis of `size` inputs or `outputs`: the inputs that the window of an output covers, padding left
    // out, and the outputs whose windows cover an input, which are none where a stride leaps over it.
    __device__ __forceinline__ Span window(u32 out, u32 size) const {
        const long long start = (long long)out * stride - padding;
        const long long end = start + kernel;
        return Span{(u32)(start < 0 ? 0 : start), (u32)(end > size ? size : end)};
    }
    __device__ __forceinline__ Span over(u32 at, u32 outputs) const {
        const u32 padded = at + padding;
        const u32 begin = padded < kernel ? 0 : (padded - kernel) / stride + 1;
        const u32 end = padded / stride + 1;
        return Span{begin, end < outputs ? end : outputs};
    }
};
static_assert(sizeof(Geometry) == 44, "the layout is shared with Rust");
