// Marks, and the ordering of accesses within a block by barriers and __syncwarp.
#include <unordered_map>

#include "emulator.h"
#include "races.h"

namespace emulator {
namespace races {

namespace {

constexpr unsigned LANES = 32;
constexpr uint32_t LARGEST_MARK = 1u << 31;

std::vector<Mark> marks;  // The launch's marks.
uint32_t launch_first = 1, block_first = 1;

uint32_t block = 0, epoch = 0;
unsigned running = 0, thread_count = 0;
// Indexed by thread; a mark of 0 means none yet.
std::vector<uint32_t> own, fences;
// Indexed by warp.
std::vector<uint32_t> syncs, several_of_warp;
uint32_t several_of_block = 0;

// The marks of readers in several blocks, shared by all bytes that were read by the same blocks.
struct Step {
    uint32_t link, block, epoch;
    bool operator==(const Step& other) const {
        return link == other.link && block == other.block && epoch == other.epoch;
    }
};
struct StepHash {
    size_t operator()(const Step& step) const {
        return (step.link * 0x9E3779B97F4A7C15u ^ step.block) * 0xBF58476D1CE4E5B9u ^ step.epoch;
    }
};
std::unordered_map<Step, uint32_t, StepHash> steps;

uint32_t next_mark() { return launch_first + static_cast<uint32_t>(marks.size()); }

uint32_t add(const Mark& mark) {
    marks.push_back(mark);
    return next_mark() - 1;
}

}  // namespace

const Mark& mark_of(uint32_t mark) { return marks[mark - launch_first]; }
uint32_t first_of_launch() { return launch_first; }
uint32_t first_of_block() { return block_first; }

void begin_launch_marks() {
    launch_first = next_mark();
    if (launch_first > LARGEST_MARK) {
        launch_first = 1;
        clear_all_shadow();
    }
    marks.clear();
    steps.clear();
    begin_launch_fences();
}

void begin_block_marks(uint32_t number, unsigned threads) {
    block = number;
    block_first = next_mark();
    epoch = several_of_block = 0;
    thread_count = threads;
    own.assign(threads, 0);
    fences.assign(threads, 0);
    syncs.assign((threads + LANES - 1) / LANES, 0);
    several_of_warp.assign(syncs.size(), 0);
    begin_block_fences();
}

void set_thread(unsigned thread) { running = thread; }
unsigned this_thread() { return running; }

void pass_barrier() {
    ++epoch;
    own.assign(thread_count, 0);
    several_of_warp.assign(syncs.size(), 0);
    several_of_block = 0;
    join_block_fences();
}

void pass_warp(unsigned thread) {
    const unsigned warp = thread / LANES;
    ++syncs[warp];
    for (unsigned lane = warp * LANES; lane < (warp + 1) * LANES && lane < thread_count; ++lane) own[lane] = 0;
    several_of_warp[warp] = 0;
    join_warp_fences(warp);
}

uint32_t add_mark(Mark::Kind kind, uint32_t link) {
    return add(Mark{kind, static_cast<uint16_t>(running), block, epoch, syncs[running / LANES], fences[running], link});
}

uint32_t own_mark() {
    uint32_t& mark = own[running];
    if (!mark) mark = add_mark(Mark::thread, 0);
    return mark;
}

bool is_before(uint32_t number) {
    const Mark& mark = mark_of(number);
    if (mark.block_index == block) {
        if (mark.epoch < epoch || (mark.kind == Mark::thread && mark.thread_index == running)) return true;
        if (mark.is_of_warp(running / LANES) && mark.syncs < syncs[running / LANES]) return true;
    }
    return is_acquired(mark);
}

uint32_t with_own(uint32_t readers) {
    const bool of_warp = mark_of(readers).is_of_warp(running / LANES);
    uint32_t& several = of_warp ? several_of_warp[running / LANES] : several_of_block;
    if (!several) several = add_mark(of_warp ? Mark::warp : Mark::block, 0);
    return several;
}

uint32_t with_block(uint32_t blocks, uint32_t readers) {
    const Mark mark = mark_of(readers);
    uint32_t& made = steps[Step{blocks, mark.block_index, mark.epoch}];
    if (!made) made = add(Mark{Mark::blocks, mark.thread_index, mark.block_index, mark.epoch, 0, 0, blocks});
    return made;
}

// Accesses after the fence need a new mark, because the fence does not release them.
void pass_fence() {
    ++fences[running];
    own[running] = 0;
}

}  // namespace races
}  // namespace emulator
