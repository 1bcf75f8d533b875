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
__device__ __forceinline__ void add(float& sum, half value) { sum += to_float(value); }
__device__ __forceinline__ void add(float& sum, bfloat16 value) { sum += to_float(value); }
__device__ __forceinline__ void add(float4& sum, float4 value) {
    sum.x += value.x, sum.y += value.y, sum.z += value.z, sum.w += value.w;
}
template <u32 V>
__device__ __forceinline__ void add(Lanes<V>& sums, const Lanes<V>& values) {
    unroll<V>([&](u32 lane) { sums[lane] += values[lane]; });
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
// threads must call it. `parts` is BLOCK / WARP shared floats; consecutive calls may use the same ones.
__device__ __forceinline__ float block_sum(float value, float* parts) {
    const float sum = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = sum;
    __syncthreads();
    return sum_of_rows(parts, BLOCK / WARP, 1, 0);
}

// Channels of a row that one block sums: 128 bytes of halves, the length of a cache line.
constexpr u32 MOST_COLUMNS = 64;

// How a grid covers [rows][channels]: blockIdx.x selects `width` vectors of channels, a power of two; the blocks of all
// blockIdx.y take rows in turn. Mirrors `ColumnGrid` in src/cuda/lower/bias.rs, which chooses it.
struct ColumnGrid {
    u64 rows;
    u32 channels, width;

    // The first of the V channels that the calling thread processes in all of its rows; it may be past the last.
    template <u32 V>
    __device__ __forceinline__ u32 channel() const {
        return (blockIdx.x * width + threadIdx.x % width) * V;
    }
};
static_assert(sizeof(ColumnGrid) == 16, "the layout is shared with Rust");

// A pass over [rows][channels] that also sums columns. If `sums` is null, nothing is summed. Otherwise `partial` has the
// sums of each block, and `block_counters` has one counter per blockIdx.x.
struct ColumnPass {
    float *sums, *partial;
    u32* block_counters;
    ColumnGrid grid;
};

// Shared memory of a ColumnPass with N sums per channel, by blocks of THREADS.
template <u32 N, u32 THREADS>
struct ColumnScratch {
    float parts[THREADS / WARP * N * MOST_COLUMNS];
    float totals[N * MOST_COLUMNS];
    u32 flag;
};

// Thread t has N · V values of vector t % width. In thread i, returns value i of [N][width · V], summed over the block:
// by a butterfly within each warp, then over the warps in order. All threads must call it.
template <u32 N, u32 V, u32 THREADS>
static __device__ __forceinline__ float sum_vectors(Lanes<N * V> sums, u32 width, float* parts) {
    const u32 columns = width * V, values = N * columns, lane = threadIdx.x % WARP;
#pragma unroll 1
    for (u32 distance = WARP / 2; distance >= width; distance /= 2) {
        unroll<N * V>([&](u32 each) { sums[each] += __shfl_xor_sync(ALL_LANES, sums[each], distance); });
    }
    __syncthreads();
    if (lane < width) {
        float* const to = parts + threadIdx.x / WARP * values + lane * V;
        unroll<N>([&](u32 kind) { unroll<V>([&](u32 i) { to[kind * columns + i] = sums[kind * V + i]; }); });
    }
    __syncthreads();
    return threadIdx.x < values ? sum_of_rows(parts, THREADS / WARP, values, threadIdx.x) : 0.0f;
}

// Processes every row of V channels: `load(at)` returns what is to be read of the V values starting at index `at`, for
// IN_FLIGHT rows before `use(at, loaded)` processes the first of them. A thread takes its rows in ascending order.
template <u32 V, u32 IN_FLIGHT, u32 THREADS, class Load, class Use>
static __device__ __forceinline__ void for_rows(const ColumnGrid& grid, Load load, Use use) {
    const u32 channel = grid.channel<V>(), rows_per_block = THREADS / grid.width;
    if (channel >= grid.channels) return;
    const u64 first = blockIdx.y * rows_per_block + threadIdx.x / grid.width, end = grid.rows * grid.channels;
    const u64 stride = (u64)gridDim.y * rows_per_block * grid.channels;
#pragma unroll 1
    for (u64 at = first * grid.channels + channel; at < end; at += IN_FLIGHT * stride) {
        decltype(load(at)) loaded[IN_FLIGHT];
        unroll<IN_FLIGHT>([&](u32 i) {
            if (at + i * stride < end) loaded[i] = load(at + i * stride);
        });
        unroll<IN_FLIGHT>([&](u32 i) {
            if (at + i * stride < end) use(at + i * stride, loaded[i]);
        });
    }
}

// for_rows with sums over the rows: `use(at, loaded, sums)` adds N values per channel to `sums[kind * V + lane]`. These
// are summed over each thread's rows, then as sum_vectors does, then over the blocks. `finish(channel, totals)` receives
// the N sums of a channel. The order of the sums depends on the grid only.
template <u32 N, u32 V, u32 IN_FLIGHT, u32 THREADS, class Load, class Use, class Finish>
static __device__ __forceinline__ void column_sums(const ColumnPass& pass, ColumnScratch<N, THREADS>& scratch,
                                                   Load load, Use use, Finish finish) {
    const ColumnGrid& grid = pass.grid;
    const u32 width = grid.width, columns = width * V, values = N * columns;
    Lanes<N * V> sums = {};
    for_rows<V, IN_FLIGHT, THREADS>(grid, load,
                                    [&](u64 at, const decltype(load(u64()))& loaded) { use(at, loaded, sums); });
    if (!pass.sums) return;
    float total = sum_vectors<N, V, THREADS>(sums, width, scratch.parts);
    if (gridDim.y > 1) {
        float* const partial = pass.partial + (u64)blockIdx.x * gridDim.y * values;
        if (threadIdx.x < values) partial[blockIdx.y * values + threadIdx.x] = total;
        if (!is_last_block(pass.block_counters + blockIdx.x, gridDim.y, scratch.flag)) return;
        // There are at least four values, because `width` has a minimum for single channels.
        const u32 quads = values / 4;
        Lanes<4> quad = {};
#pragma unroll 8
        for (u32 block = threadIdx.x / quads; block < gridDim.y; block += THREADS / quads) {
            const Lanes<4> part = load_lanes<4>(partial + block * values + threadIdx.x % quads * 4);
            add(quad, part);
        }
        total = sum_vectors<1, 4, THREADS>(quad, quads, scratch.parts);
    }
    if (threadIdx.x < values) scratch.totals[threadIdx.x] = total;
    __syncthreads();
    const u32 mine = blockIdx.x * columns + threadIdx.x;
    if (threadIdx.x >= columns || mine >= grid.channels) return;
    float totals[N];
    unroll<N>([&](u32 kind) { totals[kind] = scratch.totals[kind * columns + threadIdx.x]; });
    finish(mine, totals);
}

// column_sums of one value per channel; stores the sums in `pass.sums`.
template <u32 V, u32 IN_FLIGHT, u32 THREADS, class Load, class Use>
static __device__ __forceinline__ void column_pass(const ColumnPass& pass, ColumnScratch<1, THREADS>& scratch,
                                                   Load load, Use use) {
    column_sums<1, V, IN_FLIGHT>(pass, scratch, load, use,
                                 [&](u32 channel, const float (&totals)[1]) { pass.sums[channel] = totals[0]; });
}
