// Convolution as a matrix product whose columns are read from the input where they lie, for every engine: forward, weight
// gradient and input gradient. A linear layer is the convolution of one pixel.
#pragma once

#include "windows.cuh"

// What every direction takes besides its tensors: where split products keep their parts, and the tile's shape.
struct Launch {
    Conv conv;
    u32 batch;
    u32* cells;  // Shared memory for two tiles.
    float* partials;
    u32* counters;
};

// output = act(windows · Wᵀ + bias), [batch·out_height·out_width][out_channels]; `bias` may be null. With `pooled` set the
// output is of 2×2 max pooling, every thread's rows being a window, and `argmax` (null in evaluation) receives
// y·width + x of the first maximum in scan order; a NaN wins.
template <class Engine>
struct Forward {
    static constexpr bool SLIM = true;  // Whether the slimmest tile is worth its code.

    const real *input, *weight;
    const float* bias;
    real* output;
    u32* argmax;
    u32 pooled;
    float slope;

    template <class Shape>
    __device__ __forceinline__ void run(const Launch& launch) const {
        const Windows<Engine> a(input, launch.conv, launch.batch, pooled != 0);
        const Rows b(weight, launch.conv.out_channels, launch.conv.patch());
        const Work work = work_of_block<Shape>(b.lines, a.depth);
        float sums[SUMS] = {};
        multiply_tiles<Engine, Shape>(sums, launch.cells, a, b, work);
        if (!add_splits(sums, launch.cells, launch.partials, launch.counters, work)) return;
        if (pooled) return pool<Shape>(sums, a, b.lines, work);
        const bool together = pairs_aligned(output, b.lines);
#pragma unroll
        for (u32 e = 0; e < SUMS; e += 2) {
            const u32 row = row_in<Engine, Shape>(work, e), col = col_in<Engine, Shape>(work, e);
            if (row >= a.lines) continue;
            if (bias && col < b.lines) sums[e] += bias[col];
            if (bias && col + 1 < b.lines) sums[e + 1] += bias[col + 1];
            store_pair(output + (u64)row * b.lines + col, col, b.lines, activate(sums[e], slope),
                       activate(sums[e + 1], slope), together);
        }
    }

private:
    template <class Shape>
    __device__ __forceinline__ void pool(const float (&sums)[SUMS], const Windows<Engine>& windows, u32 cols,
                                         const Work& work) const {
        const Conv& conv = windows.conv;
        const u32 row = row_in<Engine, Shape>(work, 0);
        const u32 pool = row / WARP_ROWS * 8 + Engine::place_of(row % WARP_ROWS) % 8;
        if (pool >= windows.pools) return;
        const Digits at = digits_of(pool, Radix{conv.out_width / 2, conv.out_height / 2});
        const u32 corner = 2 * (at.mid * conv.out_width + at.low);
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            const u32 col = col_in<Engine, Shape>(work, Engine::at(0, i));
            if (col >= cols) continue;
            const float added = bias ? bias[col] : -0.0f;  // −0 changes no number.
            float best = __int_as_float(0xff800000);       // −∞
            u32 where = corner;
#pragma unroll
            for (u32 part = 0; part < 4; ++part) {
                const float value = activate(sums[Engine::at(part, i)] + added, slope);
                if (value > best || value != value) {
                    best = value;
                    where = corner + part / 2 * conv.out_width + part % 2;
                }
            }
            store(output + (u64)pool * cols + col, best);
            if (argmax) argmax[(u64)pool * cols + col] = where;
        }
    }
};

// d_weight = d_outputᵀ · windows, [out_channels][patch].
template <class Engine>
struct BackwardWeight {
    static constexpr bool SLIM = false;

    const real *input, *d_output;
    float* d_weight;

    template <class Shape>
    __device__ __forceinline__ void run(const Launch& launch) const {
        const Columns a(d_output, launch.conv.out_channels, launch.batch * launch.conv.out_pixels());
        const WindowColumns b(input, launch.conv, launch.batch);
        const Work work = work_of_block<Shape>(b.lines, a.depth);
        float sums[SUMS] = {};
        multiply_tiles<Engine, Shape>(sums, launch.cells, a, b, work);
        if (!add_splits(sums, launch.cells, launch.partials, launch.counters, work)) return;
        const bool together = pairs_aligned(d_weight, b.lines);
#pragma unroll
        for (u32 e = 0; e < SUMS; e += 2) {
            const u32 row = row_in<Engine, Shape>(work, e), col = col_in<Engine, Shape>(work, e);
            if (row >= a.lines) continue;
            store_pair(d_weight + (u64)row * b.lines + col, col, b.lines, sums[e], sums[e + 1], together);
        }
    }
};

// d_input = gradients over each pixel · W, [batch·height·width][channels], on its way back through the layer before: masked
// by the sign of that layer's `output`, and summed over the pixels into `d_bias`. Either may be null. Where there are strides
// the tile is square.
template <class Engine>
struct BackwardInput {
    static constexpr bool SLIM = true;

    const real *d_output, *weight;
    real* d_input;
    const real* output;
    float* d_bias;
    float* parts;
    u32* parts_counters;
    float slope;

    template <class Shape>
    __device__ __forceinline__ void run(const Launch& launch) const {
        if constexpr (Shape::VECTOR) {
            if (launch.conv.stride == 1) {
                return finish<Shape>(launch, GradientsOver<false>(d_output, launch.conv, launch.batch));
            }
        }
        if constexpr (Shape::ROWS == Shape::COLS) {
            finish<Shape>(launch, GradientsOver<true>(d_output, launch.conv, launch.batch));
        }
    }

private:
    template <class Shape, class Gradients>
    __device__ __forceinline__ void finish(const Launch& launch, const Gradients& a) const {
        const WeightColumns b(weight, launch.conv);
        const Work work = work_of_block<Shape>(b.lines, a.depth);
        float sums[SUMS] = {};
        multiply_tiles<Engine, Shape>(sums, launch.cells, a, b, work);
        if (!add_splits(sums, launch.cells, launch.partials, launch.counters, work)) return;
        const bool together = pairs_aligned(d_input, b.lines);
#pragma unroll
        for (u32 e = 0; e < SUMS; e += 2) {
            const u32 row = row_in<Engine, Shape>(work, e), col = col_in<Engine, Shape>(work, e);
            if (row >= a.lines) {
                sums[e] = sums[e + 1] = 0.0f;
                continue;
            }
            const u64 at = (u64)row * b.lines + col;
            if (output && col < b.lines) sums[e] = activate_backward(load(output[at]), sums[e], slope);
            if (output && col + 1 < b.lines) sums[e + 1] = activate_backward(load(output[at + 1]), sums[e + 1], slope);
            store_pair(d_input + at, col, b.lines, sums[e], sums[e + 1], together);
        }
        if (!d_bias) return;
        float columns[4] = {};
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
#pragma unroll
            for (u32 row = 0; row < 4; ++row) columns[i] += sums[Engine::at(row, i)];
        }
        sum_columns<Engine, Shape>(columns, launch.cells, work, a.lines, b.lines, parts, parts_counters, d_bias);
    }
};

// Runs a direction with the tile that the launcher chose, numbered as in src/cuda/cut.rs.
template <class Direction>
__device__ __forceinline__ void run(const Direction& direction, const Launch& launch, u32 shape, u32 vector) {
    if (vector == 0) return direction.template run<Tile<64, 64, false>>(launch);
    switch (shape) {
        case 0: return direction.template run<Tile<64, 64, true>>(launch);
        case 1: return direction.template run<Tile<128, 32, true>>(launch);
        case 2:
            if constexpr (Direction::SLIM) return direction.template run<Tile<256, 16, true>>(launch);
            return;
        default: return direction.template run<Tile<32, 128, true>>(launch);
    }
}
