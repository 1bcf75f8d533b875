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
};

namespace shared {

// ---- Hooks for the scheduler.
void begin_launch(size_t bytes);
void begin_block(unsigned threads);
void end_block();
void pass_barrier();

// ---- Memory. Addresses end at 256 KiB, and are not aligned to more than 16 bytes.
char* start();
// The memory of `bytes` aligned bytes at an address; the running thread fails if they are outside.
char* at(uint32_t address, unsigned bytes, const char* what, const Place& place);
uint32_t address_of(const void* pointer);

// ---- What is known about its words.
// The running thread wrote these bytes through the generic proxy.
void note_write(uint32_t address, unsigned bytes);
// A copy to these bytes was issued and has not been waited for.
void note_copy(uint32_t address, unsigned bytes);
// Fails if the bytes are the destination of a copy that has not been waited for.
void check_settled(uint32_t address, unsigned bytes, const char* what, const Place& place);
// Fails if 16 aligned bytes are not visible to wgmma.
void check_visible(uint32_t address, const Place& place);
// note_write and check_settled for the accesses that the compiler reports, given a pointer.
void note_plain_write(const void* to, size_t bytes);
void check_plain_read(const void* from, size_t bytes);

}  // namespace shared
}  // namespace emulator
