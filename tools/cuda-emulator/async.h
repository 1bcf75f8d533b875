// The scheduler's hooks for asynchronous copies and products.
#pragma once

namespace emulator {
namespace copies {

// Whether the block has used copies.
extern bool used;
void begin_block(unsigned threads);
void end_thread();

}  // namespace copies
}  // namespace emulator
