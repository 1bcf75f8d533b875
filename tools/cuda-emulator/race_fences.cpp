// What fences and atomics order between threads that share no barrier.
//
// As in PTX's memory model: a fence before an atomic releases what the thread knew to be done before the fence; a fence
// after an atomic on the same address acquires what was released by then. Barriers and __syncwarp hand on what was acquired.
// An atomic observes those before it on its address: they precede what follows it, without a fence.
#include <map>
#include <unordered_map>

#include "cuda_device.h"
#include "emulator.h"
#include "races.h"

namespace emulator {
namespace races {
namespace {

// The first `count` releases by the atomics at one place of the list.
struct Seen {
    uint32_t atomics;
    size_t count;
};

// What a thread knew to be done at a fence: its own accesses and those of its block that were ordered, and what was seen.
struct Release {
    Mark at;
    std::vector<Seen> seen;

    // Of marks of the same block.
    bool covers(const Mark& mark) const {
        if (mark.epoch < at.epoch) return true;
        if (mark.kind == Mark::thread && mark.thread_index == at.thread_index && mark.fences < at.fences) return true;
        return mark.is_of_warp(at.thread_index / 32) && mark.syncs < at.syncs;
    }
};

// The atomics on one address.
struct Atomics {
    struct One {
        uint32_t mark;
        bool observes;
    };
    std::vector<One> ones;
    std::vector<Release> releases;
    std::unordered_map<uint32_t, std::vector<size_t>> by_block;
    std::vector<size_t> relays;  // Releases of a thread that had seen others.
};

// What one thread of the block has done of this.
struct Acts {
    bool fenced = false;
    Release released;
    std::vector<Seen> pending, seen;
};

std::vector<Atomics> all;
std::map<unsigned, Acts> acts;  // By thread; few do any.
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
    acts.clear();
    seen_by_warp.clear();
    seen_by_block.clear();
}

void join_block_fences() {
    for (const auto& by_thread : acts) join(seen_by_block, by_thread.second.seen);
    for (const auto& by_warp : seen_by_warp) join(seen_by_block, by_warp.second);
}

void join_warp_fences(unsigned warp) {
    for (const auto& by_thread : acts) {
        if (by_thread.first / 32 == warp) join(seen_by_warp[warp], by_thread.second.seen);
    }
}

uint32_t new_atomics() {
    all.emplace_back();
    return add_mark(Mark::atomics, static_cast<uint32_t>(all.size() - 1));
}

void add_atomic(uint32_t number, bool orders) {
    const uint32_t own = own_mark(), index = mark_of(number).rest;
    Atomics& atomics = all[index];
    atomics.ones.push_back({own, orders});
    if (!orders) return;
    Acts& thread = acts[this_thread()];
    if (!atomics.releases.empty()) join(thread.pending, {Seen{index, atomics.releases.size()}});
    if (!thread.fenced) return;
    atomics.by_block[thread.released.at.block_index].push_back(atomics.releases.size());
    if (!thread.released.seen.empty()) atomics.relays.push_back(atomics.releases.size());
    atomics.releases.push_back(thread.released);
}

uint32_t unordered_atomic(uint32_t number) {
    const Atomics& atomics = all[mark_of(number).rest];
    bool observed = false;
    for (auto one = atomics.ones.rbegin(); one != atomics.ones.rend(); ++one) {
        if (one->observes && observed) continue;
        if (!is_before(one->mark)) return one->mark;
        observed = observed || one->observes;
    }
    return 0;
}

bool is_acquired(const Mark& mark) {
    if (acts.empty()) return false;
    const auto thread = acts.find(this_thread());
    if (thread != acts.end() && holds(thread->second.seen, mark)) return true;
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
    Acts& thread = acts[now.thread_index];
    join(thread.seen, thread.pending);
    thread.pending.clear();
    thread.fenced = true;
    thread.released = Release{now, seen_by_block};
    join(thread.released.seen, seen_by_warp[now.thread_index / 32]);
    join(thread.released.seen, thread.seen);
}
