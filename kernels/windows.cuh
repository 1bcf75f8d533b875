// The operands of convolution as an implicit GEMM, read directly from the tensors. Each is a source as defined in
// tile.cuh.
//
// Activations are NHWC; weights are [out_channels][kernel][kernel][channels].
#pragma once

#include "geometry.cuh"
#include "product.cuh"

// The fields common to all sources.
struct Source {
    u32 lines, depth;
    Radix radix;
};

// A pixel: its address and coordinates. Coordinates before the image wrap around to numbers beyond it.
struct Pixel {
    const real* values;
    u32 y, x;
};

// A plain matrix. With LINE_BY_LINE, its lines are the matrix's rows, such as the forward pass's weights,
// [out_channels][patch]; otherwise its lines are the matrix's columns, such as d_output for the weight gradient,
// [rows][out_channels].
template <bool LINE_BY_LINE>
struct Matrix : Source {
    static constexpr bool ALONG_K = LINE_BY_LINE;
    typedef const real* Line;

    const real* values;

    __device__ Matrix(const real* values, u32 lines, u32 depth)
        : Source{lines, depth, {UNDIVIDED, 1}}, values(values) {}
    __device__ __forceinline__ Line line_of(u32 line) const { return values + (ALONG_K ? (u64)line * depth : line); }
    __device__ __forceinline__ bool inside(Line, Digits) const { return true; }
    __device__ __forceinline__ const real* at(Line line, Digits, u32 flat) const {
        return line + (ALONG_K ? flat : (u64)flat * lines);
    }
};

// The windows of the input: line = output pixel, k = (channel, kernel_x, kernel_y). If POOLED, every 32 lines are the
// pixels of eight 2×2 pooling windows, in the engine's order; lines past the last window repeat it.
template <class Engine, bool POOLED>
struct Windows : Source {
    static constexpr bool ALONG_K = true;
    typedef Pixel Line;

    const real* input;
    const Geometry& op;
    u32 pools;  // The number of 2×2 pooling windows; 0 without pooling.

    __device__ Windows(const real* input, const Geometry& op, u32 batch)
        : Source{batch * op.out_pixels(), op.patch(), {op.channels, op.kernel}},
          input(input),
          op(op),
          pools(POOLED ? batch * (op.out_height / 2) * (op.out_width / 2) : 0) {
        if (POOLED) lines = (pools + 7) / 8 * 32;
    }
    __device__ __forceinline__ Line line_of(u32 line) const {
        Digits at;
        if constexpr (POOLED) {
            const u32 slot = Engine::window_slot_of(line % WARP_ROWS), pool = line / WARP_ROWS * 8 + slot % 8;
            at = digits_of(min(pool, pools - 1), Radix{op.out_width / 2, op.out_height / 2});
            at.low = 2 * at.low + slot / 8 % 2;
            at.mid = 2 * at.mid + slot / 16;
        } else {
            at = digits_of(line, Radix{op.out_width, op.out_height});
        }
        const int y = (int)(at.mid * op.stride - op.padding), x = (int)(at.low * op.stride - op.padding);
        return Line{input + (u64)at.high * op.height * op.width * op.channels + op.pixel_offset(y, x), (u32)y, (u32)x};
    }
    __device__ __forceinline__ bool inside(const Line& line, Digits k) const {
        return op.contains(line.y + k.high, line.x + k.mid);
    }
    // A row of the window is contiguous in memory; from one row to the next, the rest of the input's row is skipped.
    __device__ __forceinline__ const real* at(const Line& line, Digits k, u32 flat) const {
        return line.values + (int)(flat + k.high * ((op.width - op.kernel) * op.channels));
    }
};

// The transpose of Windows: line = position in the window, k = output pixel (x, y, sample).
struct WindowColumns : Source {
    static constexpr bool ALONG_K = false;
    typedef Pixel Line;  // The input pixel for the first output pixel.

    const real* input;
    const Geometry& op;

    __device__ WindowColumns(const real* input, const Geometry& op, u32 batch)
        : Source{op.patch(), batch * op.out_pixels(), {op.out_width, op.out_height}}, input(input), op(op) {}
    __device__ __forceinline__ Line line_of(u32 line) const {
        const Digits at = digits_of(line, Radix{op.channels, op.kernel});
        const int y = (int)(at.high - op.padding), x = (int)(at.mid - op.padding);
        return Line{input + op.pixel_offset(y, x) + at.low, (u32)y, (u32)x};
    }
    __device__ __forceinline__ bool inside(const Line& line, Digits k) const {
        return op.contains(k.mid * op.stride + line.y, k.low * op.stride + line.x);
    }
    __device__ __forceinline__ const real* at(const Line& line, Digits k, u32) const {
        const u32 across = op.stride * op.channels, offset = k.mid * (across * op.width) + k.low * across;
        return line.values + (u64)k.high * (op.height * op.width * op.channels) + offset;
    }
};

// The gradients of the outputs whose windows cover an input pixel: line = input pixel, k = (out_channel, kernel_x,
// kernel_y). If STRIDED, only windows whose distance from the pixel is a multiple of the stride cover it.
template <bool STRIDED>
struct GradientsOver : Source {
    static constexpr bool ALONG_K = true;
    // Coordinates are in the padded input. `values` points to the sample's gradients if STRIDED, otherwise to the
    // gradients of the output with the same coordinates.
    typedef Pixel Line;

    const real* d_output;
    const Geometry& op;

    __device__ GradientsOver(const real* d_output, const Geometry& op, u32 batch)
        : Source{batch * op.height * op.width, op.kernel * op.kernel * op.out_channels, {op.out_channels, op.kernel}},
          d_output(d_output),
          op(op) {}
    __device__ __forceinline__ Line line_of(u32 line) const {
        const Digits at = digits_of(line, Radix{op.width, op.height});
        const real* sample = d_output + (u64)at.high * op.out_pixels() * op.out_channels;
        const u32 y = at.mid + op.padding, x = at.low + op.padding;
        return Line{STRIDED ? sample : sample + ((u64)y * op.out_width + x) * op.out_channels, y, x};
    }
    // Above and left of the first window, the subtraction wraps around to a number beyond every output.
    __device__ __forceinline__ bool inside(const Line& line, Digits k) const {
        const u32 y = line.y - k.high, x = line.x - k.mid;
        if (!STRIDED) return y < op.out_height && x < op.out_width;
        const u32 out_y = y / op.stride, out_x = x / op.stride;
        return line.y >= k.high && line.x >= k.mid && out_y * op.stride == y && out_x * op.stride == x &&
               out_y < op.out_height && out_x < op.out_width;
    }
    __device__ __forceinline__ const real* at(const Line& line, Digits k, u32) const {
        if (!STRIDED) return line.values + (int)(k.low - (k.high * op.out_width + k.mid) * op.out_channels);
        const u32 y = (line.y - k.high) / op.stride, x = (line.x - k.mid) / op.stride;
        return line.values + (int)((y * op.out_width + x) * op.out_channels + k.low);
    }
};

// The weights for the input gradient: line = channel, k = (out_channel, kernel_x, kernel_y).
struct WeightColumns : Source {
    static constexpr bool ALONG_K = false;
    typedef const real* Line;

    const real* weight;
    const Geometry& op;

    __device__ WeightColumns(const real* weight, const Geometry& op)
        : Source{op.channels, op.kernel * op.kernel * op.out_channels, {op.out_channels, op.kernel}},
          weight(weight),
          op(op) {}
    __device__ __forceinline__ Line line_of(u32 line) const { return weight + line; }
    __device__ __forceinline__ bool inside(Line, Digits) const { return true; }
    __device__ __forceinline__ const real* at(Line line, Digits k, u32) const {
        const u32 kernel = op.kernel, window = kernel * kernel;
        return line + (int)((k.low * window + k.high * kernel + k.mid) * op.channels);
    }
};
