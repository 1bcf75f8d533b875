// CUDA C++ on the host: the keywords, types and functions that kernels/*.cu need to compile as plain C++.
//
// Qualifiers expand to nothing. The built-in variables are globals that the block scheduler sets, because one thread
// runs at a time. Operations that synchronise threads call the scheduler. The shared variables of a kernel file are in
// one section, so that they can be poisoned before every block; they must be declared in a kernel, not in a template.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "number.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)
#define EMULATOR_TEXT(name) EMULATOR_TEXT_OF(name)
#define EMULATOR_TEXT_OF(name) #name
#define __shared__ static __attribute__((section(EMULATOR_TEXT(EMULATOR_SHARED))))
#define __constant__ static

struct uint3 {
    unsigned x, y, z;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

extern uint3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

enum class WarpOp {
    sync,
    shuffle_from,
    shuffle_down,
    shuffle_up,
    shuffle_xor,
    ballot,
    reduce_min,
    reduce_max,
    mma,
    matrices
};

void* emulator_dynamic_shared();
void emulator_barrier(const char* file, int line);
uint64_t emulator_warp(WarpOp op, unsigned mask, uint64_t value, unsigned argument, unsigned width, const char* file,
                       int line);

void emulator_wait_for_previous_kernel();  // griddepcontrol.wait; nothing in a module for a target before sm_90.

#define __syncthreads() emulator_barrier(__FILE__, __LINE__)
#define __syncwarp(...) emulator_syncwarp(__FILE__, __LINE__, ##__VA_ARGS__)
#define __ballot_sync(mask, predicate) emulator_ballot(mask, (predicate) != 0, __FILE__, __LINE__)
#define __any_sync(mask, predicate) (__ballot_sync(mask, predicate) != 0)
#define __all_sync(mask, predicate) (__ballot_sync(mask, !(predicate)) == 0)
#define __shfl_sync(mask, value, ...) \
    emulator_shuffle(WarpOp::shuffle_from, __FILE__, __LINE__, mask, value, __VA_ARGS__)
#define __shfl_down_sync(mask, value, ...) \
    emulator_shuffle(WarpOp::shuffle_down, __FILE__, __LINE__, mask, value, __VA_ARGS__)
#define __shfl_up_sync(mask, value, ...) \
    emulator_shuffle(WarpOp::shuffle_up, __FILE__, __LINE__, mask, value, __VA_ARGS__)
#define __shfl_xor_sync(mask, value, ...) \
    emulator_shuffle(WarpOp::shuffle_xor, __FILE__, __LINE__, mask, value, __VA_ARGS__)

#define __reduce_min_sync(mask, value) emulator_reduce(WarpOp::reduce_min, mask, value, __FILE__, __LINE__)
#define __reduce_max_sync(mask, value) emulator_reduce(WarpOp::reduce_max, mask, value, __FILE__, __LINE__)

inline void emulator_syncwarp(const char* file, int line, unsigned mask = ~0u) {
    emulator_warp(WarpOp::sync, mask, 0, 0, 32, file, line);
}

inline unsigned emulator_ballot(unsigned mask, bool predicate, const char* file, int line) {
    return static_cast<unsigned>(emulator_warp(WarpOp::ballot, mask, predicate, 0, 32, file, line));
}

// redux.sync, for unsigned numbers.
unsigned emulator_reduce(WarpOp op, unsigned mask, unsigned value, const char* file, int line);

template <class T>
T emulator_shuffle(WarpOp op, const char* file, int line, unsigned mask, T value, unsigned argument,
                   unsigned width = 32) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = emulator_warp(op, mask, bits, argument, width, file, line);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

// One lane's operands of `rows` × `cols` tensor-core products, whose registers are consecutive. Each product has
// `groups` groups of four words along k; a word is a TF32 number or two 16-bit numbers.
struct MmaCall {
    Number number;
    unsigned groups, rows, cols;
    float* d;
    const unsigned *a, *b;
};

inline void emulator_mma(Number number, unsigned groups, unsigned rows, unsigned cols, float* d, const unsigned* a,
                         const unsigned* b, const char* file, int line) {
    const MmaCall call{number, groups, rows, cols, d, a, b};
    emulator_warp(WarpOp::mma, ~0u, reinterpret_cast<uint64_t>(&call), 0, 32, file, line);
}

// Rounds to the nearest number with 10 bits of mantissa, ties away from zero, as cvt.rna.tf32.f32 does.
inline unsigned emulator_round_to_tf32(unsigned bits) {
    if ((bits & 0x7f800000) == 0x7f800000) return bits & 0x7fffff ? 0x7fffffff : bits;
    return (bits + 0x1000) & ~0x1fffu;
}

// Notify the race detector before an atomic or a fence.
void emulator_atomic(const void* to, size_t bytes, const void* pc);
void emulator_fence();
#define EMULATOR_ATOMIC \
    template <class T>  \
    __attribute__((noinline, no_sanitize("thread")))

// Device threads run one at a time, so atomics need no lock.
EMULATOR_ATOMIC T atomicAdd(T* to, T value) {
    emulator_atomic(to, sizeof(T), __builtin_return_address(0));
    const T old = *to;
    *to = old + value;
    return old;
}
EMULATOR_ATOMIC T atomicMax(T* to, T value) {
    emulator_atomic(to, sizeof(T), __builtin_return_address(0));
    const T old = *to;
    if (value > old) *to = value;
    return old;
}
EMULATOR_ATOMIC T atomicExch(T* to, T value) {
    emulator_atomic(to, sizeof(T), __builtin_return_address(0));
    const T old = *to;
    *to = value;
    return old;
}
EMULATOR_ATOMIC T atomicCAS(T* to, T expected, T value) {
    emulator_atomic(to, sizeof(T), __builtin_return_address(0));
    const T old = *to;
    if (old == expected) *to = value;
    return old;
}
inline void __threadfence() { emulator_fence(); }
inline void __threadfence_block() {}

template <class T>
T __ldg(const T* from) {
    return *from;
}

template <class T>
T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
    return a < b ? b : a;
}

inline float __int_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline float __uint_as_float(unsigned bits) { return __int_as_float(bits); }
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
inline int __float_as_int(float value) { return static_cast<int>(__float_as_uint(value)); }
// Volatile, so that the compiler does not fuse a product with a sum.
inline float __fmul_rn(float a, float b) {
    const volatile float product = a * b;
    return product;
}
inline double __dmul_rn(double a, double b) {
    const volatile double product = a * b;
    return product;
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float value) { return 1.0f / value; }
#define __expf(value) expf(value)
#define __logf(value) logf(value)

inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }

#include "cuda_async.h"
#include "half_conversion.h"
