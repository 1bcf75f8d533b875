// Dynamic shared memory: its addresses, and the state of its words.
#include "shared.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda_device.h"
#include "emulator.h"
#include "races.h"

namespace emulator {
namespace shared {
namespace {

// The memory ends at an inaccessible page, or 16 bytes before it: its start is never aligned to 32 bytes, because CUDA
// promises no more than 16. An address is an offset in the whole range, so addresses and pointers have the same
// alignment, as on a GPU.
constexpr size_t LIMIT = 256 * 1024, GUARD = 64 * 1024;
constexpr unsigned char POISON = 0xff, CANARY = 0xfd;

// The state of a word: 0 if it was not written, IN_FLIGHT, or a thread and the number of its fences before the write.
constexpr unsigned FENCE_BITS = 21;

uint32_t all_states[LIMIT / WORD];
uint32_t barriers = 0;
bool fenced = false;  // Whether any thread has called fence_async_proxy().
// For each thread, the number of barriers before each of its fences.
std::vector<std::vector<uint32_t>> fences;

void set_up() {
    if (memory) return;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    memory = static_cast<char*>(mmap(nullptr, LIMIT + GUARD, PROT_READ | PROT_WRITE, flags, -1, 0));
    mprotect(memory + LIMIT, GUARD, PROT_NONE);
}

[[noreturn]] void fail(CUresult error, uint32_t address, const char* text, const char* what, const Place& place) {
    char where[64];
    snprintf(where, sizeof where, " byte %td of dynamic shared memory", static_cast<ptrdiff_t>(address) - first);
    fail_at(error, std::string(what) + where + text, place);
}

}  // namespace

char* memory = nullptr;
uint32_t first = 0, end = 0;
uint32_t* const states = all_states;
bool dirty = false;

char* start() { return memory + first; }

void begin_launch(size_t bytes) {
    set_up();
    end = LIMIT;
    first = static_cast<uint32_t>(LIMIT - (bytes + 15) / 16 * 16);
    if (first % 32 == 0) first -= 16;
    end = first + static_cast<uint32_t>(bytes);
}

void begin_block(unsigned threads) {
    memset(start(), POISON, end - first);
    memset(memory + end, CANARY, LIMIT - end);
    if (dirty) memset(states + first / WORD, 0, (LIMIT - first) / WORD * sizeof *states);
    dirty = false;
    barriers = 0;
    if (fences.size() < threads) fences.resize(threads);
    if (fenced) {
        for (auto& of_thread : fences) of_thread.clear();
    }
    fenced = false;
}

void end_block() {
    for (const char* byte = memory + end; byte < memory + LIMIT; ++byte) {
        if (static_cast<unsigned char>(*byte) == CANARY) continue;
        fail_running(CUDA_ERROR_ILLEGAL_ADDRESS, "wrote past the end of the block's dynamic shared memory");
    }
}

void pass_barrier() { ++barriers; }

void fail_access(uint32_t address, unsigned bytes, const char* what, const Place& place) {
    if (address >= first && address <= end && end - address >= bytes) {
        const std::string size = ", which is not aligned to " + std::to_string(bytes) + " bytes";
        fail(CUDA_ERROR_MISALIGNED_ADDRESS, address, size.c_str(), what, place);
    }
    const std::string size = ", which has " + std::to_string(end - first) + " bytes";
    fail(CUDA_ERROR_ILLEGAL_ADDRESS, address, size.c_str(), what, place);
}

void fail_unsettled(uint32_t address, const char* what, const Place& place) {
    fail(CUDA_ERROR_LAUNCH_FAILED, address, ", the destination of a copy that has not been waited for", what, place);
}

uint32_t address_of(const void* pointer) {
    const auto distance = reinterpret_cast<uintptr_t>(pointer) - reinterpret_cast<uintptr_t>(memory);
    if (distance < first || distance > end) {
        fail_running(CUDA_ERROR_ILLEGAL_ADDRESS,
                     "takes the shared address of a pointer that is not to dynamic shared "
                     "memory; the emulator has no others");
    }
    return static_cast<uint32_t>(distance);
}

uint32_t written_state() {
    const unsigned thread = running_thread_index();
    return (thread + 1) << FENCE_BITS | static_cast<uint32_t>(fences[thread].size());
}

void check_visible(uint32_t address, uint32_t& visible, const Place& place) {
    static const char* const what = "a product reads";
    for (uint32_t word = address / WORD; word < address / WORD + 4; ++word) {
        const uint32_t state = states[word];
        if (state == 0 || state == visible) continue;
        if (state == IN_FLIGHT) fail_unsettled(address, what, place);
        const uint32_t before = state & ((1u << FENCE_BITS) - 1);
        const auto& of_thread = fences[(state >> FENCE_BITS) - 1];
        if (before == of_thread.size()) {
            fail(CUDA_ERROR_LAUNCH_FAILED, address,
                 ", but the thread that wrote it has not called fence_async_proxy() since then", what, place);
        }
        if (of_thread[before] == barriers) {
            fail(CUDA_ERROR_LAUNCH_FAILED, address,
                 ", but the block has passed no barrier since the writing thread's fence_async_proxy()", what, place);
        }
        visible = state;
    }
}

void note_plain_write(const void* to, size_t bytes, const void* pc) {
    const uint32_t address = address_of(to);
    check_settled(address, static_cast<unsigned>(bytes), "writes", Place{nullptr, 0, pc});
    note_write(address, static_cast<unsigned>(bytes));
}

void check_plain_read(const void* from, size_t bytes, const void* pc) {
    check_settled(address_of(from), static_cast<unsigned>(bytes), "reads", Place{nullptr, 0, pc});
}

}  // namespace shared
}  // namespace emulator

using namespace emulator;

void* emulator_dynamic_shared() { return shared::start(); }

unsigned emulator_shared_address(const void* pointer) { return shared::address_of(pointer); }

void emulator_fence_async_proxy() {
    shared::fences[running_thread_index()].push_back(shared::barriers);
    shared::fenced = true;
}

unsigned emulator_load_shared(unsigned from, const char* file, int line) {
    const Place place{file, line};
    const char* memory = shared::at(from, 4, "ld.shared reads", place);
    shared::check_settled(from, 4, "ld.shared reads", place);
    if (races::checking) races::read(memory, 4, __builtin_return_address(0));
    unsigned value;
    memcpy(&value, memory, 4);
    return value;
}

void emulator_store_shared(unsigned to, unsigned value, const char* file, int line) {
    const Place place{file, line};
    char* memory = shared::at(to, 4, "st.shared writes", place);
    shared::check_settled(to, 4, "st.shared writes", place);
    if (races::checking) races::write(memory, 4, __builtin_return_address(0));
    shared::note_write(to, 4);
    memcpy(memory, &value, 4);
}
