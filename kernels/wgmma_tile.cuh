// The mainloop of a product by warpgroups (compute_90a): the tensor cores read both operands from shared memory, and
// multiply one stage while the next are copied.
#pragma once

#include "stages.cuh"
#include "wgmma.cuh"

template <u32 DEPTH, u32 LINES, bool TF32>
struct WgmmaLayout {
    typedef Layout<DEPTH, LINES / VEC, true> Type;
};
template <u32 DEPTH, u32 LINES>
struct WgmmaLayout<DEPTH, LINES, true> {
    typedef TransposedLayout<LINES> Type;
};

// A block's tile: WARPGROUPS · DOWN · 64 rows, of which each warpgroup has DOWN · 64 consecutive ones. A stage is 128 bytes
// along k, in the hardware's 128-byte swizzle. TF32 operands are truncated by the instruction, not rounded.
template <u32 WARPGROUPS_, u32 DOWN_, u32 COLS_, u32 STAGES_>
struct WgmmaTile {
    static constexpr u32 WARPGROUPS = WARPGROUPS_, DOWN = DOWN_, COLS = COLS_, STAGES = STAGES_;
    static constexpr u32 ROWS = WARPGROUPS * DOWN * 64, THREADS = WARPGROUPS * 128, DEPTH = 128 / sizeof(real);
    static constexpr u32 ACROSS = COLS / 8, EACH = ACROSS * 4, SUMS = DOWN * EACH;
    static constexpr u32 ALIGNMENT = 1024;  // The period of the swizzle.
    static constexpr bool VECTOR = true;
    static_assert(STAGES >= 4, "a stage is refilled two steps after it was multiplied");

    // A thread's sums: sums[(i · ACROSS + j) · 4 + 2h + e] is at row(i, h), column col(j) + e of the tile.
    static __device__ __forceinline__ u32 row(u32 i, u32 h) {
        return (threadIdx.x / 128 * DOWN + i) * 64 + threadIdx.x / WARP % 4 * 16 + h * 8 + threadIdx.x % WARP / 4;
    }
    static __device__ __forceinline__ u32 col(u32 j) { return j * 8 + threadIdx.x % 4 * 2; }

    // How an operand of LINES lines is stored if it is contiguous along k, and if it is along lines: in panels of 64
    // lines; TF32 numbers transposed, because the instruction reads them along k only.
    static constexpr bool TF32 = sizeof(real) == 4;
    template <u32 LINES>
    using AlongK = Layout<LINES, 8, false>;
    template <u32 LINES>
    using AlongLines = typename WgmmaLayout<DEPTH, LINES, TF32>::Type;

    // The descriptor of 32 bytes along k, number `step` of a stage, of 64 lines and more from `first`.
    template <bool ALONG_K>
    static __device__ __forceinline__ u64 operand(u32 stage, u32 first, u32 step) {
        if constexpr (ALONG_K || TF32) return operand_descriptor(stage + first * 128 + step * 32, 16, 1024);
        return operand_descriptor(stage + first / 64 * (DEPTH * 128) + step * (16 * 128), DEPTH * 128, 1024);
    }

    // sums += the product of `count` steps of DEPTH elements of operands A and B, in stages that start at `shared`.
    template <class LayoutA, bool A_ALONG_K, class LayoutB, bool B_ALONG_K, class A, class B>
    static __device__ __forceinline__ void multiply(float (&sums)[SUMS], u32 shared, A& a, B& b, u32 count) {
        constexpr u32 STAGE = LayoutA::BYTES + LayoutB::BYTES, AHEAD = STAGES - 2;
        static_assert(STAGE % ALIGNMENT == 0 && LayoutA::BYTES % ALIGNMENT == 0,
                      "every operand starts a swizzle period");
        const u32 end = shared + STAGES * STAGE, first_row = threadIdx.x / 128 * DOWN * 64;
        u32 read = shared, write = shared;
        const auto next_stage = [&](u32& stage) { stage = stage + STAGE == end ? shared : stage + STAGE; };
        const auto copy_next = [&](bool more) {
            if (more) a.copy_next(write), b.copy_next(write + LayoutA::BYTES);
            commit_copies();  // An empty group too, so that the number of groups to wait for is constant.
            next_stage(write);
        };
#pragma unroll 1
        for (u32 i = 0; i < AHEAD; ++i) copy_next(i < count);
        hold_registers(sums);
#pragma unroll 1
        for (u32 at = 0; at < count; ++at) {
            wait_copies<AHEAD - 1>();
            fence_async_proxy();
            __syncthreads();
            wgmma_fence();
            unroll<4>([&](u32 step) {
                const u64 right = operand<B_ALONG_K>(read + LayoutA::BYTES, 0, step);
                unroll<DOWN>([&](u32 i) {
                    float (&part)[EACH] = reinterpret_cast<float (&)[EACH]>(sums[i * EACH]);
                    const u64 left = operand<A_ALONG_K>(read, first_row + i * 64, step);
                    wgmma<TF32, !A_ALONG_K && !TF32, !B_ALONG_K && !TF32>(part, left, right);
                });
            });
            wgmma_commit();
            copy_next(at + AHEAD < count);
            next_stage(read);
            wgmma_wait<1>();  // The stage before; the next copies overwrite it.
        }
        wgmma_wait<0>();
        hold_registers(sums);
        wait_copies<0>();
    }
};
