// Tensor cores: mma.sync for a warp, with the PTX ISA's register layouts, exact products, and fp32 sums along k.
#include "cuda_device.h"
#include "emulator.h"
#include "tensor.h"

namespace emulator {
namespace {

constexpr unsigned LANES = 32, ROWS = 16, COLS = 8, DEEPEST = 16, MOST_TILES = 32;

struct Warp {
    const MmaCall* const* lanes;
    Number number;
    unsigned groups, cols;

    unsigned depth() const { return groups * (number == Number::tf32 ? 4 : 8); }

    // Writes the numbers of a word along k: to[k][line].
    void unpack(uint32_t word, unsigned index, float* to, unsigned length) const {
        if (number == Number::tf32) {
            to[index * length] = tf32_number(word);
        } else {
            to[2 * index * length] = widen(number, static_cast<uint16_t>(word));
            to[(2 * index + 1) * length] = widen(number, static_cast<uint16_t>(word >> 16));
        }
    }

    // Reads a[k][row] of a tile: a lane's registers 2h and 2h + 1 are word t + 4h of rows g and g + 8.
    void left(unsigned tile, float* a) const {
        for (unsigned lane = 0; lane < LANES; ++lane) {
            const unsigned* const registers = lanes[lane]->a + tile * 2 * groups;
            for (unsigned i = 0; i < 2 * groups; ++i) {
                unpack(registers[i], lane % 4 + i / 2 * 4, a + lane / 4 + i % 2 * 8, ROWS);
            }
        }
    }

    // Reads b[k][column] of all tiles: a lane's register h of a tile is word t + 4h of column g.
    void right(float* b) const {
        for (unsigned lane = 0; lane < LANES; ++lane) {
            for (unsigned i = 0; i < cols * groups; ++i) {
                unpack(lanes[lane]->b[i], lane % 4 + i % groups * 4, b + i / groups * COLS + lane / 4, cols * COLS);
            }
        }
    }

    void multiply(unsigned row, const float* a, const float* b) const {
        float sums[ROWS * MOST_TILES * COLS];
        const unsigned length = cols * COLS;
        memset(sums, 0, ROWS * length * sizeof *sums);
        multiply_tile(ROWS, length, depth(), a, ROWS, b, length, sums, length);
        for (unsigned lane = 0; lane < LANES; ++lane) {
            float* const d = lanes[lane]->d + row * cols * 4;
            const float* const from = sums + lane / 4 * length + lane % 4 * 2;
            for (unsigned col = 0; col < cols; ++col) {
                for (unsigned i = 0; i < 4; ++i) d[col * 4 + i] += from[i / 2 * 8 * length + col * COLS + i % 2];
            }
        }
    }
};

}  // namespace

bool multiply_in_warp(const MmaCall* const* lanes) {
    const MmaCall& first = *lanes[0];
    for (unsigned lane = 1; lane < LANES; ++lane) {
        const MmaCall& call = *lanes[lane];
        if (call.number != first.number || call.groups != first.groups) return false;
        if (call.rows != first.rows || call.cols != first.cols) return false;
    }
    if (first.cols > MOST_TILES) fail_running(CUDA_ERROR_LAUNCH_FAILED, "a product has more tiles than are supported");
    const Warp warp{lanes, first.number, first.groups, first.cols};
    float a[DEEPEST * ROWS], b[DEEPEST * MOST_TILES * COLS];
    warp.right(b);
    for (unsigned row = 0; row < first.rows; ++row) {
        warp.left(row, a);
        warp.multiply(row, a, b);
    }
    return true;
}

}  // namespace emulator
