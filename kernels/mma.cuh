// Warp-level matrix products on tensor cores: `mma.sync` as inline PTX, and the rounding of operands to TF32.
//
// Registers have the layout that the PTX ISA defines. Let g = lane / 4 and t = lane % 4, and let a word be one TF32
// number or two 16-bit numbers that are consecutive along k. Then a[0] and a[1] are word t of rows g and g + 8; a[2] and
// a[3] are word t + 4 of the same rows; b[0] and b[1] are words t and t + 4 of column g; d[0] and d[1] are columns 2t and
// 2t + 1 of row g; d[2] and d[3] are the same columns of row g + 8.
#pragma once

#include "common.cuh"

// The instructions used: shape, operand type and lowest target. All accumulate in fp32.
enum Mma : u32 {
    MMA_F16_K8,    // m16n8k8, halves: compute_75.
    MMA_F16_K16,   // m16n8k16, halves: compute_80.
    MMA_BF16_K16,  // m16n8k16, bfloat16: compute_80.
    MMA_TF32_K8,   // m16n8k8, TF32: compute_80.
};

// The instruction of compute_80 for the storage type.
#ifdef REAL_BF16
constexpr Mma MMA_REAL = MMA_BF16_K16;
#else
constexpr Mma MMA_REAL = sizeof(real) == 4 ? MMA_TF32_K8 : MMA_F16_K16;
#endif

// The number of groups of four words along k; each group is two registers of `a` and one of `b`.
__host__ __device__ constexpr u32 mma_groups(Mma kind) { return kind == MMA_F16_K8 ? 1 : 2; }

#ifdef CNN_CUDA_EMULATOR
__device__ __forceinline__ u32 round_to_tf32(u32 bits) { return emulator_round_to_tf32(bits); }
#else
__device__ __forceinline__ u32 round_to_tf32(u32 bits) {
    u32 result;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(__uint_as_float(bits)));
    return result;
}

// The instruction of a shape and operand type with two groups of words along k.
#define MMA_OF_TWO_GROUPS(shape, type)                                                  \
    asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type                \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));

template <Mma KIND>
__device__ __forceinline__ void mma_one(float* d, const u32* a, const u32* b) {
    if constexpr (KIND == MMA_F16_K8) {
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(b[0]));
    } else if constexpr (KIND == MMA_F16_K16) {
        MMA_OF_TWO_GROUPS("m16n8k16", "f16")
    } else if constexpr (KIND == MMA_BF16_K16) {
        MMA_OF_TWO_GROUPS("m16n8k16", "bf16")
    } else {
        MMA_OF_TWO_GROUPS("m16n8k8", "tf32")
    }
}
#endif

// d += a · b for ROWS × COLS tiles of 16×8. Tile (i, j) is the product of the i-th set of registers in `a` and the j-th
// set in `b`. All lanes of the warp must take part.
template <Mma KIND, u32 ROWS, u32 COLS>
__device__ __forceinline__ void mma(float (&d)[ROWS * COLS * 4], const u32 (&a)[ROWS * 2 * mma_groups(KIND)],
                                    const u32 (&b)[COLS * mma_groups(KIND)]) {
#ifdef CNN_CUDA_EMULATOR
    const Number number = KIND == MMA_TF32_K8 ? Number::tf32 : KIND == MMA_BF16_K16 ? Number::bf16 : Number::f16;
    emulator_mma(number, mma_groups(KIND), ROWS, COLS, d, a, b, __FILE__, __LINE__);
#else
    unroll<ROWS * COLS>([&](u32 tile) {
        const u32 row = tile / COLS, col = tile % COLS;
        mma_one<KIND>(d + tile * 4, a + row * 2 * mma_groups(KIND), b + col * mma_groups(KIND));
    });
#endif
}
