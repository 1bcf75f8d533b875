// Sums over a whole grid in one launch: blocks leave partial sums, and the last one to finish adds them up in their
// fixed order. Which block that is varies, the result does not.
//
// `arrived` counters are zero between launches: the last block sets its own back. A kernel that never ends takes the
// context with it, so no counter is ever found in between.
#pragma once

#include "common.cuh"

// Whether the calling block is the last of `blocks` to come here; it then sees what all of them wrote before. All
// threads call it, once in a kernel; `flag` is shared.
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
// `width` is a power of two, at most a warp. Without `sums` nothing is summed; else `partial` is [gridDim.y][channels]
// and there is a counter for each blockIdx.x.
struct ColumnPass {
    u64 rows;
    u32 channels, width, rows_per_block;
    float* sums;
    float* partial;
    u32* arrived;
};

// Calls `visit(row, channel, values)` for V channels of every row, and sums the values that it leaves there over the
// rows: a thread's rows ascending, a warp's threads halved again and again, then warps and blocks in their order.
// `parts` is BLOCK · V shared floats.
template <u32 V, class Visit>
static __device__ __forceinline__ void column_pass(const ColumnPass& pass, float* parts, u32& flag, Visit visit) {
    const u32 width = pass.width, columns = width * V;
    const u32 first_channel = blockIdx.x * columns;
    const u64 first = (u64)blockIdx.y * pass.rows_per_block;
    const u64 end = first + pass.rows_per_block < pass.rows ? first + pass.rows_per_block : pass.rows;
    float sums[V];
#pragma unroll
    for (u32 lane = 0; lane < V; ++lane) sums[lane] = 0.0f;
    const u32 channel = first_channel + threadIdx.x % width * V;
    if (channel < pass.channels) {
        for (u64 row = first + threadIdx.x / width; row < end; row += BLOCK / width) {
            float values[V];
            visit(row, channel, values);
#pragma unroll
            for (u32 lane = 0; lane < V; ++lane) sums[lane] += values[lane];
        }
    }
    if (!pass.sums) return;
    for (u32 distance = WARP / 2; distance >= width; distance /= 2) {
#pragma unroll
        for (u32 lane = 0; lane < V; ++lane) sums[lane] += __shfl_xor_sync(ALL_LANES, sums[lane], distance);
    }
    if (threadIdx.x % WARP < width) {
#pragma unroll
        for (u32 lane = 0; lane < V; ++lane) {
            parts[threadIdx.x / WARP * columns + threadIdx.x % WARP * V + lane] = sums[lane];
        }
    }
    __syncthreads();
    // `columns` is at most BLOCK, and divides it.
    const u32 column = threadIdx.x % columns;
    const bool inside = first_channel + column < pass.channels;
    float* totals = pass.sums + first_channel + column;
    if (threadIdx.x < columns && inside) {
        float sum = parts[column];
        for (u32 warp = 1; warp < BLOCK / WARP; ++warp) sum += parts[warp * columns + column];
        float* target = gridDim.y == 1 ? totals : pass.partial + (u64)blockIdx.y * pass.channels + first_channel + column;
        *target = sum;
    }
    if (gridDim.y == 1 || !arrives_last(pass.arrived + blockIdx.x, gridDim.y, flag)) return;
    const u32 lanes = BLOCK / columns;
    float sum = 0.0f;
    if (inside) {
#pragma unroll 8
        for (u32 block = threadIdx.x / columns; block < gridDim.y; block += lanes) {
            sum += pass.partial[(u64)block * pass.channels + first_channel + column];
        }
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= columns || !inside) return;
    for (u32 lane = 1; lane < lanes; ++lane) sum += parts[lane * columns + column];
    *totals = sum;
}
