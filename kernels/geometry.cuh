// Window geometry of convolutions, pooling and subsampling over NHWC images. Mirrors src/cuda/lower/geometry.rs.
#pragma once

#include "common.cuh"

// A range of coordinates along one axis, [begin, end).
struct Span {
    u32 begin, end;
};

// Coordinates of one value of a batch of images.
struct Position {
    u64 sample;
    u32 y, x, channel;
};

// The position of vector number `i`, a vector being V channels of [samples][height][width][channels]. `channel` is the
// first channel of the vector.
template <u32 V>
__device__ __forceinline__ Position position_of(u64 i, u32 height, u32 width, u32 channels) {
    Position at;
    at.channel = divmod(i, channels / V) * V;
    at.x = divmod(i, width);
    at.y = divmod(i, height);
    at.sample = i;
    return at;
}

// Output (y, x) depends on the inputs (y · stride + ky · dilation − padding, x · stride + kx · dilation − padding) for
// taps ky, kx in [0, kernel). Adaptive pooling has no fixed window: its `kernel`, `stride` and `padding` are 0.
struct Geometry {
    u32 height, width, channels;
    u32 out_height, out_width, out_channels;
    u32 kernel, stride, padding, groups, dilation;

    // Values per window, and per filter if `groups` is 1.
    __device__ __forceinline__ u32 patch() const { return kernel * kernel * channels; }
    __device__ __forceinline__ u32 out_pixels() const { return out_height * out_width; }

    // The position of vector `i` of the input or output.
    template <u32 V = 1>
    __device__ __forceinline__ Position input_position(u64 i) const {
        return position_of<V>(i, height, width, channels);
    }
    template <u32 V = 1>
    __device__ __forceinline__ Position output_position(u64 i) const {
        return position_of<V>(i, out_height, out_width, out_channels);
    }

    // The index of a pixel's first value.
    __device__ __forceinline__ u64 input_at(u64 sample, u32 y, u32 x) const {
        return ((sample * height + y) * width + x) * channels;
    }
    __device__ __forceinline__ u64 output_at(u64 sample, u32 y, u32 x) const {
        return ((sample * out_height + y) * out_width + x) * out_channels;
    }

    // The index of an input pixel's first value within its sample; outside the sample's range for pixels in the
    // padding.
    __device__ __forceinline__ long long pixel_offset(int y, int x) const {
        return ((long long)y * width + x) * channels;
    }

    // Whether a pixel is inside the input rather than in the padding.
    __device__ __forceinline__ bool contains(u32 y, u32 x) const { return y < height && x < width; }

    // The input coordinate of a tap of an output's window, along one axis. Coordinates before the input wrap around to
    // values beyond it.
    __device__ __forceinline__ u32 input_coord(u32 out, u32 tap) const {
        return out * stride + tap * dilation - padding;
    }

    // Without dilation, along one axis: `window` is the inputs that an output's window covers, excluding padding, of
    // `size` inputs. `outputs_over` is the outputs whose windows cover an input, of `outputs` outputs; it is empty if
    // the stride skips the input.
    __device__ __forceinline__ Span window(u32 out, u32 size) const {
        const long long start = (long long)out * stride - padding;
        const long long end = start + kernel;
        return Span{(u32)(start < 0 ? 0 : start), (u32)(end > size ? size : end)};
    }
    __device__ __forceinline__ Span outputs_over(u32 at, u32 outputs) const {
        const u32 padded = at + padding;
        const u32 begin = padded < kernel ? 0 : (padded - kernel) / stride + 1;
        const u32 end = padded / stride + 1;
        return Span{begin, end < outputs ? end : outputs};
    }
};
static_assert(sizeof(Geometry) == 44, "the layout is shared with Rust");
