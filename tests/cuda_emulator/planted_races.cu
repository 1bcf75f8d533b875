// Kernels for the emulator's own tests: data races that it must find. Each kernel also has a variant without a race.
#include "reduce.cuh"

// Unlike kernels/, these kernels take plain arguments instead of one parameter struct.
#undef KERNEL
#define KERNEL(name) extern "C" __global__ void KERNEL_NAME(name)

// The variant of a kernel that `way` selects: RIGHT has no race; the others omit or replace the synchronisation.
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

// Each thread reads what its neighbour in the warp wrote.
KERNEL(planted_warp_exchange)(float* values, u32 way) {
    __shared__ float cells[BLOCK];
    const u32 neighbour = threadIdx.x ^ 1;
    cells[threadIdx.x] = values[threadIdx.x];
    if (way == RIGHT) __syncwarp();
    if (way == SHUFFLE) __shfl_xor_sync(ALL_LANES, threadIdx.x, 1);  // A shuffle does not order memory accesses.
    values[threadIdx.x] = cells[neighbour];
}

// All threads read a word that one of them then writes.
KERNEL(planted_overwritten)(float* values, u32 way) {
    DYNAMIC_SHARED(float, cells);
    if (threadIdx.x == 0) cells[0] = values[0];
    __syncthreads();
    const float value = cells[0];
    if (way == RIGHT) __syncthreads();
    if (threadIdx.x == BLOCK - 1) cells[0] = 1.0f;
    values[threadIdx.x] = value;
}

// Each lane reads its whole warp's values, then writes one of them.
KERNEL(planted_overwritten_in_warp)(float* values, u32 way) {
    float sum = 0.0f;
    for (u32 i = 0; i < WARP; ++i) sum += values[threadIdx.x / WARP * WARP + i];
    if (way == RIGHT) __syncwarp();
    values[threadIdx.x] = sum;
}

// All blocks write the same word, or each writes its own.
KERNEL(planted_block_words)(float* values, u32 way) {
    if (threadIdx.x == 0) values[way == RIGHT ? blockIdx.x : 0] = 1.0f;
}

// All blocks read a word that one of them writes.
KERNEL(planted_block_reads)(float* values, u32 way) {
    const float value = values[0];
    values[1 + blockIdx.x * BLOCK + threadIdx.x] = value;
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) values[way == RIGHT ? 1023 : 0] = value;
}

// Each thread writes its own element, or two threads share one. Neighbouring elements may share a word.
KERNEL(planted_parts)(real* values, u32 way) { store(values + threadIdx.x / (way == RIGHT ? 1 : 2), 1.0f); }
KERNEL(planted_bytes)(u8* values, u32 way) { values[threadIdx.x / (way == RIGHT ? 1 : 2)] = 1; }

// A vector write that overlaps another thread's write.
KERNEL(planted_vectors)(float* values, u32 way) {
    if (threadIdx.x < 32) {
        reinterpret_cast<float4*>(values)[threadIdx.x] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    } else if (threadIdx.x == 32) {
        values[way == RIGHT ? 128 : 127] = 1.0f;
    }
}

// All threads write the same value, which is a race unless the write is volatile.
KERNEL(planted_flag)(u32* values, u32 way) {
    if (way == RIGHT) {
        *static_cast<volatile u32*>(values) = 1;
    } else {
        *values = 1;
    }
}

// Counts with atomics and reads the count after a barrier, or without one.
KERNEL(planted_count)(u32* values, u32 way) {
    __shared__ u32 count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    atomicAdd(&count, 1u);
    if (way == RIGHT) __syncthreads();
    values[threadIdx.x] = count;
}

// What a variant of is_last_block omits.
enum Missing : u32 { NOTHING, FIRST_BARRIER, FIRST_FENCE, SECOND_FENCE, SECOND_BARRIER, ATOMIC };

static __device__ __forceinline__ bool is_last(u32* block_counters, u32 missing, u32& flag) {
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

// values[0] = Σ values[1 .. gridDim.x], each written by the last thread of one block.
KERNEL(planted_last_block)(float* values, u32* block_counters, u32 missing) {
    __shared__ u32 flag;
    const float start = values[0];
    if (threadIdx.x == BLOCK - 1) values[1 + blockIdx.x] = start + 1.0f;
    if (!is_last(block_counters, missing, flag) || threadIdx.x != 1) return;
    float sum = 0.0f;
    for (u32 block = 0; block < gridDim.x; ++block) sum += values[1 + block];
    values[0] = sum;
}

// Two levels: pairs of blocks, then all pairs. The last block sees most writes only through the last blocks of other
// pairs.
KERNEL(planted_relayed)(float* values, u32* block_counters, u32 missing) {
    __shared__ u32 flag;
    if (threadIdx.x == 5) values[blockIdx.x] = 1.0f;
    if (!is_last_block(block_counters + 1 + blockIdx.x / 2, 2, flag)) return;
    if (missing == FIRST_FENCE) {
        __syncthreads();
        if (threadIdx.x == 0) flag = atomicAdd(block_counters, 1u) + 1 == gridDim.x / 2;
        __syncthreads();
        if (!flag) return;
    } else if (!is_last_block(block_counters, gridDim.x / 2, flag)) {
        return;
    }
    if (threadIdx.x != 7) return;
    float sum = 0.0f;
    for (u32 block = 0; block < gridDim.x; ++block) sum += values[block];
    values[0] = sum;
}
