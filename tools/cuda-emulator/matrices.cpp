// ldmatrix: four 8×8 matrices of 16-bit elements, loaded by a warp.
#include <cstring>

#include "cuda_device.h"
#include "emulator.h"
#include "races.h"
#include "shared.h"

namespace emulator {
namespace {

constexpr unsigned LANES = 32, MATRICES = 4, ROWS = 8, ROW_BYTES = 16;

struct Warp {
    const MatricesCall* const* lanes;
    const char* rows[LANES];

    // The race detector sees an element as read by the lane that gets it.
    void note_reads(unsigned first) const {
        for (unsigned lane = 0; lane < LANES; ++lane) {
            set_running_thread(first + lane);
            const unsigned line = lane / 4, pair = lane % 4 * 2;
            for (unsigned matrix = 0; matrix < MATRICES; ++matrix) {
                const char* const* const from = rows + matrix * ROWS;
                if (lanes[lane]->transposed) {
                    races::read(from[pair] + 2 * line, 2, lanes[lane]->pc);
                    races::read(from[pair + 1] + 2 * line, 2, lanes[lane]->pc);
                } else {
                    races::read(from[line] + 2 * pair, 4, lanes[lane]->pc);
                }
            }
        }
    }

    void load() const {
        for (unsigned lane = 0; lane < LANES; ++lane) {
            const unsigned line = lane / 4, pair = lane % 4 * 2;
            for (unsigned matrix = 0; matrix < MATRICES; ++matrix) {
                const char* const* const from = rows + matrix * ROWS;
                unsigned* const to = lanes[lane]->to + matrix;
                if (lanes[lane]->transposed) {
                    memcpy(to, from[pair] + 2 * line, 2);
                    memcpy(reinterpret_cast<char*>(to) + 2, from[pair + 1] + 2 * line, 2);
                } else {
                    memcpy(to, from[line] + 2 * pair, 4);
                }
            }
        }
    }
};

}  // namespace

bool load_in_warp(const MatricesCall* const* lanes, unsigned first) {
    Warp warp;
    warp.lanes = lanes;
    for (unsigned lane = 0; lane < LANES; ++lane) {
        const MatricesCall& call = *lanes[lane];
        if (call.transposed != lanes[0]->transposed) return false;
        const Place place{call.file, call.line};
        if (shared::is_outside(call.from, ROW_BYTES)) set_running_thread(first + lane);  // For the error.
        warp.rows[lane] = shared::at(call.from, ROW_BYTES, "ldmatrix reads", place);
        shared::check_settled(call.from, ROW_BYTES, "ldmatrix reads", place);
    }
    if (races::checking) warp.note_reads(first);
    warp.load();
    return true;
}

}  // namespace emulator

using namespace emulator;

void emulator_load_matrices(unsigned (&to)[4], unsigned from, bool transposed, const char* file, int line) {
    require_target(75, false, "ldmatrix", Place{file, line});
    const MatricesCall call{to, from, transposed, file, line, __builtin_return_address(0)};
    emulator_warp(WarpOp::matrices, ~0u, reinterpret_cast<uint64_t>(&call), 0, 32, file, line);
}

unsigned emulator_reduce(WarpOp op, unsigned mask, unsigned value, const char* file, int line) {
    require_target(80, false, "redux.sync", Place{file, line});
    return static_cast<unsigned>(emulator_warp(op, mask, value, 0, 32, file, line));
}
