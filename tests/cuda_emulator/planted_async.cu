// Kernels for the emulator's own tests: asynchronous copies and loads of matrix fragments, right and with faults.
#include "async.cuh"

// Unlike kernels/, these kernels take plain arguments instead of one parameter struct.
#undef KERNEL
#define KERNEL(name) extern "C" __global__ void KERNEL_NAME(name)

// Copies `count` words, in steps of BLOCK · 16 bytes, through two slots of shared memory. Each thread passes on the
// 16 bytes that its neighbour copied. Copies past the end are zeros.
template <u32 BYTES>
static __device__ void copy_through_shared(const u32* from, u32* to, u32 count, u32 steps) {
    DYNAMIC_SHARED(u32, slots);
    const u32 start = shared_address(slots), mine = threadIdx.x * 4, neighbour = (threadIdx.x + 1) % BLOCK * 4;
    const auto issue = [&](u32 step) {
        for (u32 word = 0; word < 4; word += BYTES / 4) {
            const u32 index = step * BLOCK * 4 + mine + word;
            copy_async<BYTES>(start + (step % 2 * BLOCK * 4 + mine + word) * 4, from + index, index < count);
        }
        commit_copies();
    };
    issue(0);
    for (u32 step = 0; step < steps; ++step) {
        if (step + 1 < steps) {
            issue(step + 1);
            wait_copies<1>();
        } else {
            wait_copies<0>();
        }
        __syncthreads();
        for (u32 word = 0; word < 4; ++word) {
            const u32 slot = step % 2 * BLOCK * 4 + neighbour + word;
            to[step * BLOCK * 4 + mine + word] = word % 2 ? slots[slot] : load_shared(start + slot * 4);
        }
        __syncthreads();
    }
}

KERNEL(planted_copy_16)(const u32* from, u32* to, u32 count, u32 steps) {
    copy_through_shared<16>(from, to, count, steps);
}
KERNEL(planted_copy_8)(const u32* from, u32* to, u32 count, u32 steps) {
    copy_through_shared<8>(from, to, count, steps);
}
KERNEL(planted_copy_4)(const u32* from, u32* to, u32 count, u32 steps) {
    copy_through_shared<4>(from, to, count, steps);
}

// Loads four 8×8 matrices, rows of 4 words, with and without transposition: to[lane][form][matrix].
KERNEL(planted_matrices)(const u32* from, u32* to) {
    DYNAMIC_SHARED(u32, words);
    const u32 start = shared_address(words), lane = threadIdx.x % WARP;
    for (u32 i = 0; i < 4; ++i) store_shared(start + (lane * 4 + i) * 4, from[lane * 4 + i]);
    __syncwarp();
    u32 loaded[4], transposed[4];
    load_matrices<false>(loaded, start + lane * 16);
    load_matrices<true>(transposed, start + lane * 16);
    for (u32 i = 0; i < 4; ++i) {
        to[lane * 8 + i] = loaded[i];
        to[lane * 8 + 4 + i] = transposed[i];
    }
}

KERNEL(planted_shared_address)(u32* to) {
    DYNAMIC_SHARED(u8, memory);
    if (threadIdx.x == 0) *to = shared_address(memory);
}

KERNEL(planted_reductions)(const u32* from, u32* to) {
    const u32 value = from[threadIdx.x];
    to[threadIdx.x * 3] = __reduce_max_sync(ALL_LANES, value);
    to[threadIdx.x * 3 + 1] = __reduce_min_sync(ALL_LANES, value);
    to[threadIdx.x * 3 + 2] = __umulhi(value, 0x90000001u);
}

// What planted_copy_fault does wrong.
enum CopyFault : u32 {
    NO_COPY_FAULT,
    NO_WAIT,
    NO_WAIT_PLAIN,
    NO_BARRIER,
    MISALIGNED_TARGET,
    MISALIGNED_SOURCE,
    OUTSIDE_SHARED,
    OUTSIDE_SOURCE,
    TARGET_WRITTEN,
    UNFINISHED,
    REFILLED_EARLY,
    WAITED_LATE,
};

// to[i] = from[4 (i + 1)], copied by the thread's neighbour to a slot of shared memory that is then filled again.
KERNEL(planted_copy_fault)(const u32* from, u32* to, u32 fault) {
    DYNAMIC_SHARED(u32, slots);
    const u32 start = shared_address(slots), neighbour = (threadIdx.x + 1) % BLOCK * 4;
    u32 slot = start + threadIdx.x * 16;
    const u32* source = from + threadIdx.x * 4;
    if (fault == MISALIGNED_TARGET) slot += 8;
    if (fault == MISALIGNED_SOURCE) source += 1;
    if (fault == OUTSIDE_SHARED) slot += 16;
    if (fault == OUTSIDE_SOURCE) source += BLOCK * 4 + 4;
    copy_async<16>(slot, source, true);
    commit_copies();
    if (fault == TARGET_WRITTEN) store_shared(slot, 1);
    if (fault == UNFINISHED) return;
    if (fault != NO_WAIT && fault != NO_WAIT_PLAIN && fault != WAITED_LATE) wait_copies<0>();
    if (fault != NO_BARRIER) __syncthreads();
    if (fault == WAITED_LATE) {
        wait_copies<0>();
        if (threadIdx.x == 1) to[1] = load_shared(start);
        return;
    }
    const u32 value = fault == NO_WAIT_PLAIN ? slots[neighbour] : load_shared(start + neighbour * 4);
    if (fault == NO_WAIT_PLAIN) wait_copies<0>();
    if (fault != REFILLED_EARLY) __syncthreads();
    copy_async<16>(slot, from + BLOCK * 4, true);
    commit_copies();
    if (fault == REFILLED_EARLY) __syncthreads();
    wait_copies<0>();
    to[threadIdx.x] = value;
}

// What planted_matrices_fault does wrong.
enum MatricesFault : u32 {
    NO_MATRICES_FAULT,
    MISSING_LANE,
    TWO_FORMS,
    MISALIGNED_ROW,
    OUTSIDE_ROW,
    OUTSIDE_WORD,
    STATIC_MEMORY,
    NO_SYNCWARP,
};

KERNEL(planted_matrices_fault)(u32* to, u32 fault) {
    __shared__ u32 elsewhere[4];
    DYNAMIC_SHARED(u32, words);
    const u32 start = shared_address(fault == STATIC_MEMORY ? elsewhere : words), lane = threadIdx.x;
    for (u32 i = 0; i < 4; ++i) store_shared(start + (lane * 4 + i) * 4 + (fault == OUTSIDE_WORD ? 4 : 0), i);
    if (fault != NO_SYNCWARP) __syncwarp();
    u32 row = start + lane * 16;
    if (fault == MISALIGNED_ROW) row += 4;
    if (fault == OUTSIDE_ROW) row += 16;
    u32 loaded[4] = {};
    if (fault == TWO_FORMS && lane % 2) {
        load_matrices<true>(loaded, row);
    } else if (fault != MISSING_LANE || lane != 5) {
        load_matrices<false>(loaded, row);
    }
    to[lane] = loaded[0];
}
