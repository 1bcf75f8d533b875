// The scheduler's hooks for asynchronous copies and products.
#pragma once

namespace emulator {
namespace copies {

void begin_block(unsigned threads);
void end_thread();

}  // namespace copies

namespace products {

void begin_block(unsigned threads);
void end_thread();

}  // namespace products
}  // namespace emulator
