// The arithmetic of wgmma: operands in registers or in swizzled shared memory, exact products, and fp32 sums along k.
#include "wgmma.h"

#include <cstring>

#include "cuda_device.h"
#include "emulator.h"
#include "shared.h"
#include "tensor.h"

namespace emulator {
namespace wgmma {
namespace {

constexpr unsigned DEEPEST = 16, CHUNK = 16;

// The numbers of 16 bytes: eight 16-bit ones, or four TF32 numbers, whose low 13 bits are ignored.
inline void unpack(Number number, const char* chunk, float* numbers) {
    if (number == Number::tf32) {
        uint32_t words[4];
        memcpy(words, chunk, CHUNK);
        for (unsigned i = 0; i < 4; ++i) numbers[i] = tf32_number(words[i]);
    } else {
        uint16_t words[8];
        memcpy(words, chunk, CHUNK);
        for (unsigned i = 0; i < 8; ++i) numbers[i] = widen(number, words[i]);
    }
}

// Reads an operand as to[k][line], with rows of `room` numbers.
void read_shared(const Operand& operand, Number number, unsigned lines, float* to, unsigned room, const Place& place) {
    const unsigned per_chunk = number == Number::tf32 ? 4 : 8;
    for (unsigned i = 0; i < 2 * lines; ++i) {
        const char* chunk = shared::at(operand.chunk(i), CHUNK, "a product reads", place);
        if (operand.major_lines) {
            unpack(number, chunk, to + i % 16 * room + i / 16 * 8);
            continue;
        }
        float numbers[8];
        unpack(number, chunk, numbers);
        float* const column = to + i % 2 * per_chunk * room + i / 2;
        for (unsigned k = 0; k < per_chunk; ++k) column[k * room] = numbers[k];
    }
}

// Reads the left operand from registers: a thread's registers 2h and 2h + 1 are word t + 4h of rows g and g + 8.
void read_registers(const unsigned* const* registers, Number number, float (&to)[DEEPEST][ROWS]) {
    for (unsigned thread = 0; thread < THREADS; ++thread) {
        const unsigned top = thread / LANES * WARP_ROWS + thread % LANES / 4;
        for (unsigned i = 0; i < 4; ++i) {
            const uint32_t word = registers[thread][i];
            const unsigned row = top + i % 2 * 8, at = thread % 4 + i / 2 * 4;
            if (number == Number::tf32) {
                to[at][row] = tf32_number(word);
            } else {
                to[2 * at][row] = widen(number, static_cast<uint16_t>(word));
                to[2 * at + 1][row] = widen(number, static_cast<uint16_t>(word >> 16));
            }
        }
    }
}

}  // namespace

Operand decode(uint64_t descriptor, bool major_lines, const Place& place) {
    const auto bytes = [&](unsigned bit) { return static_cast<uint32_t>(descriptor >> bit & 0x3fff) << 4; };
    constexpr uint64_t KNOWN = 0xc000'3fff'3fff'3fff;
    const char* problem = nullptr;
    if (descriptor >> 62 != 1) problem = "a descriptor without the 128-byte swizzle";
    if (descriptor >> 49 & 7) problem = "a descriptor with a base offset, which the emulator does not support";
    if (descriptor & ~KNOWN && !problem) problem = "a descriptor with bits set that mean nothing";
    if (problem) fail_at(CUDA_ERROR_LAUNCH_FAILED, problem, place);
    return Operand{bytes(0), bytes(16), bytes(32), major_lines};
}

void multiply(const Product& product, float* sums, const Place& place) {
    static float a[DEEPEST][ROWS];
    static float b[DEEPEST * MOST_COLS];
    const unsigned depth = product.number == Number::tf32 ? 8 : 16, cols = product.cols;
    if (product.registers) {
        read_registers(product.registers, product.number, a);
    } else {
        read_shared(product.a, product.number, ROWS, a[0], ROWS, place);
    }
    read_shared(product.b, product.number, cols, b, cols, place);
    multiply_tile(ROWS, cols, depth, a[0], ROWS, b, cols, sums, cols);
}

}  // namespace wgmma
}  // namespace emulator
