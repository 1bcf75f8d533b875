// Kernels of the emulator's own tests: races that it promises to find, each beside the same without one.
#include "reduce.cuh"

// Planted kernels take what they like.
#undef KERNEL
#define KERNEL(name) ENTRY(name)

// What `way` of exchanging values in a block leaves out, or does otherwise.
enum Way : u32 { RIGHT, WITHOUT, WARP_ALONE, SHUFFLE = 2 };

// Each thread reads what its neighbour in the block wrote.
KERNEL(planted_block_exchange)(float* values, u32 way) {
    __shared__ float cells[BLOCK];
    values += blockIdx.x * BLOCK;
    cells[threadIdx.x] = values[threadIdx.x];
    if (way == RIGHT) __syncthreads();
    if (way == WARP_ALONE) __syncwarp();
    values[threadIdx.x] = cells[(threadIdx.x + 1) % BLOCK];
}

// Each reads what its neighbour in the warp wrote.
KERNEL(planted_warp_exchange)(float* values, u32 way) {
    __shared__ float cells[BLOCK];
    const u32 neighbour = threadIdx.x ^ 1;
    cells[threadIdx.x] = values[threadIdx.x];
    if (way == RIGHT) __syncwarp();
    if (way == SHUFFLE) __shfl_xor_sync(ALL_LANES, threadIdx.x, 1);  // Orders no memory.
    values[threadIdx.x] = cells[neighbour];
}

// All read a word that one of them then writes.
KERNEL(planted_overwritten)(float* values, u32 way) {
    DYNAMIC_SHARED(float, cells);
    if (threadIdx.x == 0) cells[0] = values[0];
    __syncthreads();
    const float value = cells[0];
    if (way == RIGHT) __syncthreads();
    if (threadIdx.x == BLOCK - 1) cells[0] = 1.0f;
    values[threadIdx.x] = value;
}

// A warp's lanes read what one of them then writes.
KERNEL(planted_overwritten_in_warp)(float* values, u32 way) {
    float sum = 0.0f;
    for (u32 i = 0; i < WARP; ++i) sum += values[threadIdx.x / WARP * WARP + i];
    if (way == RIGHT) __syncwarp();
    values[threadIdx.x] = sum;
}

// One word of all blocks, or one for each.
KERNEL(planted_block_words)(float* values, u32 way) {
    if (threadIdx.x == 0) values[way == RIGHT ? blockIdx.x : 0] = 1.0f;
}

// All blocks read what one of them writes.
KERNEL(planted_block_reads)(float* values, u32 way) {
    const float value = values[0];
    values[1 + blockIdx.x * BLOCK + threadIdx.x] = value;
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) values[way == RIGHT ? 1023 : 0] = value;
}

// Neighbouring parts of a word are different threads', or all of them everyone's.
KERNEL(planted_parts)(real* values, u32 way) { store(values + threadIdx.x / (way == RIGHT ? 1 : 2), 1.0f); }
KERNEL(planted_bytes)(u8* values, u32 way) { values[threadIdx.x / (way == RIGHT ? 1 : 2)] = 1; }

// A vector over what other threads write.
KERNEL(planted_vectors)(float* values, u32 way) {
    if (threadIdx.x < 32) {
        reinterpret_cast<float4*>(values)[threadIdx.x] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    } else if (threadIdx.x == 32) {
        values[way == RIGHT ? 128 : 127] = 1.0f;
    }
}

// The same value from all: a race unless it is volatile.
KERNEL(planted_flag)(u32* values, u32 way) {
    if (way == RIGHT) {
        *static_cast<volatile u32*>(values) = 1;
    } else {
        *values = 1;
    }
}

// Counts by atomics, and reads the count behind a barrier, or at once.
KERNEL(planted_count)(u32* values, u32 way) {
    __shared__ u32 count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    atomicAdd(&count, 1u);
    if (way == RIGHT) __syncthreads();
    values[threadIdx.x] = count;
}

// What a sum by the last block leaves out.
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

// Pairs of blocks, then all the pairs: the last block of all sees what it learns of from others alone.
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
