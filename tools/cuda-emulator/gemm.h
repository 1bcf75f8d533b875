// The matrix product of the emulated cuBLAS and cuBLASLt: C = alpha · op(A) · op(B) + beta · C, column-major.
#pragma once

#include <cstdint>

namespace emulator {

enum class Type { f32, f16, bf16 };

// How inputs are rounded before they are multiplied; sums are always fp32.
enum class Rounding { none, tf32, f16, bf16 };

struct Gemm {
    long m, n, k;
    bool transpose_a, transpose_b;
    const void *a, *b;
    void* c;
    long lda, ldb, ldc;
    Type ab_type, c_type;
    Rounding rounding;
    float alpha, beta;
};

// The order of each element's sum does not depend on the number of threads.
void gemm(const Gemm& product);

float load_element(const void* data, Type type, long index);
void store_element(void* data, Type type, long index, float value);

}  // namespace emulator
