// Programmatic dependent launch: whether the threads of a dependent kernel have waited for the previous kernel.
#pragma once

namespace emulator {

struct Place;

namespace dependent {

// ---- Hooks for the scheduler.
void begin_launch(bool dependent);
void begin_block(unsigned threads);
void end_thread();  // Fails if a thread of a dependent kernel has not waited.

// Whether the running thread belongs to a dependent kernel and has not waited, so it may access no global memory.
bool is_early();

}  // namespace dependent
}  // namespace emulator
