// Kernels for the emulator's own tests: products of warpgroups, right and with faults.
#include "wgmma.cuh"

// Unlike kernels/, these kernels take plain arguments instead of one parameter struct.
#undef KERNEL
#define KERNEL(name) extern "C" __global__ void KERNEL_NAME(name)

constexpr u32 ROWS = 64, GROUP = 1024;

// Where element (line, k) of an operand is that starts at `start` and has DEPTH numbers along k, swizzled.
template <bool TF32, bool MAJOR_LINES, u32 DEPTH>
static __device__ u32 place(u32 start, u32 line, u32 k) {
    const u32 along_k = start + line / 8 * GROUP + line % 8 * 128 + k * (TF32 ? 4 : 2);
    const u32 along_lines = start + line / 64 * (DEPTH / 8 * GROUP) + k / 8 * GROUP + k % 8 * 128 + line % 64 * 2;
    const u32 address = MAJOR_LINES ? along_lines : along_k;
    return address ^ (address >> 7 & 7) << 4;
}

// Copies an operand, [line][k] in memory, to shared memory by plain stores.
template <bool TF32, bool MAJOR_LINES, u32 DEPTH>
static __device__ void fill(u8* memory, u32 start, const u8* from, u32 lines) {
    constexpr u32 SIZE = TF32 ? 4 : 2;
    for (u32 i = threadIdx.x; i < lines * DEPTH; i += blockDim.x) {
        const u32 to = place<TF32, MAJOR_LINES, DEPTH>(start, i / DEPTH, i % DEPTH) - shared_address(memory);
        if (TF32) {
            *reinterpret_cast<u32*>(memory + to) = *reinterpret_cast<const u32*>(from + i * SIZE);
        } else {
            *reinterpret_cast<unsigned short*>(memory + to) = *reinterpret_cast<const unsigned short*>(from + i * SIZE);
        }
    }
}

// The descriptor of an operand's step of 32 bytes along k.
template <bool MAJOR_LINES, u32 DEPTH>
static __device__ u64 step_descriptor(u32 start, u32 step) {
    return operand_descriptor(start + step * (MAJOR_LINES ? 2 * GROUP : 32), DEPTH / 8 * GROUP, GROUP);
}

// Each warpgroup computes d [64][2N] += a [64][DEPTH] · b [2N][DEPTH]ᵀ, four products in two groups; warpgroup w's rows
// of `a` and `d` are 64w to 64w + 63.
template <bool TF32, bool LEFT_MAJOR_LINES, bool RIGHT_MAJOR_LINES, bool REGISTERS, u32 N>
static __device__ void multiply(const u8* a, const u8* b, float* d) {
    constexpr u32 DEPTH = TF32 ? 32 : 64, SIZE = TF32 ? 4 : 2, COLS = 2 * N;
    DYNAMIC_SHARED(u8, memory);
    const u32 start = (shared_address(memory) + 1023) / 1024 * 1024, groups = blockDim.x / 128;
    for (u32 group = 0; group < groups; ++group) {
        fill<TF32, LEFT_MAJOR_LINES, DEPTH>(memory, start + group * ROWS * 128, a + group * ROWS * DEPTH * SIZE, ROWS);
    }
    fill<TF32, RIGHT_MAJOR_LINES, DEPTH>(memory, start + groups * ROWS * 128, b, COLS);
    fence_async_proxy();
    __syncthreads();
    const u32 group = threadIdx.x / 128, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 top = warp * 16 + lane / 4, left = start + group * ROWS * 128, right = start + groups * ROWS * 128;
    float sums[N];
    for (u32 i = 0; i < N; ++i) sums[i] = d[(top + i / 2 % 2 * 8) * COLS + i / 4 * 8 + lane % 4 * 2 + i % 2];
    u32 words[4][4];
    for (u32 i = 0; i < 16; ++i) {
        const u32 row = top + i % 2 * 8, word = i / 4 * 8 + lane % 4 + i / 2 % 2 * 4;
        words[i / 4][i % 4] = *reinterpret_cast<const u32*>(a + row * DEPTH * SIZE + word * 4);
    }
    wgmma_fence();
    for (u32 step = 0; step < 4; ++step) {
        const u64 b_step = step_descriptor<RIGHT_MAJOR_LINES, DEPTH>(right, step);
        if constexpr (REGISTERS) {
            wgmma<TF32, RIGHT_MAJOR_LINES>(sums, words[step], b_step);
        } else {
            const u64 a_step = step_descriptor<LEFT_MAJOR_LINES, DEPTH>(left, step);
            wgmma<TF32, LEFT_MAJOR_LINES, RIGHT_MAJOR_LINES>(sums, a_step, b_step);
        }
        if (step % 2 == 1) wgmma_commit();
    }
    wgmma_wait<1>();
    wgmma_wait<0>();
    for (u32 i = 0; i < N; ++i) d[(top + i / 2 % 2 * 8) * COLS + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

KERNEL(planted_wgmma_32)(const u8* a, const u8* b, float* d) { multiply<false, false, false, false, 16>(a, b, d); }
KERNEL(planted_wgmma_64)(const u8* a, const u8* b, float* d) { multiply<false, false, false, false, 32>(a, b, d); }
KERNEL(planted_wgmma_128)(const u8* a, const u8* b, float* d) { multiply<false, false, false, false, 64>(a, b, d); }
KERNEL(planted_wgmma_256)(const u8* a, const u8* b, float* d) { multiply<false, false, false, false, 128>(a, b, d); }
KERNEL(planted_wgmma_left_lines)(const u8* a, const u8* b, float* d) {
    multiply<false, true, false, false, 64>(a, b, d);
}
KERNEL(planted_wgmma_right_lines)(const u8* a, const u8* b, float* d) {
    multiply<false, false, true, false, 128>(a, b, d);
}
KERNEL(planted_wgmma_lines)(const u8* a, const u8* b, float* d) { multiply<false, true, true, false, 64>(a, b, d); }
KERNEL(planted_wgmma_registers)(const u8* a, const u8* b, float* d) {
    multiply<false, false, false, true, 64>(a, b, d);
}
KERNEL(planted_wgmma_registers_lines)(const u8* a, const u8* b, float* d) {
    multiply<false, false, true, true, 32>(a, b, d);
}
KERNEL(planted_wgmma_tf32)(const u8* a, const u8* b, float* d) { multiply<true, false, false, false, 64>(a, b, d); }
KERNEL(planted_wgmma_tf32_registers)(const u8* a, const u8* b, float* d) {
    multiply<true, false, false, true, 16>(a, b, d);
}

// What planted_wgmma_fault does wrong.
enum WgmmaFault : u32 {
    NO_FAULT,
    NO_PROXY_FENCE,
    NO_PROXY_FENCE_COPIES,
    NO_PROXY_FENCE_PLAIN,
    PROXY_FENCE_LAST,
    NO_FENCE,
    NO_SECOND_FENCE,
    READ_EARLY,
    CHANGED_EARLY,
    WRONG_STRIDE,
    NOT_SWIZZLED,
    OTHER_LAYOUT,
    BASE_OFFSET,
    OUTSIDE,
    MISSING_THREAD,
    MISSING_PRODUCT,
    TWO_DESCRIPTORS,
    OVERWRITTEN,
    OVERWRITTEN_BY_COPY,
    REFILLED_EARLY,
    REUSED_REGISTERS,
    UNFINISHED,
    UNCOMMITTED,
    NO_WARPGROUP,
    OVERWRITTEN_AFTER_BARRIER,
    OVERWRITTEN_BEFORE_BARRIER,
};

// Copies 64 or 32 lines of 64 halves to shared memory.
static __device__ void fill_lines(u8* memory, u32 start, const u32* from, u32 lines, u32 fault) {
    for (u32 chunk = threadIdx.x; chunk < lines * 8; chunk += blockDim.x) {
        u32 to = start + chunk * 16;
        if (fault != NOT_SWIZZLED) to ^= (to >> 7 & 7) << 4;
        if (fault == NO_PROXY_FENCE_COPIES) {
            copy_async<16>(to, from + chunk * 4, true);
        } else if (fault == NO_PROXY_FENCE_PLAIN) {
            *reinterpret_cast<uint4*>(memory + (to - shared_address(memory))) =
                *reinterpret_cast<const uint4*>(from + chunk * 4);
        } else {
            for (u32 i = 0; i < 4; ++i) store_shared(to + i * 4, from[chunk * 4 + i]);
        }
    }
    commit_copies();
    wait_copies<0>();
    const bool fenced = fault != NO_PROXY_FENCE && fault != NO_PROXY_FENCE_COPIES && fault != NO_PROXY_FENCE_PLAIN;
    if (fenced && fault != PROXY_FENCE_LAST) fence_async_proxy();
    __syncthreads();
    if (fault == PROXY_FENCE_LAST) fence_async_proxy();
}

// d [64][32] = a [64][16] · b [32][16]ᵀ of the first halves of lines of 64, twice.
KERNEL(planted_wgmma_fault)(const u32* a, const u32* b, float* d, u32 fault) {
    DYNAMIC_SHARED(u8, memory);
    const u32 start = (shared_address(memory) + 1023) / 1024 * 1024, right = start + ROWS * 128;
    fill_lines(memory, start, a, ROWS, fault);
    fill_lines(memory, right, b, 32, fault);
    const u32 outside = fault == OUTSIDE ? 32 * 128 : 0, stride = fault == WRONG_STRIDE ? GROUP / 2 : GROUP;
    const u32 last = threadIdx.x == 127;
    u64 left_descriptor = operand_descriptor(start, 0, stride);
    u64 right_descriptor = operand_descriptor(right + outside, 0, stride);
    if (fault == OTHER_LAYOUT) right_descriptor ^= 3ull << 62;
    if (fault == BASE_OFFSET) right_descriptor |= 1ull << 49;
    if (fault == TWO_DESCRIPTORS && last) left_descriptor += 2;
    if (fault == MISSING_THREAD && last) return;
    float sums[16] = {};
    if (fault != NO_FENCE) wgmma_fence();
    if (fault == REUSED_REGISTERS) {
        const u32 row = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4, word = threadIdx.x % 4;
        u32 words[4];
        for (u32 i = 0; i < 4; ++i) words[i] = a[(row + i % 2 * 8) * 32 + word + i / 2 * 4];
        wgmma<false, false>(sums, words, right_descriptor);
        wgmma<false, false>(sums, words, right_descriptor);
        for (u32 i = 0; i < 4; ++i) words[i] = 0;
        wgmma_commit();
        wgmma_wait<0>();
    } else {
        wgmma<false, false, false>(sums, left_descriptor, right_descriptor);
        if (fault != MISSING_PRODUCT || !last) wgmma<false, false, false>(sums, left_descriptor, right_descriptor);
    }
    if (fault != UNCOMMITTED) wgmma_commit();
    if (fault == OVERWRITTEN) store_shared(start + threadIdx.x * 16, 0);
    if (fault == OVERWRITTEN_BY_COPY) copy_async<16>(start + threadIdx.x * 16, a, true);
    if (fault == OVERWRITTEN_AFTER_BARRIER || fault == OVERWRITTEN_BEFORE_BARRIER) {
        if (fault == OVERWRITTEN_AFTER_BARRIER) __syncthreads();
        store_shared(start + threadIdx.x * 16, 0);
        fence_async_proxy();
        if (fault == OVERWRITTEN_BEFORE_BARRIER) __syncthreads();
    }
    if (fault == CHANGED_EARLY && last) sums[3] += 1.0f;
    const float early = sums[0];
    if (fault == UNFINISHED) return;
    wgmma_wait<0>();
    if (fault == READ_EARLY) sums[0] = early;
    if (fault == NO_SECOND_FENCE) wgmma<false, false, false>(sums, left_descriptor, right_descriptor);
    if (fault != REFILLED_EARLY) __syncthreads();
    store_shared(start + (127 - threadIdx.x) * 16, 0);
    for (u32 i = 0; i < 16; ++i) {
        const u32 row = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4 + i / 2 % 2 * 8;
        d[row * 32 + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2] = sums[i];
    }
}
