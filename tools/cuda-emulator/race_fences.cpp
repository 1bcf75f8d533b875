// The ordering that fences and atomics establish between threads without a common barrier.
//
// As in PTX's memory model, a fence before an atomic releases all accesses that are ordered before the fence, and a
// fence after an atomic on the same address acquires what was released before that atomic. Barriers and __syncwarp pass
// on what was acquired. An atomic observes earlier atomics on its address, which are ordered before later accesses even
// without a fence.
#include <map>
#include <unordered_map>

#include "cuda_device.h"
#include "emulator.h"
#include "races.h"

namespace emulator {
namespace races {
namespace {

// The first `count` releases of one entry of the list of atomics.
struct Seen {
    uint32_t atomics;
    size_t count;
};

// What a fence releases: the thread's earlier accesses, those of its block that are ordered before them, and what it
// has seen.
struct Release {
    Mark at;
    std::vector<Seen> seen;

    // Whether the release includes a mark of the same block.
    bool covers(const Mark& mark) const {
        if (mark.epoch < at.epoch) return true;
        if (mark.kind == Mark::thread && mark.thread_index == at.thread_index && mark.fences < at.fences) return true;
        return mark.is_of_warp(at.thread_index / 32) && mark.syncs < at.syncs;
    }
};

// The atomics on one address.
struct Atomics {
    struct Entry {
        uint32_t mark;
        bool observes;
    };
    std::vector<Entry> entries;
    std::vector<Release> releases;
    std::unordered_map<uint32_t, std::vector<size_t>> by_block;
    std::vector<size_t> relays;  // Releases by threads that had acquired others.
};

// The fences and atomics of one thread of the block.
struct ThreadFences {
    bool fenced = false;
    Release released;
    std::vector<Seen> pending, seen;
};

std::vector<Atomics> all;
std::map<unsigned, ThreadFences> thread_fences;  // Keyed by thread, because few threads have any.
std::map<unsigned, std::vector<Seen>> seen_by_warp;
std::vector<Seen> seen_by_block;

void join(std::vector<Seen>& into, const std::vector<Seen>& from) {
    for (const Seen& seen : from) {
        bool found = false;
        for (Seen& known : into) {
            if (known.atomics != seen.atomics) continue;
            if (known.count < seen.count) known.count = seen.count;
            found = true;
        }
        if (!found) into.push_back(seen);
    }
}

bool holds(const std::vector<Seen>& seen, const Mark& mark) {
    for (const Seen& one : seen) {
        const Atomics& atomics = all[one.atomics];
        const auto found = atomics.by_block.find(mark.block_index);
        if (found != atomics.by_block.end()) {
            for (const size_t index : found->second) {
                if (index < one.count && atomics.releases[index].covers(mark)) return true;
            }
        }
        for (const size_t index : atomics.relays) {
            if (index < one.count && holds(atomics.releases[index].seen, mark)) return true;
        }
    }
    return false;
}

}  // namespace

void begin_launch_fences() { all.clear(); }

void begin_block_fences() {
    thread_fences.clear();
    seen_by_warp.clear();
    seen_by_block.clear();
}

void join_block_fences() {
    for (const auto& by_thread : thread_fences) join(seen_by_block, by_thread.second.seen);
    for (const auto& by_warp : seen_by_warp) join(seen_by_block, by_warp.second);
}

void join_warp_fences(unsigned warp) {
    for (const auto& by_thread : thread_fences) {
        if (by_thread.first / 32 == warp) join(seen_by_warp[warp], by_thread.second.seen);
    }
}

uint32_t new_atomics() {
    all.emplace_back();
    return add_mark(Mark::atomics, static_cast<uint32_t>(all.size() - 1));
}

void add_atomic(uint32_t number, bool orders) {
    const uint32_t own = own_mark(), index = mark_of(number).link;
    Atomics& atomics = all[index];
    atomics.entries.push_back({own, orders});
    if (!orders) return;
    ThreadFences& thread = thread_fences[this_thread()];
    if (!atomics.releases.empty()) join(thread.pending, {Seen{index, atomics.releases.size()}});
    if (!thread.fenced) return;
    atomics.by_block[thread.released.at.block_index].push_back(atomics.releases.size());
    if (!thread.released.seen.empty()) atomics.relays.push_back(atomics.releases.size());
    atomics.releases.push_back(thread.released);
}

uint32_t unordered_atomic(uint32_t number) {
    const Atomics& atomics = all[mark_of(number).link];
    bool observed = false;
    for (auto one = atomics.entries.rbegin(); one != atomics.entries.rend(); ++one) {
        if (one->observes && observed) continue;
        if (!is_before(one->mark)) return one->mark;
        observed = observed || one->observes;
    }
    return 0;
}

bool is_acquired(const Mark& mark) {
    if (thread_fences.empty()) return false;
    const auto thread = thread_fences.find(this_thread());
    if (thread != thread_fences.end() && holds(thread->second.seen, mark)) return true;
    const auto warp = seen_by_warp.find(this_thread() / 32);
    return (warp != seen_by_warp.end() && holds(warp->second, mark)) || holds(seen_by_block, mark);
}

}  // namespace races
}  // namespace emulator

using namespace emulator::races;

void emulator_fence() {
    if (!checking) return;
    pass_fence();
    const Mark now = mark_of(own_mark());
    ThreadFences& thread = thread_fences[now.thread_index];
    join(thread.seen, thread.pending);
    thread.pending.clear();
    thread.fenced = true;
    thread.released = Release{now, seen_by_block};
    join(thread.released.seen, seen_by_warp[now.thread_index / 32]);
    join(thread.released.seen, thread.seen);
}
