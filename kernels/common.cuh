// What every kernel shares: the storage type, the KERNEL macro, 16-byte access, and safe index arithmetic.
//
// A file is compiled once per storage type: `real` is float, or a 16-bit half with -DREAL_F16. Arithmetic is fp32
// either way. Buffers start on 16-byte boundaries: the vector access relies on it.
#pragma once

#ifdef CNN_CUDA_EMULATOR
#include "cuda_device.h"
#endif

#include "half.cuh"

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
static_assert(sizeof(u32) == 4 && sizeof(u64) == 8, "sizes are shared with Rust");

// Threads of a block, for every kernel. The launchers use the same number.
constexpr u32 BLOCK = 256;
constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

// Defines a kernel under its name and a suffix for the storage type; with -DENGINE_TENSOR, which compiles the implicit products
// for newer tensor cores, also one for that. Its registers leave room for two blocks on a multiprocessor.
//
// A kernel takes one struct by value, which the launcher in src/cuda mirrors: pointers first (POINTERS of them, and of those
// first READS that are only read), then u64, then 4-byte fields, filled up to a multiple of 8 bytes. Where a pointer is to less
// than the storage type, SMALLEST says how much; the emulator's checks read all three.
#ifdef REAL_F16
typedef half real;
#define STORAGE_NAME(name) name##_f16
#else
typedef float real;
#define STORAGE_NAME(name) name##_f32
#endif
#ifdef ENGINE_TENSOR
#define KERNEL_NAME(name) STORAGE_NAME(name##_tensor)
#else
#define KERNEL_NAME(name) STORAGE_NAME(name)
#endif
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(BLOCK, 2) KERNEL_NAME(name)

// A block's dynamic shared memory, as an array named `name`.
#ifdef CNN_CUDA_EMULATOR
#define DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(emulator_dynamic_shared())
#else
#define DYNAMIC_SHARED(type, name)                                  \
    extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    type* name = reinterpret_cast<type*>(dynamic_shared)
#endif

// Every element `i` below `count`, spread over the whole grid; any grid covers any count.
#define GRID_STRIDE(i, count)                                                 \
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (count);      \
         i += (u64)gridDim.x * blockDim.x)

__device__ __forceinline__ float load(float value) { return value; }
__device__ __forceinline__ float load(half value) { return half_to_float(value); }
__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ void store(half* to, float value) { *to = float_to_half(value); }

// Elements in 16 bytes: 4 floats or 8 halves.
constexpr u32 VEC = 16 / sizeof(real);

union Vec {
    uint4 bytes;
    real lane[VEC];
};
static_assert(sizeof(Vec) == 16, "one vector access is 16 bytes");

__device__ __forceinline__ Vec load_vec(const real* from) {
    Vec vec;
    vec.bytes = *reinterpret_cast<const uint4*>(from);
    return vec;
}

__device__ __forceinline__ void store_vec(real* to, const Vec& vec) { *reinterpret_cast<uint4*>(to) = vec.bytes; }

// One element or a vector of them, as floats.
__device__ __forceinline__ void load_lanes(float (&values)[1], const real* from) { values[0] = load(*from); }
__device__ __forceinline__ void store_lanes(real* to, const float (&values)[1]) { store(to, values[0]); }

__device__ __forceinline__ void load_lanes(float (&values)[VEC], const real* from) {
    const Vec vec = load_vec(from);
#pragma unroll
    for (u32 lane = 0; lane < VEC; ++lane) values[lane] = load(vec.lane[lane]);
}

__device__ __forceinline__ void store_lanes(real* to, const float (&values)[VEC]) {
    Vec vec;
#pragma unroll
    for (u32 lane = 0; lane < VEC; ++lane) store(&vec.lane[lane], values[lane]);
    store_vec(to, vec);
}

// The same of memory that nothing writes while the kernel runs: by the non-coherent path, and free to move past stores. (That
// a pointer in a struct of parameters is __restrict__ is seldom understood.)
__device__ __forceinline__ float read(const float* from) { return __ldg(from); }
__device__ __forceinline__ float read(const half* from) { return half_to_float(half{__ldg(&from->bits)}); }
__device__ __forceinline__ void read_lanes(float (&values)[1], const real* from) { values[0] = read(from); }

__device__ __forceinline__ void read_lanes(float (&values)[VEC], const real* from) {
    Vec vec;
    vec.bytes = __ldg(reinterpret_cast<const uint4*>(from));
#pragma unroll
    for (u32 lane = 0; lane < VEC; ++lane) values[lane] = load(vec.lane[lane]);
}

// `VEC` elements from `first` on, as floats; past `count`, zeros.
__device__ __forceinline__ void load_some(float (&values)[VEC], const real* from, u64 first, u64 count) {
    if (first + VEC <= count) {
        load_lanes(values, from + first);
    } else {
#pragma unroll
        for (u32 lane = 0; lane < VEC; ++lane) values[lane] = first + lane < count ? load(from[first + lane]) : 0.0f;
    }
}

__device__ __forceinline__ void store_some(real* to, const float (&values)[VEC], u64 first, u64 count) {
    if (first + VEC <= count) {
        store_lanes(to + first, values);
    } else {
#pragma unroll
        for (u32 lane = 0; lane < VEC; ++lane) {
            if (first + lane < count) store(to + first + lane, values[lane]);
        }
    }
}

// Divides `value` by `divisor` in place and returns the remainder. 64-bit division is several times slower than
// 32-bit on a GPU, and almost every index is small.
__device__ __forceinline__ u32 take_digit(u64& value, u32 divisor) {
    if (value >> 32 == 0) {
        const u32 small = (u32)value;
        const u32 quotient = small / divisor;
        value = quotient;
        return small - quotient * divisor;
    }
    const u64 quotient = value / divisor;
    const u32 digit = (u32)(value - quotient * divisor);
    value = quotient;
    return digit;
}

// The activation named by its slope below zero: 1 is none, 0 is ReLU, −1 is tanh, else leaky ReLU. ReLU gives +0 for
// everything negative, −∞ included, and passes NaN on, as PyTorch's does.
__device__ __forceinline__ float activate(float value, float slope) {
    if (slope < 0.0f) return tanhf(value);
    if (value > 0.0f || slope == 1.0f) return value;
    if (slope == 0.0f) return value != value ? value : 0.0f;
    return slope * value;
}

// The gradient before the activation, told by its output.
__device__ __forceinline__ float activate_backward(float output, float d_output, float slope) {
    if (slope < 0.0f) return d_output * (1.0f - output * output);
    if (output > 0.0f || slope == 1.0f) return d_output;
    return slope == 0.0f ? 0.0f : slope * d_output;
}

__device__ __forceinline__ bool is_finite(float value) { return value - value == 0.0f; }
