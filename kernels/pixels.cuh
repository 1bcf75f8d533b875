// Operations on the bytes of one picture by one block, bit for bit as src/cpu/pixels.rs computes them: with the arithmetic
// of Pillow. No product is fused with a sum, which would round once instead of twice.
#pragma once

#include "common.cuh"

constexpr u32 LEVELS = 256, MOST_PICTURE_CHANNELS = 3;

// `PixelOp::words` in src/ops/augment.rs.
enum PixelOp : u32 {
    IDENTITY,
    AFFINE,
    BRIGHTNESS,
    CONTRAST,
    SATURATION,
    SHARPNESS,
    HUE,
    POSTERIZE,
    SOLARIZE,
    AUTO_CONTRAST,
    EQUALIZE
};

// A picture with scratch in shared memory.
struct Picture {
    u32 height, width, channels;
    u32* counts;  // [MOST_PICTURE_CHANNELS][LEVELS]
    u8* table;    // [MOST_PICTURE_CHANNELS][LEVELS]

    __device__ __forceinline__ u32 size() const { return height * width * channels; }
};

static __device__ __forceinline__ u8 blend(u8 a, u8 b, float factor) {
    const float value = __fadd_rn((float)a, __fmul_rn(factor, (float)b - (float)a));
    return (u8)fminf(fmaxf(value, 0.0f), 255.0f);
}

static __device__ __forceinline__ u8 gray_of(const u8* pixel) {
    return (u8)((19595u * pixel[0] + 38470u * pixel[1] + 7471u * pixel[2] + 0x8000u) >> 16);
}

static __device__ __forceinline__ void hsv_of(const u8* rgb, u8* hsv) {
    const u8 red = rgb[0], green = rgb[1], blue = rgb[2];
    const u8 most = max(red, max(green, blue)), least = min(red, min(green, blue));
    hsv[0] = hsv[1] = 0, hsv[2] = most;
    if (most == least) return;
    const float range = (float)(most - least);
    const float r = (float)(most - red) / range, g = (float)(most - green) / range, b = (float)(most - blue) / range;
    const float hue = red == most     ? b - g
                      : green == most ? (float)(2.0 + (double)r - (double)b)
                                      : (float)(4.0 + (double)g - (double)r);
    const double turns = (double)hue / 6.0 + 1.0;
    hsv[0] = (u8)((double)(float)(turns - floor(turns)) * 255.0);
    hsv[1] = (u8)((double)(range / (float)most) * 255.0);
}

static __device__ __forceinline__ void rgb_of(const u8* hsv, u8* rgb) {
    const u8 value = hsv[2];
    rgb[0] = rgb[1] = rgb[2] = value;
    if (hsv[1] == 0) return;
    const double sixths = (double)hsv[0] * 6.0 / 255.0, sector = floor(sixths), v = (double)value;
    const float fraction = (float)(sixths - sector), part = (float)((double)hsv[1] / 255.0);
    const u8 least = (u8)round(v * (1.0 - (double)part));
    const u8 falling = (u8)round(v * (1.0 - (double)__fmul_rn(part, fraction)));
    const u8 rising = (u8)round(v * (1.0 - __dmul_rn((double)part, 1.0 - (double)fraction)));
    switch ((u32)sector % 6) {
        case 0:
            rgb[1] = rising, rgb[2] = least;
            break;
        case 1:
            rgb[0] = falling, rgb[2] = least;
            break;
        case 2:
            rgb[0] = least, rgb[2] = rising;
            break;
        case 3:
            rgb[0] = least, rgb[1] = falling;
            break;
        case 4:
            rgb[0] = rising, rgb[1] = least;
            break;
        default:
            rgb[1] = least, rgb[2] = falling;
            break;
    }
}

// The pixel of an output pixel by an affine map in 1/65536; black outside.
static __device__ __forceinline__ void affine(const Picture& picture, const int* matrix, const u8* from, u8* to) {
#pragma unroll 1
    for (u32 i = threadIdx.x; i < picture.height * picture.width; i += BLOCK) {
        const int x = (int)(i % picture.width), y = (int)(i / picture.width);
        const int column = (matrix[0] * x + matrix[1] * y + matrix[2]) >> 16;
        const int row = (matrix[3] * x + matrix[4] * y + matrix[5]) >> 16;
        const bool inside = (u32)column < picture.width && (u32)row < picture.height;
        const u32 source = inside ? ((u32)row * picture.width + (u32)column) * picture.channels : 0;
        for (u32 channel = 0; channel < picture.channels; ++channel)
            to[i * picture.channels + channel] = inside ? from[source + channel] : 0;
    }
}

static __device__ __forceinline__ void sharpen(const Picture& picture, float factor, const u8* from, u8* to) {
    const u32 stride = picture.width * picture.channels, channels = picture.channels;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < picture.size(); i += BLOCK) {
        const u32 row = i / stride, column = i % stride / channels;
        u8 smooth = from[i];
        if (row > 0 && row + 1 < picture.height && column > 0 && column + 1 < picture.width) {
            u32 sum = 4 * from[i];
            for (u32 at = i - stride; at <= i + stride; at += stride)
                sum += from[at - channels] + from[at] + from[at + channels];
            smooth = (u8)((2 * sum + 13) / 26);
        }
        to[i] = blend(smooth, from[i], factor);
    }
}

// Counts the levels of each channel. Before and after, the block waits.
static __device__ __forceinline__ void count_levels(const Picture& picture, const u8* pixels) {
    for (u32 i = threadIdx.x; i < MOST_PICTURE_CHANNELS * LEVELS; i += BLOCK) picture.counts[i] = 0;
    __syncthreads();
    for (u32 i = threadIdx.x; i < picture.size(); i += BLOCK)
        atomicAdd(picture.counts + i % picture.channels * LEVELS + pixels[i], 1u);
    __syncthreads();
}

// The mean gray level, rounded.
static __device__ __forceinline__ u8 mean_gray(const Picture& picture, const u8* pixels) {
    if (threadIdx.x == 0) picture.counts[0] = 0;
    __syncthreads();
    const u32 count = picture.height * picture.width;
    u32 sum = 0;
    for (u32 i = threadIdx.x; i < count; i += BLOCK)
        sum += picture.channels == 3 ? gray_of(pixels + 3 * i) : pixels[i * picture.channels];
    atomicAdd(picture.counts, sum);
    __syncthreads();
    return (u8)((2 * (u64)picture.counts[0] + count) / (2 * (u64)count));
}

// The table of one channel that stretches its levels to 0 … 255.
static __device__ __forceinline__ void stretch(const u32* counts, u8* table) {
    u32 low = 0, high = LEVELS - 1;
    while (low < LEVELS && counts[low] == 0) ++low;
    while (high > 0 && counts[high] == 0) --high;
    const double scale = high > low ? 255.0 / (double)(high - low) : 1.0;
    const double offset = high > low ? __dmul_rn(-(double)low, scale) : 0.0;
#pragma unroll 1
    for (u32 level = 0; level < LEVELS; ++level) {
        const double value = __dadd_rn(__dmul_rn((double)level, scale), offset);
        table[level] = (u8)fmin(fmax(value, 0.0), 255.0);
    }
}

// The table of one channel that makes its levels equally frequent.
static __device__ __forceinline__ void equalize(const u32* counts, u32 total, u8* table) {
    u32 last = LEVELS - 1;
    while (last > 0 && counts[last] == 0) --last;
    const u32 step = (total - counts[last]) / 255;
    u32 sum = step / 2;
#pragma unroll 1
    for (u32 level = 0; level < LEVELS; ++level) {
        table[level] = (u8)(step == 0 ? level : min(sum / step, 255u));
        sum += counts[level];
    }
}

// The new level of a level of all channels, whose mean gray level may be needed.
static __device__ __forceinline__ u8 mapped(u32 kind, u32 argument, u8 level, u8 mean) {
    switch (kind) {
        case BRIGHTNESS:
            return blend(0, level, __uint_as_float(argument));
        case CONTRAST:
            return blend(mean, level, __uint_as_float(argument));
        case POSTERIZE:
            return level & (u8) ~((1u << (8 - argument)) - 1);
        default:
            return level < argument ? level : (u8)(255 - level);
    }
}

// Maps every level by a table, which the operation and perhaps the picture determine.
static __device__ __forceinline__ void map_levels(const Picture& picture, u32 kind, u32 argument, u8* pixels) {
    if (kind == AUTO_CONTRAST || kind == EQUALIZE) {
        count_levels(picture, pixels);
        const u32 channel = threadIdx.x, *counts = picture.counts + channel * LEVELS;
        u8* const table = picture.table + channel * LEVELS;
        if (channel < picture.channels && kind == AUTO_CONTRAST) stretch(counts, table);
        if (channel < picture.channels && kind == EQUALIZE) equalize(counts, picture.height * picture.width, table);
    } else {
        const u8 mean = kind == CONTRAST ? mean_gray(picture, pixels) : 0;
        for (u32 i = threadIdx.x; i < MOST_PICTURE_CHANNELS * LEVELS; i += BLOCK)
            picture.table[i] = mapped(kind, argument, (u8)(i % LEVELS), mean);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < picture.size(); i += BLOCK)
        pixels[i] = picture.table[i % picture.channels * LEVELS + pixels[i]];
}

// Saturation and hue, of pictures in colour.
static __device__ __forceinline__ void map_colours(const Picture& picture, u32 kind, u32 argument, u8* pixels) {
#pragma unroll 1
    for (u32 i = threadIdx.x; picture.channels == 3 && i < picture.height * picture.width; i += BLOCK) {
        u8* const pixel = pixels + 3 * i;
        if (kind == SATURATION) {
            const u8 gray = gray_of(pixel);
            for (u32 channel = 0; channel < 3; ++channel)
                pixel[channel] = blend(gray, pixel[channel], __uint_as_float(argument));
        } else {
            u8 hsv[3];
            hsv_of(pixel, hsv);
            hsv[0] = (u8)(hsv[0] + argument);
            rgb_of(hsv, pixel);
        }
    }
}

// Applies an operation to `pixels`, and returns where the result is: there or in `other`. Afterwards, the block has waited.
static __device__ __forceinline__ u8* apply(const Picture& picture, u32 kind, u32 argument, const int* matrices,
                                            u8* pixels, u8* other) {
    u8* result = pixels;
    switch (kind) {
        case IDENTITY:
            return pixels;
        case AFFINE:
            affine(picture, matrices + 6 * argument, pixels, result = other);
            break;
        case SHARPNESS:
            sharpen(picture, __uint_as_float(argument), pixels, result = other);
            break;
        case SATURATION:
        case HUE:
            map_colours(picture, kind, argument, pixels);
            break;
        default:
            map_levels(picture, kind, argument, pixels);
            break;
    }
    __syncthreads();
    return result;
}
