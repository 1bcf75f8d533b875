// Shared by the emulated cuBLAS and cuBLASLt: results, types, and the functions of the emulated device.
#pragma once

#include <cstdlib>
#include <functional>
#include <vector>

#include "cuda_types.h"
#include "gemm.h"

using emulator::Gemm;
using emulator::Rounding;
using emulator::Type;

using Addresses = std::vector<uintptr_t>;

extern "C" CUresult cuda_emulator_enqueue(CUstream, const char*, const std::function<CUresult()>*, const Addresses*,
                                          const Addresses*);
extern "C" bool cuda_emulator_range(const void*, size_t);
extern "C" CUresult cuda_emulator_refuse_during_capture();
extern "C" CUresult cuda_emulator_synchronize(CUcontext);
extern "C" CUresult cuCtxGetCurrent(CUcontext*);

enum Status : unsigned {
    SUCCESS = 0,
    NOT_INITIALIZED = 1,
    ALLOC_FAILED = 3,
    INVALID_VALUE = 7,
    EXECUTION_FAILED = 13,
    NOT_SUPPORTED = 15
};

#define BLAS_API extern "C" __attribute__((visibility("default"))) Status

constexpr int TF32_MATH = 3;
constexpr int COMPUTE_32F = 68, COMPUTE_32F_PEDANTIC = 69, COMPUTE_FAST_16F = 74, COMPUTE_FAST_16BF = 75,
              COMPUTE_FAST_TF32 = 77;

inline bool type_of(int cuda_type, Type* type) {
    switch (cuda_type) {
        case 0:
            *type = Type::f32;
            return true;
        case 2:
            *type = Type::f16;
            return true;
        case 14:
            *type = Type::bf16;
            return true;
        default:
            return false;
    }
}

inline size_t size_of(Type type) { return type == Type::f32 ? 4 : 2; }

// Sets how the operands are rounded; false if the compute type is not supported. A library may choose not to use tensor
// cores when they are allowed; here it does not use them for small products.
inline bool choose_rounding(int compute, int math_mode, Gemm* g) {
    const bool f32 = g->ab_type == Type::f32, small = g->m < 16 || g->n < 16 || g->k < 16;
    const auto fast = [&](Rounding rounding) {
        g->rounding = small ? Rounding::none : rounding;
        return f32;
    };
    g->rounding = Rounding::none;
    switch (compute) {
        case COMPUTE_32F:
            return f32 && math_mode == TF32_MATH ? fast(Rounding::tf32) : true;
        case COMPUTE_32F_PEDANTIC:
            return true;
        case COMPUTE_FAST_TF32:
            return fast(Rounding::tf32);
        case COMPUTE_FAST_16F:
            return fast(Rounding::f16);
        case COMPUTE_FAST_16BF:
            return fast(Rounding::bf16);
        default:
            return false;
    }
}

// Bytes from the first to the last element of `count` matrices [rows][columns], column-major, `stride` elements apart.
inline size_t extent(long rows, long columns, long ld, long long stride, int count, Type type) {
    if (rows == 0 || columns == 0 || count == 0) return 0;
    return static_cast<size_t>((count - 1) * stride + (columns - 1) * ld + rows) * size_of(type);
}

// The status that environment variable `name` makes a call return; SUCCESS if it is not set.
inline Status injected_status(const char* name) {
    const char* text = getenv(name);
    return text && *text ? static_cast<Status>(atoi(text)) : SUCCESS;
}
