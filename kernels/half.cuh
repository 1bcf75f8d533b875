// 16-bit floats without a CUDA toolkit header: storage and the two conversions.
#pragma once

struct half {
    unsigned short bits;
};
static_assert(sizeof(half) == 2, "the layout is shared with Rust");

#ifdef CNN_CUDA_EMULATOR
// The emulator's conversions are plain C++ and round to nearest even, as the GPU's instructions do.
__device__ __forceinline__ float half_to_float(half value) { return emulator_half_to_float(value.bits); }
__device__ __forceinline__ half float_to_half(float value) { return half{emulator_float_to_half(value)}; }
#else
__device__ __forceinline__ float half_to_float(half value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
}

__device__ __forceinline__ half float_to_half(float value) {
    half result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
}
#endif
