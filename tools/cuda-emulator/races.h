// The check for data races between a launch's threads, where the kernels are built for it: what the scheduler and the
// atomics tell it, and what its parts share.
//
// Two accesses of the same bytes by different threads, not both reads and not both atomic, must be ordered: in a block by
// a barrier, in a warp also by a __syncwarp of the whole warp (one of a part of it counts for nothing), and anywhere by a
// fence and an atomic on one side and an atomic on the same address and a fence on the other. The order in which threads
// happen to run here counts for nothing, so either of two orders shows what the other does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emulator {

struct Launch;

namespace races {

// Whether the kernels tell of their accesses.
extern bool checking;

// ---- What the scheduler tells.
void begin_launch(const Launch& launch);
void begin_block(uint64_t block, unsigned threads);
void become(unsigned thread);
void pass_barrier();
// All threads of `thread`'s warp have met in one __syncwarp.
void pass_warp(unsigned thread);
// What the memory tells: these device addresses are no more.
void forget(uintptr_t start, size_t bytes);
void forget_all();

// ---- Marks (race_order.cpp). A number stands for accesses that are ordered alike. Numbers grow: what is below the first of
// the launch, or of the block where memory is shared, is of the past. A thread has a new one after everything that orders.
struct Mark {
    enum Kind : uint8_t {
        thread,
        warp,     // Several threads of a warp.
        block,    // Several threads of a block, up to `epoch`.
        blocks,   // The same, and those that the mark `rest` stands for, if any.
        atomics,  // `rest` is a place in the list of the atomics.
    } kind;
    uint16_t thread_index;
    uint32_t block_index;
    uint32_t epoch;   // Barriers that the block had passed.
    uint32_t syncs;   // Whole-warp __syncwarps that the warp had passed.
    uint32_t fences;  // Fences that the thread had passed.
    uint32_t rest;

    bool is_of_warp(unsigned warp) const { return (kind == thread || kind == Mark::warp) && thread_index / 32 == warp; }
};
const Mark& mark_of(uint32_t mark);
uint32_t add_mark(Mark::Kind kind, uint32_t rest);  // Of the running thread.
unsigned this_thread();                             // The running one, in its block.
uint32_t own_mark();                                // Of what the running thread does now.
void begin_launch_marks();
void begin_block_marks(uint32_t block, unsigned threads);
void pass_fence();
uint32_t first_of_launch();
uint32_t first_of_block();
// Whether all that the mark stands for is ordered before what the running thread does now.
bool is_before(uint32_t mark);
// The mark of readers to which the running thread comes; all are of its block, and not ordered.
uint32_t with_own(uint32_t readers);
// The mark of readers in several blocks, 0 for none, to which those of another block come.
uint32_t with_block(uint32_t blocks, uint32_t readers);

// ---- Atomics, and what is released and acquired by them (race_fences.cpp).
void begin_launch_fences();
void begin_block_fences();
void join_block_fences();
void join_warp_fences(unsigned warp);
uint32_t new_atomics();
void add_atomic(uint32_t atomics, bool orders);
uint32_t unordered_atomic(uint32_t atomics);  // The mark of one that is not before what the running thread does, or 0.
bool is_acquired(const Mark& mark);

// ---- Reports (race_report.cpp).
struct Access {
    enum Kind { read, write, atomic } kind;
    const void* place;  // In the kernel's code; may be null.
};
[[noreturn]] void report(uintptr_t address, bool shared, Access now, Access earlier, const Mark& who);

}  // namespace races
}  // namespace emulator
