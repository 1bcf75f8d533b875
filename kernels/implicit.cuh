// Convolution as an implicit GEMM, which reads windows directly from the input instead of an im2col buffer: forward,
// weight gradient and input gradient, for every engine. A linear layer is the convolution of a single pixel.
#pragma once

#include "conv2d.cuh"
#include "windows.cuh"

// Stores the maxima of the thread's pooling window, whose pixels are its four rows.
template <class Engine, class TileShape>
__device__ __forceinline__ void pool(const float (&sums)[SUMS], const Conv2dForwardParams& p, u32 pools,
                                     const Work& work) {
    const u32 row = row_in<Engine, TileShape>(work, 0), cols = p.op.out_channels;
    const u32 pool = row / WARP_ROWS * 8 + Engine::window_slot_of(row % WARP_ROWS) % 8;
    if (pool >= pools) return;
    const Digits at = digits_of(pool, Radix{p.op.out_width / 2, p.op.out_height / 2});
    const u32 corner = 2 * (at.mid * p.op.out_width + at.low);
    unroll<4>([&](u32 i) {
        const u32 col = col_in<Engine, TileShape>(work, Engine::at(0, i));
        if (col >= cols) return;
        const float added = p.bias ? read(p.bias + col) : -0.0f;  // Adding −0 changes no value.
        float best = __int_as_float(0xff800000);                  // −∞
        u32 where = corner;
        unroll<4>([&](u32 part) {
            const float value = activate(sums[Engine::at(part, i)] + added, p.slope);
            if (value > best || value != value) {
                best = value;
                where = corner + part / 2 * p.op.out_width + part % 2;
            }
        });
        store(p.output + (u64)pool * cols + col, best);
        if (p.argmax) p.argmax[(u64)pool * cols + col] = where;
    });
}

// output = act(windows · Wᵀ + bias), [batch·out_height·out_width][patch] · [patch][out_channels]. If POOLED, 2×2 max
// pooling follows, and `argmax` receives y·width + x of the first maximum in scan order; a NaN counts as the maximum.
template <class Engine, class TileShape, bool POOLED>
__device__ __forceinline__ void forward(const Conv2dForwardParams& p) {
    DYNAMIC_SHARED(u32, cells);
    const Windows<Engine, POOLED> a(p.input, p.op, p.batch);
    const Matrix<true> b(p.weight, p.op.out_channels, p.op.patch());
    const Work work = work_of_block<TileShape::ROWS, TileShape::COLS, TILE_K>(blockIdx.x, b.lines, a.depth);
    float sums[SUMS] = {};
    multiply_tiles<Engine, TileShape>(sums, cells, a, b, work);
    if (!add_splits<BLOCK>(sums, cells[0], p.partials, p.counters, work)) return;
    if constexpr (POOLED) return pool<Engine, TileShape>(sums, p, a.pools, work);
    store_sums<Engine, TileShape>(p.output, sums, work, a.lines, b.lines, [&](float sum, u64, u32 col) {
        return activate(p.bias && col < b.lines ? sum + read(p.bias + col) : sum, p.slope);
    });
}

// d_weight = d_outputᵀ · windows, [out_channels][batch·out_height·out_width] · [..][patch].
template <class Engine, class TileShape>
__device__ __forceinline__ void backward_weight(const Conv2dWeightParams& p) {
    DYNAMIC_SHARED(u32, cells);
    const Matrix<false> a(p.d_output, p.op.out_channels, p.batch * p.op.out_pixels());
    const WindowColumns b(p.input, p.op, p.batch);
    const Work work = work_of_block<TileShape::ROWS, TileShape::COLS, TILE_K>(blockIdx.x, b.lines, a.depth);
    float sums[SUMS] = {};
    multiply_tiles<Engine, TileShape>(sums, cells, a, b, work);
    if (!add_splits<BLOCK>(sums, cells[0], p.partials, p.counters, work)) return;
    store_sums<Engine, TileShape>(p.d_weight, sums, work, a.lines, b.lines, [](float sum, u64, u32) { return sum; });
}

// d_input = act'(output) · (gradients over each pixel · W),
// [batch·height·width][kernel²·out_channels] · [..][channels]; d_bias receives its column sums. STRIDED is correct for
// every stride, but slower than necessary for stride 1.
template <class Engine, class TileShape, bool STRIDED>
__device__ __forceinline__ void backward_input(const Conv2dInputParams& p) {
    DYNAMIC_SHARED(u32, cells);
    const GradientsOver<STRIDED> a(p.d_output, p.op, p.batch);
    const WeightColumns b(p.weight, p.op);
    const Work work = work_of_block<TileShape::ROWS, TileShape::COLS, TILE_K>(blockIdx.x, b.lines, a.depth);
    float sums[SUMS] = {};
    multiply_tiles<Engine, TileShape>(sums, cells, a, b, work);
    if (!add_splits<BLOCK>(sums, cells[0], p.partials, p.counters, work)) return;
    store_sums<Engine, TileShape>(p.d_input, sums, work, a.lines, b.lines, [&](float sum, u64 at, u32 col) {
        return p.output && col < b.lines ? activate_backward(read(p.output + at), sum, p.slope) : sum;
    });
    if (!p.d_bias) return;
    Lanes<4> columns = {};
    unroll<4>([&](u32 i) { unroll<4>([&](u32 row) { columns[i] += sums[Engine::at(row, i)]; }); });
    sum_columns<Engine, TileShape>(columns, cells, work, a.lines, b.lines, p.parts, p.parts_counters, p.d_bias);
}
