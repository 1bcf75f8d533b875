// Grid-wide sums in one launch: each block stores a partial sum, and the last block to finish adds them in a fixed
// order. The result does not depend on which block finishes last.
//
// The counters in `block_counters` are zero between launches, because the last block resets its counter. A kernel that
// is aborted also destroys the context, so no later launch sees a nonzero counter.
#pragma once

#include "common.cuh"

// Whether the calling block is the last of `blocks` blocks to call this; if so, it sees everything that they wrote
// before their calls. All threads must call it. `flag` is in shared memory and must not be in use.
__device__ __forceinline__ bool is_last_block(u32* block_counters, u32 blocks, u32& flag) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        flag = atomicAdd(block_counters, 1u) + 1 == blocks ? 1 : 0;
        if (flag) *block_counters = 0;
        __threadfence();
    }
    __syncthreads();
    return flag != 0;
}

// The cheaper form for a block that only has to say that it has read what the last block will then overwrite. One thread
// of each block calls announce() when its block has read all of it, and is_last_announced() where the answer is needed,
// so that the block works while the atomic is on its way.
__device__ __forceinline__ u32 announce(u32* block_counter) {
    __threadfence();
    return atomicAdd(block_counter, 1u);
}
__device__ __forceinline__ bool is_last_announced(u32* block_counter, u32 announced, u32 blocks) {
    if (announced + 1 != blocks) return false;
    __threadfence();
    *block_counter = 0;
    return true;
}

__device__ __forceinline__ void add(float& sum, float value) { sum += value; }
__device__ __forceinline__ void add(float& sum, half value) { sum += half_to_float(value); }
__device__ __forceinline__ void add(float4& sum, float4 value) {
    sum.x += value.x, sum.y += value.y, sum.z += value.z, sum.w += value.w;
}

// A butterfly reduction over a warp: each lane gets the sum over the lanes whose indices differ from its own by a
// multiple of `width`, a power of two.
__device__ __forceinline__ float warp_sum(float value, u32 width = 1) {
    for (u32 distance = WARP / 2; distance >= width; distance /= 2)
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

// The sum of one column of [rows][columns], in row order.
template <class T>
__device__ __forceinline__ T sum_of_rows(const T* values, u32 rows, u32 columns, u32 column) {
    T sum = values[column];
    for (u32 row = 1; row < rows; ++row) add(sum, values[row * columns + column]);
    return sum;
}

// In each of the first `columns` threads, the sum of column threadIdx.x of [rows][columns], with rows `stride` elements
// apart. Several threads share a column: each sums every (threads / columns)th row, and their sums are added in thread
// order. All threads of the block must call it, with `inside` false in threads that have no column. `parts` is shared,
// one value per thread.
template <class T, class From>
__device__ __forceinline__ T column_sum(const From* values, u32 rows, u64 stride, u32 columns, bool inside, T* parts,
                                        u32 threads = BLOCK) {
    T sum = {};
    if (inside) {
#pragma unroll 8
        for (u32 row = threadIdx.x / columns; row < rows; row += threads / columns) {
            add(sum, values[row * stride + threadIdx.x % columns]);
        }
    }
    __syncthreads();
    parts[threadIdx.x] = sum;
    __syncthreads();
    return threadIdx.x < columns ? sum_of_rows(parts, threads / columns, columns, threadIdx.x) : sum;
}

// The sum of `value` over the block, returned to all threads: first within each warp, then over the warps in order. All
// `threads` of the block must call it. `parts` is one shared float per warp; consecutive calls may use the same ones.
__device__ __forceinline__ float block_sum(float value, float* parts, u32 threads = BLOCK) {
    const float sum = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = sum;
    __syncthreads();
    return sum_of_rows(parts, threads / WARP, 1, 0);
}

// How a grid covers [rows][channels]: blockIdx.x selects `width` vectors of channels, blockIdx.y selects
// `rows_per_block` rows. `width` is a power of two, at most WARP. Mirrors `ColumnGrid` in src/cuda/lower/bias.rs.
struct ColumnGrid {
    u64 rows;
    u32 channels, width, rows_per_block, unused;
};
static_assert(sizeof(ColumnGrid) == 24, "the layout is shared with Rust");

// A pass over [rows][channels] that also sums columns. If `sums` is null, nothing is summed. Otherwise `partial` is
// [gridDim.y][channels] for each kind of sum, and `block_counters` has one counter per blockIdx.x.
struct ColumnPass {
    float *sums, *partial;
    u32* block_counters;
    ColumnGrid grid;
};

// Shared memory of a ColumnPass.
template <u32 V>
struct ColumnScratch {
    float parts[BLOCK * V];
    u32 flag;
};

// Calls `visit(row, channel)` for every V channels of every row. It returns N values per channel,
// `values[kind * V + lane]`, which are summed over the rows: first each thread's rows in ascending order, then a
// butterfly reduction over the warp, then warps and blocks in order. `finish(channel, totals)` receives the N sums of a
// channel.
template <u32 N, u32 V, class Visit, class Finish>
static __device__ __forceinline__ void column_sums(const ColumnPass& pass, ColumnScratch<V>& scratch, Visit visit,
                                                   Finish finish) {
    const ColumnGrid& grid = pass.grid;
    const u32 width = grid.width, columns = width * V;
    const u32 first_channel = blockIdx.x * columns;
    const u64 first = (u64)blockIdx.y * grid.rows_per_block;
    const u64 end = first + grid.rows_per_block < grid.rows ? first + grid.rows_per_block : grid.rows;
    Lanes<N * V> sums = {};
    const u32 channel = first_channel + threadIdx.x % width * V;
    if (channel < grid.channels) {
        for (u64 row = first + threadIdx.x / width; row < end; row += BLOCK / width) {
            const Lanes<N * V> values = visit(row, channel);
            unroll<N * V>([&](u32 each) { sums[each] += values[each]; });
        }
    }
    if (!pass.sums) return;
    // `columns` divides BLOCK.
    const u32 column = threadIdx.x % columns;
    const bool inside = first_channel + column < grid.channels, finishes = threadIdx.x < columns && inside;
    float* const partial = pass.partial + first_channel;
    const u64 blocks = gridDim.y;
    float totals[N];
    unroll<N>([&](u32 kind) {
        for (u32 distance = WARP / 2; distance >= width; distance /= 2) {
            unroll<V>([&](u32 lane) {
                sums[kind * V + lane] += __shfl_xor_sync(ALL_LANES, sums[kind * V + lane], distance);
            });
        }
        if (kind > 0) __syncthreads();
        if (threadIdx.x % WARP < width) {
            float* const to = scratch.parts + threadIdx.x / WARP * columns + threadIdx.x % WARP * V;
            unroll<V>([&](u32 lane) { to[lane] = sums[kind * V + lane]; });
        }
        __syncthreads();
        if (!finishes) return;
        totals[kind] = sum_of_rows(scratch.parts, BLOCK / WARP, columns, column);
        if (blocks > 1) partial[(kind * blocks + blockIdx.y) * grid.channels + column] = totals[kind];
    });
    if (blocks > 1) {
        if (!is_last_block(pass.block_counters + blockIdx.x, gridDim.y, scratch.flag)) return;
        unroll<N>([&](u32 kind) {
            const float* const from = partial + kind * blocks * grid.channels;
            totals[kind] = column_sum(from, gridDim.y, grid.channels, columns, inside, scratch.parts);
        });
    }
    if (finishes) finish(first_channel + column, totals);
}

// column_sums of one value per channel; stores the sums in `pass.sums`.
template <u32 V, class Visit>
static __device__ __forceinline__ void column_pass(const ColumnPass& pass, ColumnScratch<V>& scratch, Visit visit) {
    column_sums<1>(pass, scratch, visit,
                   [&](u32 channel, const float (&totals)[1]) { pass.sums[channel] = totals[0]; });
}
