// Asynchronous copies (cp.async): each thread's copies and their groups.
//
// A copy is made as late as CUDA allows, when the thread waits for its group, and its destination is poisoned until
// then; or, by a setting, as early as allowed, when it is issued. Only the thread's own copies are complete after its
// wait, so the copies count as its writes, at both times.
#include <cstring>
#include <vector>

#include "async.h"
#include "cuda_device.h"
#include "dependent.h"
#include "emulator.h"
#include "races.h"
#include "shared.h"

namespace emulator {
namespace copies {
namespace {

struct Copy {
    const void* from;
    uint32_t to;
    uint8_t bytes, present;
    Place place;

    char* target() const { return shared::memory + to; }

    void note_race_accesses() const {
        if (present) races::read(from, present, place.pc);
        races::write(target(), bytes, place.pc);
    }

    void make() const {
        if (present == 0) {
            memset(target(), 0, bytes);
        } else if (bytes == 16) {
            memcpy(target(), from, 16);  // Of constant size, because most copies have it.
        } else {
            memcpy(target(), from, bytes);
        }
    }
};

struct Thread {
    std::vector<Copy> copies;
    std::vector<size_t> ends;  // The end of each group in `copies`.
    size_t waited = 0;         // Groups.

    size_t first() const { return waited ? ends[waited - 1] : 0; }  // The first copy that was not waited for.

    // Forgets what was waited for, seldom enough to cost little.
    void shorten() {
        if (waited < 16 && waited < ends.size()) return;
        const size_t done = first();
        copies.erase(copies.begin(), copies.begin() + static_cast<ptrdiff_t>(done));
        ends.erase(ends.begin(), ends.begin() + static_cast<ptrdiff_t>(waited));
        for (size_t& end : ends) end -= done;
        waited = 0;
    }
};

std::vector<Thread> threads;
bool used = false;   // By the block.
bool early = false;  // Whether copies are made when they are issued.

// The latest source's allocation, because most copies read the same few.
const Allocation* source = nullptr;

void check_source(const void* from, unsigned bytes, const Place& place) {
    const auto address = reinterpret_cast<uintptr_t>(from);
    const auto inside = [&](const Allocation& it) {
        return !it.freed && address >= it.start && address - it.start <= it.size &&
               bytes <= it.size - (address - it.start);
    };
    if (source && inside(*source)) return;
    source = find_allocation(address);
    if ((source && inside(*source)) || is_pinned(from, bytes)) return;
    fail_at(CUDA_ERROR_ILLEGAL_ADDRESS, "cp.async " + describe_address(address, false), place);
}

}  // namespace

void begin_block(unsigned count) {
    if (threads.size() < count) threads.resize(count);
    early = settings().early_copies;
    if (!used) return;
    used = false;
    source = nullptr;
    for (Thread& thread : threads) {
        thread.copies.clear();
        thread.ends.clear();
        thread.waited = 0;
    }
}

void end_thread() {
    if (!used) return;
    const Thread& thread = threads[running_thread_index()];
    if (thread.first() == thread.copies.size()) return;
    fail_at(CUDA_ERROR_LAUNCH_FAILED, "a thread ends without waiting for a copy", thread.copies.back().place);
}

}  // namespace copies
}  // namespace emulator

using namespace emulator;
using copies::Thread;
using copies::threads;

void emulator_copy_async(unsigned to, const void* from, unsigned bytes, unsigned present, const char* file, int line) {
    const Place place{file, line, __builtin_return_address(0)};
    require_target(80, false, "cp.async", place);
    char* const target = shared::at(to, bytes, "cp.async writes", place);
    if (reinterpret_cast<uintptr_t>(from) % bytes) {
        fail_at(CUDA_ERROR_MISALIGNED_ADDRESS, "the source of cp.async is not aligned", place);
    }
    shared::check_settled(to, bytes, "cp.async writes", place);
    if (present) copies::check_source(from, present, place);
    if (dependent::is_early()) fail_at(CUDA_ERROR_LAUNCH_FAILED, "cp.async before griddepcontrol.wait", place);
    Thread& thread = threads[running_thread_index()];
    thread.copies.push_back({from, to, static_cast<uint8_t>(bytes), static_cast<uint8_t>(present), place});
    if (races::checking) thread.copies.back().note_race_accesses();
    if (copies::early) {
        thread.copies.back().make();
    } else {
        memset(target, 0xff, bytes);
    }
    shared::set_states(to, bytes, shared::IN_FLIGHT);
    copies::used = true;
}

void emulator_commit_copies() {
    Thread& thread = threads[running_thread_index()];
    thread.ends.push_back(thread.copies.size());
    copies::used = true;
}

void emulator_wait_copies(unsigned pending) {
    Thread& thread = threads[running_thread_index()];
    while (thread.ends.size() - thread.waited > pending) {
        const copies::Copy* const first = thread.copies.data();
        const uint32_t written = shared::written_state();
        for (const copies::Copy* it = first + thread.first(); it < first + thread.ends[thread.waited]; ++it) {
            const copies::Copy& copy = *it;
            if (races::checking) copy.note_race_accesses();
            if (!copies::early) copy.make();
            shared::set_states(copy.to, copy.bytes, written);
        }
        ++thread.waited;
    }
    thread.shorten();
}
