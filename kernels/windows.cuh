// The operands of a convolution seen as a matrix product, read where they lie: see tile.cuh for what a source is.
//
// Layouts are those of conv.cu: activations NHWC, weights [out_channels][kernel][kernel][channels].
#pragma once

#include "product.cuh"

struct Conv {
    u32 height, width, channels, out_height, out_width, out_channels, kernel, stride, padding;

    __device__ __forceinline__ u32 patch() const { return kernel * kernel * channels; }
    __device__ __forceinline__ u32 out_pixels() const { return out_height * out_width; }

    // The input at a window's top left plus (y, x), at its first channel; null in the padding.
    __device__ __forceinline__ const real* pixel(const real* sample, int y, int x) const {
        const bool inside = (u32)y < height && (u32)x < width;
        return inside ? sample + ((u64)(u32)y * width + (u32)x) * channels : nullptr;
    }
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
    __device__ __forceinline__ const real* address(Line line, Digits k) const { return line + k.low; }
};

// A plain matrix's columns: the output's gradients for the weight gradient, [rows][out_channels].
struct Columns {
    static constexpr bool ALONG_K = false;
    typedef u32 Line;

    const real* values;
    u32 lines, depth;
    Radix radix;

    __device__ Columns(const real* values, u32 lines, u32 depth)
        : values(values), lines(lines), depth(depth), radix{UNDIVIDED, 1} {}
    __device__ __forceinline__ Line line_of(u32 line) const { return line; }
    __device__ __forceinline__ const real* address(Line line, Digits k) const {
        return values + (u64)k.low * lines + line;
    }
};

// The input's windows: line = output pixel, k = (channel, kernel_x, kernel_y). POOLED, every 32 lines are the pixels of
// eight windows of a 2×2 pooling, in the engine's order; a line past the last window repeats it.
template <class Engine>
struct Windows {
    static constexpr bool ALONG_K = true;
    struct Line {
        const real* sample;
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
        return Line{input + (u64)at.high * conv.height * conv.width * conv.channels,
                    (int)(at.mid * conv.stride - conv.padding), (int)(at.low * conv.stride - conv.padding)};
    }
    __device__ __forceinline__ const real* address(const Line& line, Digits k) const {
        const real* pixel = conv.pixel(line.sample, line.y + (int)k.high, line.x + (int)k.mid);
        return pixel ? pixel + k.low : nullptr;
    }
};

// The same, seen across: line = place in the window, k = output pixel (x, y, sample).
struct WindowColumns {
    static constexpr bool ALONG_K = false;
    struct Line {
        u32 channel;
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
        return Line{at.low, (int)(at.high - conv.padding), (int)(at.mid - conv.padding)};
    }
    __device__ __forceinline__ const real* address(const Line& line, Digits k) const {
        const real* sample = input + (u64)k.high * conv.height * conv.width * conv.channels;
        const real* pixel =
            conv.pixel(sample, (int)(k.mid * conv.stride) + line.y, (int)(k.low * conv.stride) + line.x);
        return pixel ? pixel + line.channel : nullptr;
    }
};

// The output's gradients over an input pixel: line = input pixel, k = (out_channel, kernel_x, kernel_y).
struct GradientsOver {
    static constexpr bool ALONG_K = true;
    struct Line {
        const real* sample;
        u32 y, x;  // In the padded input.
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
        return Line{d_output + (u64)at.high * conv.out_pixels() * conv.out_channels, at.mid + conv.padding,
                    at.low + conv.padding};
    }
    // Above and left of the first window the subtraction wraps to a number beyond every output.
    __device__ __forceinline__ const real* address(const Line& line, Digits k) const {
        u32 y = line.y - k.high, x = line.x - k.mid;
        if (conv.stride > 1) {
            const u32 out_y = y / conv.stride, out_x = x / conv.stride;
            if (line.y < k.high || line.x < k.mid || out_y * conv.stride != y || out_x * conv.stride != x) {
                return nullptr;
            }
            y = out_y, x = out_x;
        }
        if (y >= conv.out_height || x >= conv.out_width) return nullptr;
        return line.sample + ((u64)y * conv.out_width + x) * conv.out_channels + k.low;
    }
};

// The weights of an input gradient: line = channel, k = (out_channel, kernel_x, kernel_y).
struct WeightColumns {
    static constexpr bool ALONG_K = false;
    typedef u32 Line;

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
    __device__ __forceinline__ Line line_of(u32 line) const { return line; }
    __device__ __forceinline__ const real* address(Line line, Digits k) const {
        return weight + ((u64)(k.low * conv.kernel + k.high) * conv.kernel + k.mid) * conv.channels + line;
    }
};
