// Matrix products of a warpgroup (wgmma, compute_90a) on operands in shared memory, as inline PTX.
//
// d[64][COLS] += a[64][K] · b[K][COLS], where K is 32 bytes: 16 numbers of 16 bits or 8 TF32 numbers. The 128 threads of a warpgroup
// take part. Warp w has rows 16w to 16w + 15, each in the layout of mma.cuh: with g = lane / 4 and t = lane % 4, d[4j]
// and d[4j + 1] are columns 8j + 2t and 8j + 2t + 1 of row g, d[4j + 2] and d[4j + 3] the same columns of row g + 8.
//
// A product is asynchronous: until it has been waited for, neither its accumulators nor its operands may be touched,
// except that another product may add to the same accumulators.
#pragma once

#include "async.cuh"

// An operand in shared memory with the 128-byte swizzle: 16-byte chunk c of a row of 128 bytes is stored at chunk
// c ^ (address / 128 % 8). If its lines (rows of a, columns of b) are contiguous along k, `group` is the distance of
// groups of eight lines in bytes, and `panel` is unused. If it is contiguous along lines (MAJOR_LINES below), `panel` is
// the distance of panels of 64 lines, and `group` the distance of groups of eight k.
__device__ __forceinline__ u64 operand_descriptor(u32 address, u32 panel, u32 group) {
    return (u64)(address >> 4 & 0x3fff) | (u64)(panel >> 4) << 16 | (u64)(group >> 4) << 32 | 1ull << 62;
}

// The type of 16-bit operands.
#ifdef REAL_BF16
#define WGMMA_TYPE bf16
#else
#define WGMMA_TYPE f16
#endif

#ifdef CNN_CUDA_EMULATOR
__device__ __forceinline__ void wgmma_fence(EMULATOR_CALLER) { emulator_wgmma_fence(file, line); }
__device__ __forceinline__ void wgmma_commit(EMULATOR_CALLER) { emulator_wgmma_commit(file, line); }
template <u32 PENDING>
__device__ __forceinline__ void wgmma_wait(EMULATOR_CALLER) {
    emulator_wgmma_wait(PENDING, file, line);
}
__device__ __forceinline__ void fence_async_proxy() { emulator_fence_async_proxy(); }
template <u32 N>
__device__ __forceinline__ void hold_registers(float (&)[N]) {}

template <bool TF32, bool LEFT_MAJOR_LINES, bool RIGHT_MAJOR_LINES, u32 N>
__device__ __forceinline__ void wgmma(float (&d)[N], u64 a, u64 b, EMULATOR_CALLER) {
    constexpr Number NUMBER = TF32 ? Number::tf32 : Number::WGMMA_TYPE;
    emulator_wgmma(WgmmaCall{NUMBER, LEFT_MAJOR_LINES, RIGHT_MAJOR_LINES, 2 * N, d, nullptr, a, b}, file, line);
}
template <bool TF32, bool RIGHT_MAJOR_LINES, u32 N>
__device__ __forceinline__ void wgmma(float (&d)[N], const u32 (&a)[4], u64 b, EMULATOR_CALLER) {
    constexpr Number NUMBER = TF32 ? Number::tf32 : Number::WGMMA_TYPE;
    emulator_wgmma(WgmmaCall{NUMBER, false, RIGHT_MAJOR_LINES, 2 * N, d, a, 0, b}, file, line);
}
#else
// Orders accesses of registers before the next product: required before the first product of a group, and whenever a
// register that it uses was written.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Makes the warpgroup's products since the last commit a group.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most PENDING of the latest groups are unfinished.
template <u32 PENDING>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Makes the thread's writes to shared memory, finished copies included, visible to products after the next barrier.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Keeps the compiler from moving accesses of accumulators across this point.
template <u32 N>
__device__ __forceinline__ void hold_registers(float (&d)[N]) {
    unroll<N>([&](u32 i) { asm volatile("" : "+f"(d[i])::"memory"); });
}

// The operand numbers of N accumulators in the text of an instruction, and the accumulators.
#define TEXT_10(tens)                                                                                                 \
    "%" #tens "0, %" #tens "1, %" #tens "2, %" #tens "3, %" #tens "4, %" #tens "5, %" #tens "6, %" #tens "7, %" #tens \
    "8, %" #tens "9, "
#define TEXT_50(a, b, c, d, e) TEXT_10(a) TEXT_10(b) TEXT_10(c) TEXT_10(d) TEXT_10(e)
#define TEXT_16 TEXT_10() "%10, %11, %12, %13, %14, %15"
#define TEXT_32 TEXT_10() TEXT_10(1) TEXT_10(2) "%30, %31"
#define TEXT_64 TEXT_10() TEXT_50(1, 2, 3, 4, 5) "%60, %61, %62, %63"
#define TEXT_128 \
    TEXT_10()    \
    TEXT_50(1, 2, 3, 4, 5) TEXT_50(6, 7, 8, 9, 10) TEXT_10(11) "%120, %121, %122, %123, %124, %125, %126, %127"
#define SUMS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SUMS_16(i) SUMS_4(i), SUMS_4(i + 4), SUMS_4(i + 8), SUMS_4(i + 12)
#define SUMS_32(i) SUMS_16(i), SUMS_16(i + 16)
#define SUMS_64(i) SUMS_32(i), SUMS_32(i + 32)
#define SUMS_128(i) SUMS_64(i), SUMS_64(i + 64)

#define WGMMA_TYPES(type) WGMMA_TYPES_OF(type)
#define WGMMA_TYPES_OF(type) #type "." #type

// One instruction for each number type; p0, p1, ... are the numbers of the operands after the accumulators.
#define WGMMA_SHARED(n, cols, p0, p1, p2, p3)                                                                     \
    if constexpr (TF32) {                                                                                         \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #cols "k8.f32.tf32.tf32 {" TEXT_##n "}, %" #p0 ", %" #p1 \
                                                                                             ", 1, 1, 1;"         \
                     : SUMS_##n(0)                                                                                \
                     : "l"(a), "l"(b));                                                                           \
    } else {                                                                                                      \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #cols "k16.f32." WGMMA_TYPES(WGMMA_TYPE) " {" TEXT_##n   \
                     "}, %" #p0 ", %" #p1 ", 1, 1, 1, %" #p2 ", %" #p3 ";"                                        \
                     : SUMS_##n(0)                                                                                \
                     : "l"(a), "l"(b), "n"((int)LEFT_MAJOR_LINES), "n"((int)RIGHT_MAJOR_LINES));                  \
    }
#define WGMMA_REGISTERS(n, cols, p0, p1, p2, p3, p4, p5)                                                        \
    if constexpr (TF32) {                                                                                       \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #cols "k8.f32.tf32.tf32 {" TEXT_##n                    \
                     "}, {%" #p0 ", %" #p1 ", %" #p2 ", %" #p3 "}, %" #p4 ", 1, 1, 1;"                          \
                     : SUMS_##n(0)                                                                              \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                     \
    } else {                                                                                                    \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #cols "k16.f32." WGMMA_TYPES(WGMMA_TYPE) " {" TEXT_##n \
                     "}, {%" #p0 ", %" #p1 ", %" #p2 ", %" #p3 "}, %" #p4 ", 1, 1, 1, %" #p5 ";"                \
                     : SUMS_##n(0)                                                                              \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int)RIGHT_MAJOR_LINES));        \
    }

template <u32 N>
constexpr bool HAS_WGMMA = N == 16 || N == 32 || N == 64 || N == 128;

// d += a · b with both operands in shared memory, by their descriptors. TF32 operands must be contiguous along k.
template <bool TF32, bool LEFT_MAJOR_LINES, bool RIGHT_MAJOR_LINES, u32 N>
__device__ __forceinline__ void wgmma(float (&d)[N], u64 a, u64 b) {
    static_assert(HAS_WGMMA<N> && !(TF32 && (LEFT_MAJOR_LINES || RIGHT_MAJOR_LINES)), "there is no such instruction");
    if constexpr (N == 16) {
        WGMMA_SHARED(16, 32, 16, 17, 18, 19)
    } else if constexpr (N == 32) {
        WGMMA_SHARED(32, 64, 32, 33, 34, 35)
    } else if constexpr (N == 64) {
        WGMMA_SHARED(64, 128, 64, 65, 66, 67)
    } else {
        WGMMA_SHARED(128, 256, 128, 129, 130, 131)
    }
}

// d += a · b with a in registers: with the layout of mma.cuh, a[0] to a[3] are the warp's rows.
template <bool TF32, bool RIGHT_MAJOR_LINES, u32 N>
__device__ __forceinline__ void wgmma(float (&d)[N], const u32 (&a)[4], u64 b) {
    static_assert(HAS_WGMMA<N> && !(TF32 && RIGHT_MAJOR_LINES), "there is no such instruction");
    if constexpr (N == 16) {
        WGMMA_REGISTERS(16, 32, 16, 17, 18, 19, 20, 21)
    } else if constexpr (N == 32) {
        WGMMA_REGISTERS(32, 64, 32, 33, 34, 35, 36, 37)
    } else if constexpr (N == 64) {
        WGMMA_REGISTERS(64, 128, 64, 65, 66, 67, 68, 69)
    } else {
        WGMMA_REGISTERS(128, 256, 128, 129, 130, 131, 132, 133)
    }
}
#endif
