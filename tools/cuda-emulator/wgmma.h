// Products of a warpgroup (wgmma): their operands in shared memory, and the arithmetic. products.cpp decides when they
// are computed.
#pragma once

#include <cstdint>

#include "number.h"

namespace emulator {

struct Place;

namespace wgmma {

constexpr unsigned THREADS = 128, ROWS = 64, LANES = 32, WARP_ROWS = 16, MOST_COLS = 256, OPERAND_BYTES = 32;

// An operand in shared memory with the 128-byte swizzle; distances in bytes. A line is a row of the left operand or a
// column of the right one.
struct Operand {
    uint32_t start, leading, stride;
    bool major_lines;  // Contiguous along lines instead of along k.

    bool operator==(const Operand& other) const {
        return start == other.start && leading == other.leading && stride == other.stride &&
               major_lines == other.major_lines;
    }
    // An operand of `lines` lines consists of 2 · lines chunks of 16 bytes. If it is contiguous along k, chunk i is half
    // i % 2 of line i / 2. If not, it is lines 8 (i / 16) to 8 (i / 16) + 7 of k = i % 16.
    uint32_t chunk(unsigned i) const {
        const uint32_t line = major_lines ? i / 16 * 8 : i / 2, k = i % 16;
        const uint32_t address = major_lines
                                     ? start + line / 64 * leading + k / 8 * stride + k % 8 * 128 + line % 64 * 2
                                     : start + line / 8 * stride + line % 8 * 128 + i % 2 * 16;
        return address ^ (address >> 7 & 7) << 4;
    }
};

// Decodes a descriptor; fails if it is not one of the supported kind.
Operand decode(uint64_t descriptor, bool major_lines, const Place& place);

struct Product {
    Number number;
    unsigned cols;
    Operand a, b;
    const unsigned* const*
        registers;  // Each thread's four registers of the left operand; null if it is in shared memory.
};

// sums [64][cols] += a · b, with fp32 sums along k.
void multiply(const Product& product, float* sums, const Place& place);

// The element of the tile [64][cols] that a thread's register `i` is.
inline unsigned element(unsigned thread, unsigned i, unsigned cols) {
    const unsigned row = thread / LANES * WARP_ROWS + thread % LANES / 4 + i % 4 / 2 * 8;
    return row * cols + i / 4 * 8 + thread % 4 * 2 + i % 2;
}

}  // namespace wgmma
}  // namespace emulator
