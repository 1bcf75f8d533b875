// Sums of each column over the tiles of a product: first within a tile, then over the tiles along the rows in order.
#pragma once

#include "reduce.cuh"

// N sums of a column: of a tile, of several tiles, or of some of their parts.
template <u32 N>
struct Sums {
    static constexpr u32 COUNT = N;
    float each[N];

    __device__ __forceinline__ void add(const Sums& other) {
        unroll<N>([&](u32 i) { each[i] += other.each[i]; });
    }
    __device__ __forceinline__ void add_tile(const Sums& tile, const Sums&) { add(tile); }
    __device__ __forceinline__ void finish(const Sums&) {}
};

// The number of a column's values, their mean, and the sum of their squared distances from it. Until `finish`, the sums of
// the number, of distances from the mean of a first tile, and of their squares.
struct Moments {
    static constexpr u32 COUNT = 3;
    float each[COUNT];

    __device__ __forceinline__ void add(const Moments& other) {
        unroll<COUNT>([&](u32 i) { each[i] += other.each[i]; });
    }
    __device__ __forceinline__ void add_tile(const Moments& tile, const Moments& first) {
        const float distance = tile.each[1] - first.each[1], sum = tile.each[0] * distance;
        each[0] += tile.each[0];
        each[1] += sum;
        each[2] += fmaf(sum, distance, tile.each[2]);
    }
    __device__ __forceinline__ void finish(const Moments& first) {
        const float share = each[0] > 0.0f ? 1.0f / each[0] : 0.0f, distance = each[1] * share;
        const float rest = fmaf(-each[1], distance, each[2]);
        each[1] = first.each[1] + distance;
        each[2] = rest < 0.0f ? 0.0f : rest;  // Not fmaxf, which would hide a NaN.
    }
};

// Tiles whose column sums are added first, if there are more than 2 · SUM_GROUP.
constexpr u32 SUM_GROUP = 32;

// Where the column sums of a block's tile go: it is the `tile`-th of `tiles` along the rows, and starts at column
// `first_col` of `cols`. `parts` is [tiles][COUNT][cols]; `counters` has one counter per tile along the columns, then one
// per group of tiles, all zero before and after.
struct ColumnSums {
    u32 first_col, cols, tile, tiles;
    float* parts;
    u32* counters;
};

// In each of the first COLS threads, the sum of its column, of which each thread has the sum of its rows and chunk: over
// the first `rows` rows of threads. All threads of the block must call it.
template <class Results>
__device__ __forceinline__ float tile_sum(const Lanes<VEC>& columns, const Results& results,
                                          u32 rows = Results::My::APART) {
    typedef typename Results::My My;
    constexpr u32 COLS = Results::CHUNKS * VEC;
    float* const scratch = results.rest();
    __syncthreads();
    if (threadIdx.x / Results::CHUNKS < My::APART) {
        unroll<VEC>([&](u32 lane) {
            scratch[threadIdx.x / Results::CHUNKS * COLS + My::chunk() * VEC + lane] = columns[lane];
        });
    }
    __syncthreads();
    if (threadIdx.x >= COLS) return 0.0f;
    float sum = scratch[threadIdx.x];
#pragma unroll 1
    for (u32 row = 1; row < rows; ++row) sum += scratch[row * COLS + threadIdx.x];
    return sum;
}

// The sum of tiles `first`, `first` + `step`, ... below `end` in one column of `parts`, in this order, in each of the first
// COLS threads. Several threads share a column, and their sums are added in thread order.
template <class Sum, u32 COLS, u32 THREADS>
__device__ __forceinline__ Sum sum_parts(const float* parts, u32 cols, u32 first, u32 end, u32 step, bool inside,
                                         float* scratch) {
    constexpr u32 SHARES = THREADS / COLS;
    static_assert(SHARES > 0, "a thread sums at most one column");
    const auto tile = [&](u32 part) {
        Sum tile;
        unroll<Sum::COUNT>([&](u32 i) { tile.each[i] = parts[((u64)part * Sum::COUNT + i) * cols]; });
        return tile;
    };
    Sum sum = {}, of_first = {};
    if (inside) {
        of_first = tile(first);
#pragma unroll 4
        for (u32 part = first + threadIdx.x / COLS * step; part < end; part += SHARES * step) {
            sum.add_tile(tile(part), of_first);
        }
    }
    __syncthreads();
    unroll<Sum::COUNT>([&](u32 i) { scratch[i * THREADS + threadIdx.x] = sum.each[i]; });
    __syncthreads();
    if (threadIdx.x < COLS) {
#pragma unroll 1
        for (u32 share = 1; share < SHARES; ++share) {
            Sum more;
            unroll<Sum::COUNT>([&](u32 i) { more.each[i] = scratch[i * THREADS + share * COLS + threadIdx.x]; });
            sum.add(more);
        }
    }
    sum.finish(of_first);
    return sum;
}

// Adds the sums of all tiles, which the first COLS threads have, in order, in two levels if there are many. For each tile,
// exactly one block calls this; the last one to do so calls `use(col, sum)` for every column.
template <class Results, u32 THREADS, class Sum, class Use>
__device__ __forceinline__ void sum_tiles(Sum sum, const Results& results, const ColumnSums& of, Use use) {
    constexpr u32 COLS = Results::CHUNKS * VEC;
    static_assert(Sum::COUNT * THREADS <= Results::My::APART * COLS, "the scratch holds a sum per thread");
    u32& flag = *reinterpret_cast<u32*>(results.shared);
    const u32 across = (of.cols + COLS - 1) / COLS, of_column = of.first_col / COLS, col = threadIdx.x % COLS;
    const bool inside = of.first_col + col < of.cols;
    float* const parts = of.parts + of.first_col + col;
    bool in_group = of.tiles > 2 * SUM_GROUP;
    const u32 groups = (of.tiles + SUM_GROUP - 1) / SUM_GROUP, group = of.tile / SUM_GROUP;
    u32 own = of.tile, step = 1;
    u32 first = in_group ? group * SUM_GROUP : 0, end = in_group ? min(first + SUM_GROUP, of.tiles) : of.tiles;
    u32* counter = of.counters + (in_group ? across + of_column * groups + group : of_column);
    // One loop for both levels, because its body is long.
#pragma unroll 1
    for (;; in_group = false) {
        if (threadIdx.x < COLS && inside) {
            unroll<Sum::COUNT>([&](u32 i) { parts[((u64)own * Sum::COUNT + i) * of.cols] = sum.each[i]; });
        }
        if (!is_last_block(counter, (end - first + step - 1) / step, flag)) return;
        sum = sum_parts<Sum, COLS, THREADS>(parts, of.cols, first, end, step, inside, results.rest());
        if (!in_group) break;
        own = first, step = SUM_GROUP;
        first = 0, end = of.tiles, counter = of.counters + of_column;
    }
    if (threadIdx.x < COLS && inside) use(of.first_col + col, sum);
}
