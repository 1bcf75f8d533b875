// Products that are split along the inner dimension (split-K): which part a block computes, and the ordered sum of the
// parts. It is used if there are too few tiles to fill a device.
#pragma once

#include "reduce.cuh"

// The part of a product that a block computes.
struct Work {
    u32 row, col;                        // The first row and column of its tile in the product.
    u32 tile;                            // The tile's index.
    u32 split, splits, steps_per_split;  // Its part of the inner dimension, in steps of a tile's depth.
};

// The work of block `index` of those that compute a product of `cols` columns over `depth`, in tiles of ROWS × COLS and
// steps of DEPTH. gridDim.y is the number of splits.
template <u32 ROWS, u32 COLS, u32 DEPTH>
__device__ __forceinline__ Work work_of_block(u32 index, u32 cols, u32 depth) {
    const u32 across = (cols + COLS - 1) / COLS;
    const u32 steps_per_split = ((depth + DEPTH - 1) / DEPTH + gridDim.y - 1) / gridDim.y;
    return Work{index / across * ROWS, index % across * COLS, blockIdx.x, blockIdx.y, gridDim.y, steps_per_split};
}

// The first step of the block's split and the number of its steps, of `steps` in all.
struct Steps {
    u32 first, count;
};
__device__ __forceinline__ Steps steps_of(const Work& work, u32 steps) {
    const u32 first = work.split * work.steps_per_split;
    return Steps{first, first < steps ? min(work.steps_per_split, steps - first) : 0};
}

// With more than 2 · GROUP splits, parts are added in two levels: within groups of GROUP parts, then over the groups.
constexpr u32 GROUP = 8;

// Adds the parts of a split tile in order. Returns true in the block that has the sum, which is the last one to finish.
// `counters` has one counter per tile, then one per group of parts; all are zero before and after. `flag` is in shared
// memory and must not be in use.
template <u32 THREADS, u32 SUMS>
__device__ __forceinline__ bool add_splits(float (&sums)[SUMS], u32& flag, float* partials, u32* counters,
                                           const Work& work) {
    if (work.splits == 1) return true;
    float* const parts = partials + (u64)work.tile * work.splits * SUMS * THREADS + threadIdx.x;
    const u32 groups = (work.splits + GROUP - 1) / GROUP, group = work.split / GROUP;
    bool is_in_group = work.splits > 2 * GROUP;
    u32 own = work.split, step = 1;
    u32 first = is_in_group ? group * GROUP : 0, end = is_in_group ? min(first + GROUP, work.splits) : work.splits;
    u32* counter = counters + work.tile + (is_in_group ? gridDim.x + work.tile * (groups - 1) + group : 0);
    // One loop for both levels, because its body is long.
#pragma unroll 1
    for (;; is_in_group = false) {
        unroll<SUMS>([&](u32 e) { parts[(own * SUMS + e) * THREADS] = sums[e]; });
        if (!is_last_block(counter, (end - first + step - 1) / step, flag)) return false;
        unroll<SUMS>([&](u32 e) { sums[e] = 0.0f; });
#pragma unroll 1
        for (u32 part = first; part < end; part += step) {
            unroll<SUMS>([&](u32 e) { sums[e] += parts[(part * SUMS + e) * THREADS]; });
        }
        if (!is_in_group) return true;
        own = first, step = GROUP;
        first = 0, end = work.splits, counter = counters + work.tile;
    }
}
