// Sums over a whole grid in one launch: blocks leave partial sums, and the last one to finish adds them up in their
// fixed order. Which block that is varies, the result does not.
//
// `block_counters` counters are zero between launches: the last block sets its own back. A kernel that never ends takes the
// context with it, so no counter is ever found in between.
#pragma once

#include "common.cuh"

// Whether the calling block is the last of `blocks` to come here; it then sees what all of them wrote before. All
// threads call it; `flag` is shared, and free when they do.
__device__ __forceinline__ bool arrives_last(u32* block_counters, u32 blocks, u32& flag) {
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

__device__ __forceinline__ void add(float& sum, float value) { sum += value; }
__device__ __forceinline__ void add(float& sum, half value) { sum += half_to_float(value); }
__device__ __forceinline__ void add(float4& sum, float4 value) {
    sum.x += value.x, sum.y += value.y, sum.z += value.z, sum.w += value.w;
}

// The sum of the values of a warp's lanes that are `width` apart, a power of two, in each: halved again and again.
__device__ __forceinline__ float warp_sum(float value, u32 width = 1) {
    for (u32 distance = WARP / 2; distance >= width; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

// The sum of a column of [rows][columns], in the rows' order.
template <class T>
__device__ __forceinline__ T sum_of_rows(const T* values, u32 rows, u32 columns, u32 column) {
    T sum = values[column];
    for (u32 row = 1; row < rows; ++row) add(sum, values[row * columns + column]);
    return sum;
}

// The sum of column threadIdx.x of [rows][columns], whose rows lie `stride` apart, in the first `columns` threads: threads of
// one column take rows in turn, and their sums are added in their order. All threads call it; those that have no column are
// not `inside`. `parts` is BLOCK shared values.
template <class T, class From>
__device__ __forceinline__ T column_sum(const From* values, u32 rows, u64 stride, u32 columns, bool inside, T* parts) {
    T sum = {};
    if (inside) {
#pragma unroll 8
        for (u32 row = threadIdx.x / columns; row < rows; row += BLOCK / columns) {
            add(sum, values[row * stride + threadIdx.x % columns]);
        }
    }
    __syncthreads();
    parts[threadIdx.x] = sum;
    __syncthreads();
    return threadIdx.x < columns ? sum_of_rows(parts, BLOCK / columns, columns, threadIdx.x) : sum;
}

// The sum of a block's values, in all threads: a warp's, then the warps in their order. All threads call it; `parts` is
// BLOCK / WARP shared floats, free again at the next call.
__device__ __forceinline__ float block_sum(float value, float* parts) {
    const float sum = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = sum;
    __syncthreads();
    return sum_of_rows(parts, BLOCK / WARP, 1, 0);
}

// How a grid goes over [rows][channels]: blockIdx.x names `width` vectors of channels, blockIdx.y `rows_per_block` rows.
// `width` is a power of two, at most a warp. Made by `ColumnGrid` of src/cuda/lower/bias.rs.
struct ColumnGrid {
    u64 rows;
    u32 channels, width, rows_per_block, unused;
};
static_assert(sizeof(ColumnGrid) == 24, "the layout is shared with Rust");

// With the sums of the columns. Without `sums` nothing is summed; else `partial` is [gridDim.y][channels] for each kind of sum,
// and there is a counter for each blockIdx.x.
struct ColumnPass {
    float *sums, *partial;
    u32* block_counters;
    ColumnGrid grid;
};

// What a block shares meanwhile.
template <u32 V>
struct ColumnScratch {
    float parts[BLOCK * V];
    u32 flag;
};

// Calls `visit(row, channel)` for V channels of every row, and sums the N values of each that it returns,
// `values[kind * V + lane]`, over the rows: a thread's rows ascending, a warp's threads halved again and again, then
// warps and blocks in their order. `finish(channel, totals)` takes the N sums of a channel.
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
    // `columns` is at most BLOCK, and divides it.
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
        if (!arrives_last(pass.block_counters + blockIdx.x, gridDim.y, scratch.flag)) return;
        unroll<N>([&](u32 kind) {
            const float* const from = partial + kind * blocks * grid.channels;
            totals[kind] = column_sum(from, gridDim.y, grid.channels, columns, inside, scratch.parts);
        });
    }
    if (finishes) finish(first_channel + column, totals);
}

// The same of one value, whose sums are `pass.sums`.
template <u32 V, class Visit>
static __device__ __forceinline__ void column_pass(const ColumnPass& pass, ColumnScratch<V>& scratch, Visit visit) {
    column_sums<1>(pass, scratch, visit,
                   [&](u32 channel, const float (&totals)[1]) { pass.sums[channel] = totals[0]; });
}
