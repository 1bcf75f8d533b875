// The operands of a convolution seen as a matrix product, read where they lie: see tile.cuh for what a source is.
//
// Layouts are those of conv.cu: activations NHWC, weights [out_channels][kernel][kernel][channels].
#pragma once

#include "product.cuh"

struct Conv {
    u32 height, width, channels, out_height, out_width, out_channels, kernel, stride, padding;

    __device__ __forceinline__ u32 patch() const { return kernel * kernel * channels; }
    __device__ __forceinline__ u32 out_pixels() const { return out_height * out_width; }

    // Whether a pixel of the input is there, not in the padding.
    __device__ __forceinline__ bool has(u32 y, u32 x) const { return y < height && x < width; }

    // A pixel's place in its sample; before it, or beyond, in the padding.
    __device__ __forceinline__ long long place(int y, int x) const { return ((long long)y * width + x) * channels; }
};

// A plain matrix, one line after the other: the weights of a forward pass, [out_channels][patch].
struct Rows {
    static constexpr bool ALONG_K = true;
    typedef const real* Line;

    const real* values;
    u32 lines, depth;
    Radix radix;

    __device__ Rows(const real* values, u32 lines, u32 depth)
        : values(values), lines(lines), depth(depth), radix{UNDIVIDED, 1} {}
    __device__ __forceinline__ Line line_of(u32 line) const { return values + (u64)line * depth; }
    __device__ __forceinline__ bool inside(Line, Digits) const { return true; }
    __device__ __forceinline__ const real* at(Line line, Digits, u32 flat) const { return line + flat; }
};

// A plain matrix's columns: the output's gradients for the weight gradient, [rows][out_channels].
struct Columns {
    static constexpr bool ALONG_K = false;
    typedef const real* Line;

    const real* values;
    u32 lines, depth;
    Radix radix;

    __device__ Columns(const real* values, u32 lines, u32 depth)
        : values(values), lines(lines), depth(depth), radix{UNDIVIDED, 1} {}
    __device__ __forceinline__ Line line_of(u32 line) const { return values + line; }
    __device__ __forceinline__ bool inside(Line, Digits) const { return true; }
    __device__ __forceinline__ const real* at(Line line, Digits, u32 flat) const { return line + (u64)flat * lines; }
};

// The input's windows: line = output pixel, k = (channel, kernel_x, kernel_y). POOLED, every 32 lines are the pixels of
// eight windows of a 2×2 pooling, in the engine's order; a line past the last window repeats it.
template <class Engine>
struct Windows {
    static constexpr bool ALONG_K = true;
    struct Line {
        const real* corner;
        int y, x;
    };

    const real* input;
    Conv conv;
    u32 pools;  // 2×2 windows, where the output is pooled; else 0.
    u32 lines, depth;
    Radix radix;

    __device__ Windows(const real* input, const Conv& conv, u32 batch, bool pooled)
        : input(input),
          conv(conv),
          pools(pooled ? batch * (conv.out_height / 2) * (conv.out_width / 2) : 0),
          lines(pooled ? (pools + 7) / 8 * 32 : batch * conv.out_pixels()),
          depth(conv.patch()),
          radix{conv.channels, conv.kernel} {}
    __device__ __forceinline__ Line line_of(u32 line) const {
        Digits at;
        if (pools != 0) {
            const u32 place = Engine::place_of(line % WARP_ROWS), pool = line / WARP_ROWS * 8 + place % 8;
            at = digits_of(min(pool, pools - 1), Radix{conv.out_width / 2, conv.out_height / 2});
            at.low = 2 * at.low + place / 8 % 2;
            at.mid = 2 * at.mid + place / 16;
        } else {
            at = digits_of(line, Radix{conv.out_width, conv.out_height});
        }
        const int y = (int)(at.mid * conv.stride - conv.padding), x = (int)(at.low * conv.stride - conv.padding);
        return Line{input + (u64)at.high * conv.height * conv.width * conv.channels + conv.place(y, x), y, x};
    }
    __device__ __forceinline__ bool inside(const Line& line, Digits k) const {
        return conv.has(line.y + k.high, line.x + k.mid);
    }
    // A line of the window lies side by side in memory; from one to the next the rest of the input's line is left out.
    __device__ __forceinline__ const real* at(const Line& line, Digits k, u32 flat) const {
        return line.corner + (int)(flat + k.high * ((conv.width - conv.kernel) * conv.channels));
    }
};

// The same, seen across: line = place in the window, k = output pixel (x, y, sample).
struct WindowColumns {
    static constexpr bool ALONG_K = false;
    struct Line {
        const real* first;  // Of the first output pixel.
        int y, x;
    };

    const real* input;
    Conv conv;
    u32 lines, depth;
    Radix radix;

    __device__ WindowColumns(const real* input, const Conv& conv, u32 batch)
        : input(input),
          conv(conv),
          lines(conv.patch()),
          depth(batch * conv.out_pixels()),
          radix{conv.out_width, conv.out_height} {}
    __device__ __forceinline__ Line line_of(u32 line) const {
        const Digits at = digits_of(line, Radix{conv.channels, conv.kernel});
        const int y = (int)(at.high - conv.padding), x = (int)(at.mid - conv.padding);
        return Line{input + conv.place(y, x) + at.low, y, x};
    }
    __device__ __forceinline__ bool inside(const Line& line, Digits k) const {
        return conv.has(k.mid * conv.stride + line.y, k.low * conv.stride + line.x);
    }
    __device__ __forceinline__ const real* at(const Line& line, Digits k, u32) const {
        const u32 across = conv.stride * conv.channels, place = k.mid * (across * conv.width) + k.low * across;
        return line.first + (u64)k.high * (conv.height * conv.width * conv.channels) + place;
    }
};

// The output's gradients over an input pixel: line = input pixel, k = (out_channel, kernel_x, kernel_y). Where windows are
// STRIDED, only those that begin a multiple of the stride before it are over it.
template <bool STRIDED>
struct GradientsOver {
    static constexpr bool ALONG_K = true;
    struct Line {
        const real* first;  // Of the sample; without strides of the window that begins at the pixel.
        u32 y, x;           // In the padded input.
    };

    const real* d_output;
    Conv conv;
    u32 lines, depth;
    Radix radix;

    __device__ GradientsOver(const real* d_output, const Conv& conv, u32 batch)
        : d_output(d_output),
          conv(conv),
          lines(batch * conv.height * conv.width),
          depth(conv.kernel * conv.kernel * conv.out_channels),
          radix{conv.out_channels, conv.kernel} {}
    __device__ __forceinline__ Line line_of(u32 line) const {
        const Digits at = digits_of(line, Radix{conv.width, conv.height});
        const real* sample = d_output + (u64)at.high * conv.out_pixels() * conv.out_channels;
        const u32 y = at.mid + conv.padding, x = at.low + conv.padding;
        return Line{STRIDED ? sample : sample + ((u64)y * conv.out_width + x) * conv.out_channels, y, x};
    }
    // Above and left of the first window the subtraction wraps to a number beyond every output.
    __device__ __forceinline__ bool inside(const Line& line, Digits k) const {
        const u32 y = line.y - k.high, x = line.x - k.mid;
        if (!STRIDED) return y < conv.out_height && x < conv.out_width;
        const u32 out_y = y / conv.stride, out_x = x / conv.stride;
        return line.y >= k.high && line.x >= k.mid && out_y * conv.stride == y && out_x * conv.stride == x &&
               out_y < conv.out_height && out_x < conv.out_width;
    }
    __device__ __forceinline__ const real* at(const Line& line, Digits k, u32) const {
        if (!STRIDED) return line.first + (int)(k.low - (k.high * conv.out_width + k.mid) * conv.out_channels);
        const u32 y = (line.y - k.high) / conv.stride, x = (line.x - k.mid) / conv.stride;
        return line.first + (int)((y * conv.out_width + x) * conv.out_channels + k.low);
    }
};

// The weights of an input gradient: line = channel, k = (out_channel, kernel_x, kernel_y).
struct WeightColumns {
    static constexpr bool ALONG_K = false;
    typedef const real* Line;

    const real* weight;
    Conv conv;
    u32 lines, depth;
    Radix radix;

    __device__ WeightColumns(const real* weight, const Conv& conv)
        : weight(weight),
          conv(conv),
          lines(conv.channels),
          depth(conv.kernel * conv.kernel * conv.out_channels),
          radix{conv.out_channels, conv.kernel} {}
    __device__ __forceinline__ Line line_of(u32 line) const { return weight + line; }
    __device__ __forceinline__ bool inside(Line, Digits) const { return true; }
    __device__ __forceinline__ const real* at(Line line, Digits k, u32) const {
        const u32 kernel = conv.kernel, window = kernel * kernel;
        return line + (int)((k.low * window + k.high * kernel + k.mid) * conv.channels);
    }
};
