// When products of warpgroups (wgmma) happen, and the checks of their order.
//
// A product reads its operands and adds to its accumulators as late as CUDA allows, when its group is waited for. Until
// then its accumulators are poisoned. Or, by a setting, it happens as early as allowed, when it is issued. The threads of
// a warpgroup issue a product one after another: the first records it, and the others must issue the same.
#include <algorithm>
#include <cstring>
#include <vector>

#include "async.h"
#include "cuda_device.h"
#include "emulator.h"
#include "races.h"
#include "shared.h"
#include "wgmma.h"

namespace emulator {
namespace products {
namespace {

using wgmma::THREADS;

bool early = false;  // Whether products happen when they are issued.

constexpr uint32_t POISON = 0xffa0dead;  // A signalling NaN, so that even adding to it changes it.

// The accumulators of unfinished products that add to the same ones.
struct Accumulators {
    unsigned cols = 0, unfinished = 0;
    float* registers[THREADS];
    std::vector<float> tile;  // Their true values, [64][cols].
    Place place;              // Of the latest product.

    void begin(unsigned cols_) {
        cols = cols_;
        std::fill(registers, registers + THREADS, nullptr);
        if (tile.size() < wgmma::ROWS * cols) tile.resize(wgmma::ROWS * cols);
    }
    unsigned count() const { return cols / 2; }  // Of a thread.
    bool overlaps(unsigned thread, const float* d, unsigned n) const {
        return unfinished && registers[thread] && d < registers[thread] + count() && registers[thread] < d + n;
    }
    void take(unsigned thread, float* d) {
        registers[thread] = d;
        for (unsigned i = 0; i < count(); i += 2) memcpy(&tile[wgmma::element(thread, i, cols)], d + i, 8);
        if (early) return;
        for (unsigned i = 0; i < count(); ++i) memcpy(d + i, &POISON, 4);
    }
    void give(unsigned thread) const {
        float* const d = registers[thread];
        for (unsigned i = 0; i < count(); i += 2) memcpy(d + i, &tile[wgmma::element(thread, i, cols)], 8);
    }
    // Whether the program left a thread's accumulators as they are until the products are finished.
    bool untouched(unsigned thread, const std::vector<float>& expected) const {
        uint32_t changed = 0;
        for (unsigned i = 0; i < count(); ++i) {
            uint32_t found, left = POISON;
            memcpy(&found, registers[thread] + i, 4);
            if (early) memcpy(&left, &expected[wgmma::element(thread, i, cols)], 4);
            changed |= found ^ left;
        }
        return !changed;
    }
};

// A product that has not been waited for.
struct Issued {
    Number number;
    unsigned cols;
    wgmma::Operand a, b;
    bool from_registers;
    size_t accumulators;
    Place place;
    const void* pc;
    std::vector<const unsigned*> registers;

    bool same(const Issued& other) const {
        return number == other.number && cols == other.cols && from_registers == other.from_registers &&
               (from_registers || a == other.a) && b == other.b;
    }
};

struct Thread {
    size_t issued = 0, committed = 0;  // Products and groups that the warpgroup has not waited for.
    unsigned pending = 0;              // The argument of its wait.
    bool fenced = false;
};

struct Warpgroup {
    std::vector<Issued> issued;
    std::vector<size_t> ends;  // The end of each group in `issued`.
    std::vector<Accumulators> accumulators;
    Thread threads[THREADS];
};

std::vector<Warpgroup> warpgroups;
bool used = false;  // By the block.

Warpgroup& of_thread(unsigned thread) { return warpgroups[thread / THREADS]; }
Thread& this_thread() { return of_thread(running_thread_index()).threads[running_thread_index() % THREADS]; }

[[noreturn]] void fail(const std::string& message, const Place& place) {
    fail_at(CUDA_ERROR_LAUNCH_FAILED, message, place);
}

template <class Visit>
void for_chunks(const Issued& product, bool left, bool right, Visit visit) {
    for (unsigned i = 0; left && !product.from_registers && i < 2 * wgmma::ROWS; ++i) visit(product.a.chunk(i));
    for (unsigned i = 0; right && i < 2 * product.cols; ++i) visit(product.b.chunk(i));
}

// The race detector sees each warp's rows of the left operand as read by its first lane, and the right operand as read
// by the first lanes of two warps, so that every thread's write is one by another thread than some reader.
void note_reads(const Issued& product, unsigned warp) {
    const auto note = [&](uint32_t address) {
        races::read(shared::at(address, 16, "a product reads", product.place), 16, product.pc);
    };
    const unsigned first_row = warp * wgmma::WARP_ROWS, last_row = first_row + wgmma::WARP_ROWS;
    for (unsigned i = 0; !product.from_registers && i < 2 * wgmma::ROWS; ++i) {
        const unsigned row = product.a.major_lines ? i / 16 * 8 : i / 2;
        if (row >= first_row && row < last_row) note(product.a.chunk(i));
    }
    for_chunks(product, false, warp == 0 || warp == THREADS / wgmma::LANES - 1, note);
}

// The accumulators to which the running thread's product adds.
size_t find_accumulators(Warpgroup& group, unsigned thread, const float* d, unsigned cols) {
    size_t unused = group.accumulators.size();
    for (size_t i = 0; i < group.accumulators.size(); ++i) {
        const Accumulators& it = group.accumulators[i];
        if (it.unfinished && it.registers[thread] == d && it.cols == cols) return i;
        if (!it.unfinished) unused = i;
    }
    if (unused == group.accumulators.size()) group.accumulators.emplace_back();
    group.accumulators[unused].begin(cols);
    return unused;
}

void check_visible(const Issued& product) {
    uint32_t visible = 0;
    const auto check = [&](uint32_t address) {
        shared::at(address, 16, "a product reads", product.place);
        shared::check_visible(address, visible, product.place);
    };
    for_chunks(product, true, true, check);
}

// Adds the running thread's part of a product.
void issue(Warpgroup& group, unsigned thread, Issued product, const WgmmaCall& call) {
    Thread& own = group.threads[thread];
    if (own.issued == group.issued.size()) {
        check_visible(product);
        product.accumulators = find_accumulators(group, thread, call.d, call.cols);
        ++group.accumulators[product.accumulators].unfinished;
        if (product.from_registers) product.registers.resize(THREADS);
        group.issued.push_back(std::move(product));
    } else if (!product.same(group.issued[own.issued])) {
        fail("the threads of a warpgroup request different products", product.place);
    }
    Issued& known = group.issued[own.issued++];
    if (known.from_registers) known.registers[thread] = call.a_registers;
    Accumulators& sums = group.accumulators[known.accumulators];
    sums.place = known.place;
    if (sums.registers[thread] == call.d) return;
    if (sums.registers[thread]) fail("the threads of a warpgroup use different accumulators", known.place);
    for (const Accumulators& other : group.accumulators) {
        if (!other.overlaps(thread, call.d, call.cols / 2)) continue;
        fail("the accumulators of a product overlap those of an unfinished one", known.place);
    }
    sums.take(thread, call.d);
}

// Makes a product on the true values of its accumulators.
void make(Warpgroup& group, const Issued& product) {
    const wgmma::Product operands{product.number, product.cols, product.a, product.b,
                                  product.from_registers ? product.registers.data() : nullptr};
    wgmma::multiply(operands, group.accumulators[product.accumulators].tile.data(), product.place);
}

// Writes the true values to the threads' accumulators, which must still have what was left there.
void write_back(const Accumulators& sums, const std::vector<float>& expected, unsigned first) {
    for (unsigned thread = 0; thread < THREADS; ++thread) {
        if (!sums.untouched(thread, expected)) {
            set_running_thread(first + thread);
            fail("the accumulators of a product were changed before it was waited for", sums.place);
        }
        sums.give(thread);
    }
}

// All threads have issued a product that happens at once.
void make_early(unsigned first) {
    Warpgroup& group = of_thread(first);
    const Issued& product = group.issued.back();
    const Accumulators& sums = group.accumulators[product.accumulators];
    const std::vector<float> before = sums.tile;
    make(group, product);
    write_back(sums, before, first);
}

// Finishes the first product of a group that is waited for.
void finish(Warpgroup& group, const Issued& product, unsigned first) {
    for (unsigned warp = 0; races::checking && warp < THREADS / wgmma::LANES; ++warp) {
        set_running_thread(first + warp * wgmma::LANES);
        note_reads(product, warp);
    }
    Accumulators& sums = group.accumulators[product.accumulators];
    if (!early) {
        set_running_thread(first);
        check_visible(product);
        make(group, product);
    }
    if (sums.unfinished == 1) write_back(sums, sums.tile, first);
    --sums.unfinished;
}

// All threads wait for groups.
void finish_groups(unsigned first) {
    Warpgroup& group = of_thread(first);
    const Thread& leader = group.threads[0];
    for (unsigned thread = 1; thread < THREADS; ++thread) {
        const Thread& other = group.threads[thread];
        if (other.issued == leader.issued && other.committed == leader.committed && other.pending == leader.pending) {
            continue;
        }
        set_running_thread(first + thread);
        fail("the threads of a warpgroup wait for different products", Place{nullptr, 0});
    }
    if (leader.committed <= leader.pending) return;
    const size_t groups = leader.committed - leader.pending, count = group.ends[groups - 1];
    for (size_t i = 0; i < count; ++i) finish(group, group.issued[i], first);
    group.issued.erase(group.issued.begin(), group.issued.begin() + static_cast<ptrdiff_t>(count));
    group.ends.erase(group.ends.begin(), group.ends.begin() + static_cast<ptrdiff_t>(groups));
    for (size_t& end : group.ends) end -= count;
    for (Thread& thread : group.threads) {
        thread.issued -= count;
        thread.committed -= groups;
    }
}

}  // namespace

void begin_block(unsigned threads) {
    if (warpgroups.size() < (threads + THREADS - 1) / THREADS) warpgroups.resize((threads + THREADS - 1) / THREADS);
    early = settings().early_products;
    if (!used) return;
    used = false;
    for (Warpgroup& group : warpgroups) {
        group.issued.clear();
        group.ends.clear();
        for (Accumulators& sums : group.accumulators) sums.unfinished = 0;
        std::fill(group.threads, group.threads + THREADS, Thread());
    }
}

void end_thread() {
    if (!used || !this_thread().issued) return;
    fail("a thread ends without waiting for a product", of_thread(running_thread_index()).issued.back().place);
}

}  // namespace products
}  // namespace emulator

using namespace emulator;
using namespace emulator::products;

void emulator_wgmma(const WgmmaCall& call, const char* file, int line) {
    const Place place{file, line};
    require_target(90, true, "wgmma", place);
    const unsigned thread = running_thread_index(), first = thread / THREADS * THREADS;
    if (first + THREADS > running_thread_count()) fail("wgmma needs the 128 threads of a warpgroup", place);
    if (call.number == Number::tf32 && (call.left_major_lines || call.right_major_lines)) {
        fail("TF32 operands must be contiguous along k", place);
    }
    if (!this_thread().fenced) {
        fail("a product without wgmma_fence() since the warpgroup last waited for products", place);
    }
    const bool from_registers = call.a_registers;
    const wgmma::Operand a = from_registers ? wgmma::Operand{} : wgmma::decode(call.a, call.left_major_lines, place);
    const wgmma::Operand b = wgmma::decode(call.b, call.right_major_lines, place);
    const Issued product{call.number, call.cols, a, b, from_registers, 0, place, __builtin_return_address(0), {}};
    products::used = true;
    issue(of_thread(thread), thread % THREADS, product, call);
    if (races::checking && thread % wgmma::LANES == 0) note_reads(product, thread % THREADS / wgmma::LANES);
    if (early) wait_for_warpgroup(make_early, place);
}

void emulator_wgmma_fence(const char* file, int line) {
    require_target(90, true, "wgmma.fence", Place{file, line});
    this_thread().fenced = true;
    products::used = true;
}

void emulator_wgmma_commit(const char* file, int line) {
    Warpgroup& group = of_thread(running_thread_index());
    Thread& own = this_thread();
    if (own.committed == group.ends.size()) group.ends.push_back(own.issued);
    if (group.ends[own.committed++] != own.issued) {
        fail("the threads of a warpgroup commit different products", Place{file, line});
    }
    products::used = true;
}

void emulator_wgmma_wait(unsigned pending, const char* file, int line) {
    this_thread().pending = pending;
    this_thread().fenced = false;
    wait_for_warpgroup(finish_groups, Place{file, line});
}
