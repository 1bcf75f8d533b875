// What the tensor-core instructions share: conversion of their operands, and blocks of products that a compiler can
// vectorise.
#pragma once

#include <cstdint>
#include <cstring>

#include "half_conversion.h"
#include "number.h"

namespace emulator {

typedef float Vector __attribute__((vector_size(32)));
typedef float VectorInMemory __attribute__((vector_size(32), aligned(4), may_alias));
constexpr unsigned VECTOR_WIDTH = sizeof(Vector) / sizeof(float);

// A half as a float. Unlike emulator_half_to_float it has no branches, so that loops of it are vectorised.
inline float widen_half(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
    const uint32_t infinite = bits >= 0x0f800000 ? 0x7f800000 : 0, sign = static_cast<uint32_t>(half & 0x8000) << 16;
    // Moves the exponent to a float's bias: exact, for subnormals too.
    return emulator_from_bits(emulator_bits_of(emulator_from_bits(bits) * 0x1p112f) | infinite | sign);
}

// A 16-bit number as a float.
inline float widen(Number number, uint16_t bits) {
    return number == Number::bf16 ? emulator_bfloat16_to_float(bits) : widen_half(bits);
}

// A TF32 number; its low 13 bits are ignored.
inline float tf32_number(uint32_t word) { return emulator_from_bits(word & ~0x1fffu); }

// sums[row][col] += Σ a[k][row] · b[k][col] for four rows and VECTOR_WIDTH · VECTORS columns; each is an array of rows
// of the given length.
template <unsigned VECTORS>
inline void multiply_block(unsigned depth, const float* a, unsigned a_length, const float* b, unsigned b_length,
                           float* sums, unsigned sums_length) {
    constexpr unsigned HEIGHT = 4;
    Vector block[HEIGHT][VECTORS] = {};
    for (unsigned k = 0; k < depth; ++k) {
        const VectorInMemory* const right = reinterpret_cast<const VectorInMemory*>(b + k * b_length);
        for (unsigned row = 0; row < HEIGHT; ++row) {
            for (unsigned i = 0; i < VECTORS; ++i) block[row][i] += a[k * a_length + row] * right[i];
        }
    }
    for (unsigned row = 0; row < HEIGHT; ++row) {
        VectorInMemory* const to = reinterpret_cast<VectorInMemory*>(sums + row * sums_length);
        for (unsigned i = 0; i < VECTORS; ++i) to[i] += block[row][i];
    }
}

// The same for any number of rows divisible by four and of columns divisible by VECTOR_WIDTH.
inline void multiply_tile(unsigned rows, unsigned cols, unsigned depth, const float* a, unsigned a_length,
                          const float* b, unsigned b_length, float* sums, unsigned sums_length) {
    for (unsigned row = 0; row < rows; row += 4) {
        float* const to = sums + row * sums_length;
        unsigned col = 0;
        for (; col + 2 * VECTOR_WIDTH <= cols; col += 2 * VECTOR_WIDTH) {
            multiply_block<2>(depth, a + row, a_length, b + col, b_length, to + col, sums_length);
        }
        if (col < cols) multiply_block<1>(depth, a + row, a_length, b + col, b_length, to + col, sums_length);
    }
}

}  // namespace emulator
