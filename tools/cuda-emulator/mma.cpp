// Tensor cores: mma.sync for a warp, with the PTX ISA's register layouts, exact products, and fp32 sums along k.
#include "cuda_device.h"
#include "emulator.h"

namespace emulator {
namespace {

constexpr unsigned LANES = 32, ROWS = 16, COLS = 8, DEEPEST = 16;

// The numbers of a word, consecutive along k: one TF32, whose low 13 bits are ignored, or two halves.
void unpack(bool tf32, unsigned word, float* numbers) {
    if (tf32) {
        word &= ~0x1fffu;
        std::memcpy(numbers, &word, 4);
    } else {
        numbers[0] = emulator_half_to_float(static_cast<uint16_t>(word));
        numbers[1] = emulator_half_to_float(static_cast<uint16_t>(word >> 16));
    }
}

struct Warp {
    const MmaCall* const* lanes;
    bool tf32;
    unsigned groups, per_word, depth;

    // Reads a[k][row]: a lane's registers 2h and 2h + 1 are word t + 4h of rows g and g + 8.
    void left(unsigned tile, float (&a)[DEEPEST][ROWS]) const {
        for (unsigned lane = 0; lane < LANES; ++lane) {
            for (unsigned i = 0; i < 2 * groups; ++i) {
                float numbers[2];
                unpack(tf32, lanes[lane]->a[tile * 2 * groups + i], numbers);
                const unsigned word = lane % 4 + i / 2 * 4, row = lane / 4 + i % 2 * 8;
                for (unsigned part = 0; part < per_word; ++part) a[word * per_word + part][row] = numbers[part];
            }
        }
    }

    // Reads b[k][column]: a lane's register h is word t + 4h of column g.
    void right(unsigned tile, float (&b)[DEEPEST][COLS]) const {
        for (unsigned lane = 0; lane < LANES; ++lane) {
            for (unsigned i = 0; i < groups; ++i) {
                float numbers[2];
                unpack(tf32, lanes[lane]->b[tile * groups + i], numbers);
                const unsigned word = lane % 4 + i * 4;
                for (unsigned part = 0; part < per_word; ++part) b[word * per_word + part][lane / 4] = numbers[part];
            }
        }
    }

    void multiply(unsigned tile, const float (&a)[DEEPEST][ROWS], const float (&b)[DEEPEST][COLS]) const {
        float sums[ROWS][COLS] = {};
        for (unsigned k = 0; k < depth; ++k) {
            for (unsigned row = 0; row < ROWS; ++row) {
                for (unsigned col = 0; col < COLS; ++col) sums[row][col] += a[k][row] * b[k][col];
            }
        }
        for (unsigned lane = 0; lane < LANES; ++lane) {
            for (unsigned i = 0; i < 4; ++i) {
                lanes[lane]->d[tile * 4 + i] += sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
            }
        }
    }
};

}  // namespace

bool multiply_in_warp(const MmaCall* const* lanes) {
    const MmaCall& first = *lanes[0];
    for (unsigned lane = 1; lane < LANES; ++lane) {
        const MmaCall& call = *lanes[lane];
        if (call.tf32 != first.tf32 || call.groups != first.groups) return false;
        if (call.rows != first.rows || call.cols != first.cols) return false;
    }
    const unsigned per_word = first.tf32 ? 1 : 2;
    const Warp warp{lanes, first.tf32, first.groups, per_word, 4 * first.groups * per_word};
    for (unsigned row = 0; row < first.rows; ++row) {
        float a[DEEPEST][ROWS];
        warp.left(row, a);
        for (unsigned col = 0; col < first.cols; ++col) {
            float b[DEEPEST][COLS];
            warp.right(col, b);
            warp.multiply(row * first.cols + col, a, b);
        }
    }
    return true;
}

}  // namespace emulator
