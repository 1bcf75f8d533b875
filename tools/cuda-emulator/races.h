// The data race detector for the threads of a launch, active if the kernels are built for it: its hooks for the
// scheduler and the atomics, and the interfaces between its source files.
//
// Two accesses to the same bytes by different threads must be ordered unless both are reads or both are atomic. In a
// block, a barrier orders them; in a warp, also a __syncwarp of the whole warp (a __syncwarp of part of it does not).
// Anywhere, a fence followed by an atomic in one thread and an atomic on the same address followed by a fence in the
// other order them. The order in which the emulator happens to run threads does not matter, so a race is found in
// either order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emulator {

struct Launch;

namespace races {

// Whether the kernels are instrumented.
extern bool checking;

// ---- Hooks for the scheduler.
void begin_launch(const Launch& launch);
void begin_block(uint64_t block, unsigned threads);
void set_thread(unsigned thread);
void pass_barrier();
// All threads of `thread`'s warp have met in one __syncwarp.
void pass_warp(unsigned thread);
// Accesses of the running thread that the compiler does not report, by an instruction at `pc`. A read of part of what
// the detector distinguishes counts as a read of the whole.
void read(const void* from, size_t bytes, const void* pc);
void write(const void* to, size_t bytes, const void* pc);
// Hooks for the memory: device addresses were freed.
void clear_shadow(uintptr_t start, size_t bytes);
void clear_all_shadow();

// ---- Marks (race_order.cpp). A mark is a number that identifies accesses with the same ordering. Marks increase: a
// mark below the launch's first mark, or for shared memory below the block's first, belongs to the past. A thread gets
// a new mark after every synchronisation.
struct Mark {
    enum Kind : uint8_t {
        thread,
        warp,     // Several threads of a warp.
        block,    // Several threads of a block, up to `epoch`.
        blocks,   // Several threads of a block, and the accesses of mark `link` if it is not 0.
        atomics,  // `link` is an index into the list of atomics.
    } kind;
    uint16_t thread_index;
    uint32_t block_index;
    uint32_t epoch;   // The number of barriers that the block had passed.
    uint32_t syncs;   // The number of whole-warp __syncwarps that the warp had passed.
    uint32_t fences;  // The number of fences that the thread had passed.
    uint32_t link;

    bool is_of_warp(unsigned warp) const { return (kind == thread || kind == Mark::warp) && thread_index / 32 == warp; }
};
const Mark& mark_of(uint32_t mark);
uint32_t add_mark(Mark::Kind kind, uint32_t link);  // Adds a mark for the running thread.
unsigned this_thread();                             // The running thread's index in its block.
uint32_t own_mark();                                // The mark of the running thread's current accesses.
void begin_launch_marks();
void begin_block_marks(uint32_t block, unsigned threads);
void pass_fence();
uint32_t first_of_launch();
uint32_t first_of_block();
// Whether all accesses of the mark are ordered before the running thread's current accesses.
bool is_before(uint32_t mark);
// The mark for `readers`, which are unordered and of the running thread's block, plus the running thread.
uint32_t with_own(uint32_t readers);
// The mark for `blocks`, the readers of several blocks or 0, plus `readers`, which are of another block.
uint32_t with_block(uint32_t blocks, uint32_t readers);

// ---- Atomics, and release and acquire through them (race_fences.cpp).
void begin_launch_fences();
void begin_block_fences();
void join_block_fences();
void join_warp_fences(unsigned warp);
uint32_t new_atomics();
void add_atomic(uint32_t atomics, bool orders);
uint32_t unordered_atomic(uint32_t atomics);  // The mark of one that is not before the running thread's accesses, or 0.
bool is_acquired(const Mark& mark);

// ---- Reports (race_report.cpp).
struct Access {
    enum Kind { read, write, atomic } kind;
    const void* pc;  // The program counter in the kernel; may be null.
};
std::string line_of(const void* pc);  // " (pool.cu:12)"; empty if `pc` is null.
[[noreturn]] void report(uintptr_t address, bool shared, Access now, Access earlier, const Mark& who);

}  // namespace races
}  // namespace emulator
