// A block's dynamic shared memory: its 32-bit addresses, as in PTX, and what is known about the writes to its words.
//
// Shared memory is accessed through two proxies: wgmma reads it through the asynchronous proxy, everything else through
// the generic proxy. A write through the generic proxy is visible to wgmma if the thread that wrote then called
// fence_async_proxy() and the block then passed a barrier.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emulator {

// A line of a kernel's source.
struct Place {
    const char* file;
    int line;
    const void* pc = nullptr;  // The program counter, if the line is not known.
};

namespace shared {

// ---- Hooks for the scheduler.
void begin_launch(size_t bytes);
void begin_block(unsigned threads);
void end_block();
void pass_barrier();

// ---- Memory. Addresses end at 256 KiB, and are not aligned to more than 16 bytes.
char* start();
uint32_t address_of(const void* pointer);
// The block's memory, and the state of each of its words.
extern char* memory;
extern uint32_t first, end;  // Addresses.
extern uint32_t* const states;
extern bool dirty;  // Whether any state may differ from 0.
constexpr unsigned WORD = 4;
constexpr uint32_t IN_FLIGHT = ~0u;  // The state of a copy's destination before the wait.
[[noreturn]] void fail_access(uint32_t address, unsigned bytes, const char* what, const Place& place);
[[noreturn]] void fail_unsettled(uint32_t address, const char* what, const Place& place);

inline bool is_outside(uint32_t address, unsigned bytes) {
    return address < first || address > end || end - address < bytes || address & (bytes - 1);
}
// The memory of `bytes` aligned bytes at an address; the running thread fails if they are outside.
inline char* at(uint32_t address, unsigned bytes, const char* what, const Place& place) {
    if (is_outside(address, bytes)) fail_access(address, bytes, what, place);
    return memory + address;
}

// ---- What is known about its words.
inline void set_states(uint32_t address, unsigned bytes, uint32_t state) {
    const uint32_t last = (address + bytes - 1) / WORD;
    for (uint32_t word = address / WORD; word <= last; ++word) states[word] = state;
    dirty = true;
}
// The state of words that the running thread writes through the generic proxy now.
uint32_t written_state();
inline void note_write(uint32_t address, unsigned bytes) { set_states(address, bytes, written_state()); }
// Fails if the bytes are the destination of a copy that has not been waited for.
inline void check_settled(uint32_t address, unsigned bytes, const char* what, const Place& place) {
    const uint32_t last = (address + bytes - 1) / WORD;
    for (uint32_t word = address / WORD; word <= last; ++word) {
        if (states[word] == IN_FLIGHT) fail_unsettled(address, what, place);
    }
}
// Fails if 16 aligned bytes are not visible to wgmma. `visible` is a state that is known to be, or 0.
void check_visible(uint32_t address, uint32_t& visible, const Place& place);
// note_write and check_settled for the accesses that the compiler reports, given a pointer.
void note_plain_write(const void* to, size_t bytes, const void* pc);
void check_plain_read(const void* from, size_t bytes, const void* pc);

}  // namespace shared
}  // namespace emulator
