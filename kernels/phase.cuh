// The input gradient of a convolution with a stride, by phases. Along one axis, a tap reaches an input only if
// (input + padding − tap) is a multiple of the stride, so inputs with the same remainder of (input + padding) have the
// same taps. For each of the stride² pairs of remainders, the gradient is a convolution of d_output without a stride.
#pragma once

#include "operands.cuh"

// One axis of a phase: inputs first, first + stride, ..., and taps remainder, remainder + stride, ...
struct PhaseAxis {
    u32 remainder, first, inputs, taps;

    __device__ __forceinline__ PhaseAxis(const Geometry& op, u32 remainder, u32 size) : remainder(remainder) {
        const u32 stride = op.stride;
        first = (remainder + (op.padding + stride - 1) / stride * stride - op.padding) % stride;
        inputs = first < size ? (size - first + stride - 1) / stride : 0;
        taps = remainder < op.kernel ? (op.kernel - remainder + stride - 1) / stride : 0;
    }

    __device__ __forceinline__ u32 last_tap(const Geometry& op) const { return remainder + (taps - 1) * op.stride; }
    // The output that the last tap of the first input belongs to.
    __device__ __forceinline__ int start(const Geometry& op) const {
        return (int)((first + op.padding - remainder) / op.stride) - (int)(taps - 1);
    }
};

struct Phase {
    PhaseAxis y, x;
    u32 first_tile;  // Along the rows of the product: the tiles of the phases follow one another.

    __device__ __forceinline__ u32 lines(u32 batch) const { return batch * y.inputs * x.inputs; }

    __device__ __forceinline__ WindowGrid windows(const Geometry& op) const {
        return WindowGrid{y.inputs,     x.inputs,       1, y.start(op), x.start(op), y.taps, x.taps, op.out_height,
                          op.out_width, op.out_channels};
    }

    // The input pixel of a line; ~0u beyond the last.
    __device__ __forceinline__ u32 pixel(const Geometry& op, u32 batch, u32 line) const {
        if (line >= lines(batch)) return ~0u;
        if (op.stride == 1) return line;
        const Digits at = digits_of(line, Radix{x.inputs, y.inputs});
        return (at.high * op.height + y.first + at.mid * op.stride) * op.width + x.first + at.low * op.stride;
    }
};

// The phase that the `tile`-th tile of ROWS lines belongs to.
template <u32 ROWS>
__device__ __forceinline__ Phase phase_of_tile(const Geometry& op, u32 batch, u32 tile) {
    u32 first = 0;
    for (u32 index = 0;; ++index) {
        const Phase phase{PhaseAxis(op, index / op.stride, op.height), PhaseAxis(op, index % op.stride, op.width),
                          first};
        const u32 tiles = (phase.lines(batch) + ROWS - 1) / ROWS;
        if (tile < first + tiles || index + 1 == op.stride * op.stride) return phase;
        first += tiles;
    }
}
