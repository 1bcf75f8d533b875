// 16-bit floats without a CUDA toolkit header: storage, and conversion to and from fp32.
#pragma once

struct half {
    unsigned short bits;
};
// The upper half of a float: its exponent, and seven bits of its mantissa.
struct bfloat16 {
    unsigned short bits;
};
static_assert(sizeof(half) == 2 && sizeof(bfloat16) == 2, "the layout is shared with Rust");

#ifdef CNN_CUDA_EMULATOR
// The emulator's conversions are plain C++ and round to nearest even, as the GPU's instructions do.
__device__ __forceinline__ float to_float(half value) { return emulator_half_to_float(value.bits); }
__device__ __forceinline__ float to_float(bfloat16 value) { return emulator_bfloat16_to_float(value.bits); }
__device__ __forceinline__ void from_float(half* to, float value) { to->bits = emulator_float_to_half(value); }
__device__ __forceinline__ void from_float(bfloat16* to, float value) { to->bits = emulator_float_to_bfloat16(value); }
#else
__device__ __forceinline__ float to_float(half value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
}
__device__ __forceinline__ float to_float(bfloat16 value) {
    float result;
    asm("mov.b32 %0, {%1, %2};" : "=f"(result) : "h"((unsigned short)0), "h"(value.bits));
    return result;
}

__device__ __forceinline__ void from_float(half* to, float value) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(value));
}
__device__ __forceinline__ void from_float(bfloat16* to, float value) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to->bits) : "f"(value));  // compute_80
}
#endif
