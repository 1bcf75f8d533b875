// Bilinear resizing of a picture with antialiasing by one block, bit for bit as src/resample.rs describes and computes it.
#pragma once

#include "common.cuh"

// Bits of a weight's fraction.
constexpr u32 WEIGHT_BITS = 22;

// An area of a picture.
struct Area {
    const u8* pixels;  // Its top left pixel.
    u32 height, width;
    u32 stride;  // Bytes between two rows.
};

// The weights along one axis: for every output pixel `stride` numbers, which are its first input pixel, its number of
// input pixels and their weights.
struct Axis {
    u32* numbers;
    u32 stride;

    // In units of 1 / (2 · to) input pixels, the distance of two centres is a whole number.
    __device__ __forceinline__ void fill(u32 from, u32 to) const {
        const u32 support = 2 * max(from, to);
#pragma unroll 1
        for (u32 output = threadIdx.x; output < to; output += BLOCK) {
            u32* const entry = numbers + output * stride;
            const u32 centre = (2 * output + 1) * from;
            const u32 first = centre + to > support ? (centre + to - support) / (2 * to) : 0;
            u32 count = 0;
            u64 sum = 0;
#pragma unroll 1
            for (u32 input = first; input < from; ++input) {
                const u32 at = (2 * input + 1) * to, distance = at > centre ? at - centre : centre - at;
                if (distance >= support) break;
                entry[2 + count++] = support - distance;
                sum += support - distance;
            }
#pragma unroll 1
            for (u32 tap = 0; tap < count; ++tap)
                entry[2 + tap] = (u32)((((u64)entry[2 + tap] << (WEIGHT_BITS + 1)) + sum) / (2 * sum));
            entry[0] = first, entry[1] = count;
        }
    }

    // The weighted mean of the input pixels of an output pixel, which are `stride` bytes apart from `line` on.
    __device__ __forceinline__ u8 mean(u32 output, const u8* line, u32 apart) const {
        const u32* const entry = numbers + output * stride;
        const u8* from = line + entry[0] * apart;
        u32 sum = 1u << (WEIGHT_BITS - 1);
        for (u32 tap = 0; tap < entry[1]; ++tap, from += apart) sum += entry[2 + tap] * *from;
        return (u8)(sum >> WEIGHT_BITS);
    }
};

// Resizes an area to `output`, of the given height and width: its columns into `narrow`, then its rows. With `flip`, the
// output is mirrored horizontally. Afterwards, the caller waits for the block.
static __device__ __forceinline__ void resize(const Area& area, const Axis& columns, const Axis& rows, u8* narrow,
                                              u8* output, u32 height, u32 width, u32 channels, bool flip) {
    columns.fill(area.width, width);
    rows.fill(area.height, height);
    __syncthreads();
    const u32 line = width * channels;
    for (u32 i = threadIdx.x; i < area.height * line; i += BLOCK) {
        const u32 row = i / line, pixel = i % line / channels, channel = i % channels;
        const u32 column = flip ? width - 1 - pixel : pixel;
        narrow[i] = columns.mean(column, area.pixels + row * area.stride + channel, channels);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < height * line; i += BLOCK) output[i] = rows.mean(i / line, narrow + i % line, line);
}
