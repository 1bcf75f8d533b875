// Sums over a whole grid in one launch: blocks leave partial sums, and the last one to finish adds them up in their
// fixed order. Which block that is varies, the result does not.
//
// `arrived` counters are zero between launches: the last block sets its own back. A kernel that never ends takes the
// context with it, so no counter is ever found in between.
#pragma once

#include "common.cuh"

// Whether the calling block is the last of `blocks` to come here; it then sees what all of them wrote before. All
// threads call it; `flag` is shared, and free when they do.
__device__ __forceinline__ bool arrives_last(u32* arrived, u32 blocks, u32& flag) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        flag = atomicAdd(arrived, 1u) + 1 == blocks ? 1 : 0;
        if (flag) *arrived = 0;
        __threadfence();
    }
    __syncthreads();
    return flag != 0;
}

// The sum of a block's values, in thread 0: a warp's halved again and again, then the warps in their order. All threads
// call it; `parts` is BLOCK / WARP shared floats, free again at the next call.
__device__ __forceinline__ float block_sum(float value, float* parts) {
    for (u32 distance = WARP / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    __syncthreads();
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = value;
    __syncthreads();
    float sum = parts[0];
    for (u32 warp = 1; warp < BLOCK / WARP; ++warp) sum += parts[warp];
    return sum;
}

// How a grid goes over [rows][channels]: blockIdx.x names `width` vectors of channels, blockIdx.y `rows_per_block` rows.
// `width` is a power of two, at most a warp. Made by `ColumnGrid` of src/cuda/bias.rs.
struct ColumnGrid {
    u64 rows;
    u32 channels, width, rows_per_block, unused;
};
static_assert(sizeof(ColumnGrid) == 24, "the layout is shared with Rust");

// With the sums of the columns. Without `sums` nothing is summed; else `partial` is [gridDim.y][channels] and there is a
// counter for each blockIdx.x.
struct ColumnPass {
    const ColumnGrid& grid;
    float* sums;
    float* partial;
    u32* arrived;
};

// Calls `visit(row, channel, values)` for V channels of every row, and sums the N values of each that it leaves there,
// `values[kind * V + lane]`, over the rows: a thread's rows ascending, a warp's threads halved again and again, then
// warps and blocks in their order. `finish(channel, totals)` takes the N sums of a channel. `parts` is BLOCK · V shared
// floats; `partial` needs room for N kinds.
template <u32 V, u32 N, class Visit, class Finish>
static __device__ __forceinline__ void column_sums(const ColumnPass& pass, float* parts, u32& flag, Visit visit,
                                                   Finish finish) {
    const ColumnGrid& grid = pass.grid;
    const u32 width = grid.width, columns = width * V;
    const u32 first_channel = blockIdx.x * columns;
    const u64 first = (u64)blockIdx.y * grid.rows_per_block;
    const u64 end = first + grid.rows_per_block < grid.rows ? first + grid.rows_per_block : grid.rows;
    float sums[N * V];
#pragma unroll
    for (u32 each = 0; each < N * V; ++each) sums[each] = 0.0f;
    const u32 channel = first_channel + threadIdx.x % width * V;
    if (channel < grid.channels) {
        for (u64 row = first + threadIdx.x / width; row < end; row += BLOCK / width) {
            float values[N * V];
            visit(row, channel, values);
#pragma unroll
            for (u32 each = 0; each < N * V; ++each) sums[each] += values[each];
        }
    }
    if (!pass.sums) return;
    // `columns` is at most BLOCK, and divides it.
    const u32 column = threadIdx.x % columns;
    const bool inside = first_channel + column < grid.channels;
    float totals[N];
#pragma unroll
    for (u32 kind = 0; kind < N; ++kind) {
        for (u32 distance = WARP / 2; distance >= width; distance /= 2) {
#pragma unroll
            for (u32 lane = 0; lane < V; ++lane) {
                sums[kind * V + lane] += __shfl_xor_sync(ALL_LANES, sums[kind * V + lane], distance);
            }
        }
        if (kind > 0) __syncthreads();
        if (threadIdx.x % WARP < width) {
#pragma unroll
            for (u32 lane = 0; lane < V; ++lane) {
                parts[threadIdx.x / WARP * columns + threadIdx.x % WARP * V + lane] = sums[kind * V + lane];
            }
        }
        __syncthreads();
        totals[kind] = 0.0f;
        if (threadIdx.x < columns && inside) {
            float sum = parts[column];
            for (u32 warp = 1; warp < BLOCK / WARP; ++warp) sum += parts[warp * columns + column];
            totals[kind] = sum;
            const u64 row = (u64)kind * gridDim.y + blockIdx.y;
            if (gridDim.y > 1) pass.partial[row * grid.channels + first_channel + column] = sum;
        }
    }
    if (gridDim.y == 1) {
        if (threadIdx.x < columns && inside) finish(first_channel + column, totals);
        return;
    }
    if (!arrives_last(pass.arrived + blockIdx.x, gridDim.y, flag)) return;
    const u32 lanes = BLOCK / columns;
#pragma unroll
    for (u32 kind = 0; kind < N; ++kind) {
        float sum = 0.0f;
        if (inside) {
#pragma unroll 8
            for (u32 block = threadIdx.x / columns; block < gridDim.y; block += lanes) {
                const u64 row = (u64)kind * gridDim.y + block;
                sum += pass.partial[row * grid.channels + first_channel + column];
            }
        }
        if (kind > 0) __syncthreads();
        parts[threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.x < columns && inside) {
            for (u32 lane = 1; lane < lanes; ++lane) sum += parts[lane * columns + column];
            totals[kind] = sum;
        }
    }
    if (threadIdx.x < columns && inside) finish(first_channel + column, totals);
}

// The same of one value, whose sums are `pass.sums`.
template <u32 V, class Visit>
static __device__ __forceinline__ void column_pass(const ColumnPass& pass, float* parts, u32& flag, Visit visit) {
    column_sums<V, 1>(pass, parts, flag, visit,
                      [&](u32 channel, const float (&totals)[1]) { pass.sums[channel] = totals[0]; });
}
