// The arithmetic of wgmma: operands in registers or in swizzled shared memory, exact products, and fp32 sums along k.
#include "wgmma.h"

#include <cstring>

#include "cuda_device.h"
#include "emulator.h"
#include "shared.h"

namespace emulator {
namespace wgmma {
namespace {

constexpr unsigned DEEPEST = 16, CHUNK = 16;

typedef float Vector __attribute__((vector_size(32)));
constexpr unsigned WIDTH = sizeof(Vector) / sizeof(float);

// A half as a float. Unlike emulator_half_to_float it has no branches, so that loops of it are vectorised.
inline float widen(uint16_t half) {
    uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
    float value;
    memcpy(&value, &bits, 4);
    value *= 0x1p112f;  // Exact, for subnormals too; for infinity and NaN the exponent is then set.
    const uint32_t largest = bits >= 0x0f800000 ? 0x7f800000 : 0;
    memcpy(&bits, &value, 4);
    bits |= largest | static_cast<uint32_t>(half & 0x8000) << 16;
    memcpy(&value, &bits, 4);
    return value;
}

// The numbers of 16 bytes: eight halves, or four TF32 numbers, whose low 13 bits are ignored.
inline void unpack(bool tf32, const char* chunk, float* numbers) {
    if (tf32) {
        uint32_t words[4];
        memcpy(words, chunk, CHUNK);
        for (uint32_t& word : words) word &= ~0x1fffu;
        memcpy(numbers, words, CHUNK);
    } else {
        uint16_t halves[8];
        memcpy(halves, chunk, CHUNK);
        for (unsigned i = 0; i < 8; ++i) numbers[i] = widen(halves[i]);
    }
}

// Reads an operand as to[k][line], with rows of `room` numbers.
void read_shared(const Operand& operand, bool tf32, unsigned lines, float* to, unsigned room, const Place& place) {
    const unsigned per_chunk = tf32 ? 4 : 8;
    for (unsigned i = 0; i < 2 * lines; ++i) {
        const char* chunk = shared::at(operand.chunk(i), CHUNK, "a product reads", place);
        if (operand.major_lines) {
            unpack(tf32, chunk, to + i % 16 * room + i / 16 * 8);
            continue;
        }
        float numbers[8];
        unpack(tf32, chunk, numbers);
        float* const column = to + i % 2 * per_chunk * room + i / 2;
        for (unsigned k = 0; k < per_chunk; ++k) column[k * room] = numbers[k];
    }
}

// Reads the left operand from registers: a thread's registers 2h and 2h + 1 are word t + 4h of rows g and g + 8.
void read_registers(const unsigned* const* registers, bool tf32, float (&to)[DEEPEST][ROWS]) {
    for (unsigned thread = 0; thread < THREADS; ++thread) {
        const unsigned top = thread / LANES * WARP_ROWS + thread % LANES / 4;
        for (unsigned i = 0; i < 4; ++i) {
            const uint32_t word = registers[thread][i];
            const unsigned row = top + i % 2 * 8, at = thread % 4 + i / 2 * 4;
            if (tf32) {
                const uint32_t number = word & ~0x1fffu;
                memcpy(&to[at][row], &number, 4);
            } else {
                to[2 * at][row] = widen(static_cast<uint16_t>(word));
                to[2 * at + 1][row] = widen(static_cast<uint16_t>(word >> 16));
            }
        }
    }
}

// sums[row][col] += Σ a[k][row] · b[k][col] for four rows and WIDTH · VECTORS columns.
template <unsigned VECTORS>
void multiply_block(unsigned depth, const float (*a)[ROWS], const float* b, float* sums, unsigned cols) {
    constexpr unsigned HEIGHT = 4;
    Vector block[HEIGHT][VECTORS] = {};
    for (unsigned k = 0; k < depth; ++k) {
        Vector right[VECTORS];
        memcpy(right, b + k * cols, sizeof right);
        for (unsigned row = 0; row < HEIGHT; ++row) {
            for (unsigned i = 0; i < VECTORS; ++i) block[row][i] += a[k][row] * right[i];
        }
    }
    for (unsigned row = 0; row < HEIGHT; ++row) {
        Vector old[VECTORS];
        memcpy(old, sums + row * cols, sizeof old);
        for (unsigned i = 0; i < VECTORS; ++i) old[i] += block[row][i];
        memcpy(sums + row * cols, old, sizeof old);
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
    alignas(Vector) static float b[DEEPEST * MOST_COLS];
    const unsigned depth = product.tf32 ? 8 : 16, cols = product.cols;
    if (product.registers) {
        read_registers(product.registers, product.tf32, a);
    } else {
        read_shared(product.a, product.tf32, ROWS, a[0], ROWS, place);
    }
    read_shared(product.b, product.tf32, cols, b, cols, place);
    for (unsigned row = 0; row < ROWS; row += 4) {
        const auto* const rows = reinterpret_cast<const float (*)[ROWS]>(&a[0][row]);
        unsigned col = 0;
        for (; col + 2 * WIDTH <= cols; col += 2 * WIDTH) {
            multiply_block<2>(depth, rows, b + col, sums + row * cols + col, cols);
        }
        for (; col < cols; col += WIDTH) multiply_block<1>(depth, rows, b + col, sums + row * cols + col, cols);
    }
}

}  // namespace wgmma
}  // namespace emulator
