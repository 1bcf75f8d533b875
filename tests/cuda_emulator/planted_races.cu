// Kernels for the emulator's tests: data races that it must find, each next to a variant without the race.
#include "reduce.cuh"

// Planted kernels take plain parameters instead of one struct.
#undef KERNEL
#define KERNEL(name) ENTRY(name)

// How a kernel orders its accesses: every variant except CORRECT has a race.
enum Variant : u32 { CORRECT, UNORDERED, WARP_BARRIER, SHUFFLE = 2 };

// Each thread reads the value of its neighbour in the block.
KERNEL(planted_block_exchange)(float* values, u32 variant) {
    __shared__ float cells[BLOCK];
    values += blockIdx.x * BLOCK;
    cells[threadIdx.x] = values[threadIdx.x];
    if (variant == CORRECT) __syncthreads();
    if (variant == WARP_BARRIER) __syncwarp();
    values[threadIdx.x] = cells[(threadIdx.x + 1) % BLOCK];
}

// Each thread reads the value of its neighbour in the warp.
KERNEL(planted_warp_exchange)(float* values, u32 variant) {
    __shared__ float cells[BLOCK];
    const u32 neighbour = threadIdx.x ^ 1;
    cells[threadIdx.x] = values[threadIdx.x];
    if (variant == CORRECT) __syncwarp();
    if (variant == SHUFFLE) __shfl_xor_sync(ALL_LANES, threadIdx.x, 1);  // Does not order memory.
    values[threadIdx.x] = cells[neighbour];
}

// All threads read a word that one of them then overwrites.
KERNEL(planted_overwritten)(float* values, u32 variant) {
    DYNAMIC_SHARED(float, cells);
    if (threadIdx.x == 0) cells[0] = values[0];
    __syncthreads();
    const float value = cells[0];
    if (variant == CORRECT) __syncthreads();
    if (threadIdx.x == BLOCK - 1) cells[0] = 1.0f;
    values[threadIdx.x] = value;
}

// The lanes of a warp read each other's values and then overwrite them.
KERNEL(planted_overwritten_in_warp)(float* values, u32 variant) {
    float sum = 0.0f;
    for (u32 i = 0; i < WARP; ++i) sum += values[threadIdx.x / WARP * WARP + i];
    if (variant == CORRECT) __syncwarp();
    values[threadIdx.x] = sum;
}

// Each block writes its own word, or all blocks write the same one.
KERNEL(planted_block_words)(float* values, u32 variant) {
    if (threadIdx.x == 0) values[variant == CORRECT ? blockIdx.x : 0] = 1.0f;
}

// All blocks read a word. One of them writes another word, or the same one.
KERNEL(planted_block_reads)(float* values, u32 variant) {
    const float value = values[0];
    values[1 + blockIdx.x * BLOCK + threadIdx.x] = value;
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) values[variant == CORRECT ? 1023 : 0] = value;
}

// Each thread writes its own part of a word, or pairs of threads write the same part.
KERNEL(planted_parts)(real* values, u32 variant) { store(values + threadIdx.x / (variant == CORRECT ? 1 : 2), 1.0f); }
KERNEL(planted_bytes)(u8* values, u32 variant) { values[threadIdx.x / (variant == CORRECT ? 1 : 2)] = 1; }

// One thread writes next to the vectors of other threads, or into one.
KERNEL(planted_vectors)(float* values, u32 variant) {
    if (threadIdx.x < 32) {
        reinterpret_cast<float4*>(values)[threadIdx.x] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    } else if (threadIdx.x == 32) {
        values[variant == CORRECT ? 128 : 127] = 1.0f;
    }
}

// All threads write the same value, which is a race unless the write is volatile.
KERNEL(planted_flag)(u32* values, u32 variant) {
    if (variant == CORRECT) {
        *static_cast<volatile u32*>(values) = 1;
    } else {
        *values = 1;
    }
}

// Counts with atomics, and reads the count after a barrier or immediately.
KERNEL(planted_count)(u32* values, u32 variant) {
    __shared__ u32 count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    atomicAdd(&count, 1u);
    if (variant == CORRECT) __syncthreads();
    values[threadIdx.x] = count;
}

// What a sum by the last block omits.
enum Missing : u32 { NOTHING, FIRST_BARRIER, FIRST_FENCE, SECOND_FENCE, SECOND_BARRIER, ATOMIC };

static __device__ __forceinline__ bool arrives(u32* block_counters, u32 missing, u32& flag) {
    if (missing != FIRST_BARRIER) __syncthreads();
    if (threadIdx.x == 0) {
        if (missing != FIRST_FENCE) __threadfence();
        if (missing == ATOMIC) {
            flag = ++*block_counters == gridDim.x;
        } else {
            flag = atomicAdd(block_counters, 1u) + 1 == gridDim.x;
        }
        if (flag) *block_counters = 0;
        if (missing != SECOND_FENCE) __threadfence();
    }
    if (missing != SECOND_BARRIER) __syncthreads();
    return flag != 0;
}

// values[0] = the sum of values[1] .. values[gridDim.x], one from every block's last thread.
KERNEL(planted_last_block)(float* values, u32* block_counters, u32 missing) {
    __shared__ u32 flag;
    const float start = values[0];
    if (threadIdx.x == BLOCK - 1) values[1 + blockIdx.x] = start + 1.0f;
    if (!arrives(block_counters, missing, flag) || threadIdx.x != 1) return;
    float sum = 0.0f;
    for (u32 block = 0; block < gridDim.x; ++block) sum += values[1 + block];
    values[0] = sum;
}

// Counts pairs of blocks, then all pairs. The last block sees most other blocks' writes only through a third block.
KERNEL(planted_relayed)(float* values, u32* block_counters, u32 missing) {
    __shared__ u32 flag;
    if (threadIdx.x == 5) values[blockIdx.x] = 1.0f;
    if (!arrives_last(block_counters + 1 + blockIdx.x / 2, 2, flag)) return;
    if (missing == FIRST_FENCE) {
        __syncthreads();
        if (threadIdx.x == 0) flag = atomicAdd(block_counters, 1u) + 1 == gridDim.x / 2;
        __syncthreads();
        if (!flag) return;
    } else if (!arrives_last(block_counters, gridDim.x / 2, flag)) {
        return;
    }
    if (threadIdx.x != 7) return;
    float sum = 0.0f;
    for (u32 block = 0; block < gridDim.x; ++block) sum += values[block];
    values[0] = sum;
}
