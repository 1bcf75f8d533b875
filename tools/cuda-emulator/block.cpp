// Runs a grid block by block, with the threads of a block as fibers.
//
// A fiber runs threads one after another; the next fiber starts only when a thread waits for others. A kernel without
// barriers therefore runs as a plain loop. When all threads wait, those at complete barriers and shuffles are resumed.
// If none is complete, the kernel would hang on a GPU or read undefined values from missing lanes, so an error is
// reported.
#include "cuda_device.h"

#include <cstring>

#include "async.h"
#include "dependent.h"
#include "emulator.h"
#include "fiber.h"
#include "races.h"
#include "shared.h"

uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
namespace {

constexpr unsigned WARP_LANES = 32, WARPGROUP = 128;

struct Wait {
    enum Kind { none, barrier, warp, warpgroup, exited } kind = none;
    const char* file = nullptr;
    int line = 0;
    WarpOp op = WarpOp::sync;
    unsigned mask = 0, argument = 0, width = 32;
    uint64_t value = 0, result = 0;
    Fiber* fiber = nullptr;
    void (*complete)(unsigned first) = nullptr;  // For a warpgroup.
};

const Launch* launch = nullptr;
std::vector<void*> parameters;
std::vector<Wait> waits;  // Indexed by thread.
std::vector<Fiber*> fibers, waiting;
unsigned thread_count = 0, next_thread = 0, current = 0;
Fiber* running = nullptr;
bool in_kernel = false;

void set_thread(unsigned thread) {
    current = thread;
    threadIdx = {thread, 0, 0};
    races::set_thread(thread);
    if (thread < blockDim.x) return;  // Most blocks are one-dimensional, and the divisions cost more than many threads.
    threadIdx.x = thread % blockDim.x;
    threadIdx.y = thread / blockDim.x % blockDim.y;
    threadIdx.z = thread / blockDim.x / blockDim.y;
}

// The entry point of every fiber: runs threads that have not started, as long as there are any.
void fiber_main() {
    const bool reversed = settings().reversed;
    for (;;) {
        while (next_thread < thread_count) {
            const unsigned index = next_thread++;
            set_thread(reversed ? thread_count - 1 - index : index);
            launch->kernel->run_thread(parameters.data());
            copies::end_thread();
            products::end_thread();
            dependent::end_thread();
            waits[current].kind = Wait::exited;
        }
        Fiber::leave();
    }
}

void run_fiber(Fiber* fiber) {
    running = fiber;
    fiber->enter();
}

void stop_and_wait() {
    Fiber* fiber = running;
    const unsigned thread = current;
    waits[thread].fiber = fiber;
    fiber->waiting = true;
    fiber->thread = thread;
    Fiber::leave();
    set_thread(thread);
}

std::string at(const Wait& wait) { return std::string(wait.file ? wait.file : "?") + ":" + std::to_string(wait.line); }

// Releases the block's barrier if all threads of the block wait at it.
bool resolve_barrier() {
    const Wait& first = waits[0];
    if (first.kind != Wait::barrier) return false;
    for (const Wait& wait : waits) {
        if (wait.kind != Wait::barrier || wait.line != first.line) return false;
    }
    for (Wait& wait : waits) wait.fiber->released = true;
    shared::pass_barrier();
    if (races::checking) races::pass_barrier();
    return true;
}

unsigned source_lane(const Wait& wait, unsigned lane) {
    const unsigned group = lane & ~(wait.width - 1), last = group + wait.width - 1;
    unsigned source = lane;
    switch (wait.op) {
        case WarpOp::shuffle_from:
            return group + (wait.argument & (wait.width - 1));
        case WarpOp::shuffle_xor:
            source = lane ^ wait.argument;
            break;
        case WarpOp::shuffle_down:
            source = lane + wait.argument;
            break;
        case WarpOp::shuffle_up:
            return wait.argument > lane - group ? lane : lane - wait.argument;
        default:
            break;
    }
    return source > last ? lane : source;
}

bool is_reduction(WarpOp op) { return op == WarpOp::reduce_min || op == WarpOp::reduce_max; }

uint64_t reduce(WarpOp op, unsigned first_thread, unsigned mask) {
    uint64_t result = op == WarpOp::reduce_min ? ~0u : 0;
    for (unsigned lane = 0; lane < WARP_LANES; ++lane) {
        if (!(mask >> lane & 1)) continue;
        const uint64_t value = waits[first_thread + lane].value;
        if (op == WarpOp::reduce_min ? value < result : value > result) result = value;
    }
    return result;
}

// Completes the warp operation that `lane` waits at if all lanes of its mask wait at it.
bool resolve_warp(unsigned first_thread, unsigned lane) {
    const Wait& request = waits[first_thread + lane];
    if (request.kind != Wait::warp || request.fiber->released) return false;
    uint64_t ballot = 0;
    for (unsigned other = 0; other < WARP_LANES; ++other) {
        if (!(request.mask >> other & 1)) continue;
        if (first_thread + other >= thread_count) return false;
        const Wait& wait = waits[first_thread + other];
        if (wait.kind != Wait::warp || wait.mask != request.mask || wait.op != request.op || wait.fiber->released) {
            return false;
        }
        if (wait.value) ballot |= 1ull << other;
    }
    const unsigned mask = request.mask;
    const void* calls[WARP_LANES];
    for (unsigned other = 0; other < WARP_LANES; ++other) {
        if (!(mask >> other & 1)) continue;
        Wait& wait = waits[first_thread + other];
        wait.fiber->released = true;
        calls[other] = reinterpret_cast<const void*>(wait.value);
        if (wait.op == WarpOp::sync || wait.op == WarpOp::mma || wait.op == WarpOp::matrices) continue;
        if (wait.op == WarpOp::ballot || is_reduction(wait.op)) {
            wait.result = wait.op == WarpOp::ballot ? ballot : reduce(request.op, first_thread, mask);
            continue;
        }
        const unsigned source = source_lane(wait, other);
        if (!(mask >> source & 1)) {
            set_thread(first_thread + other);
            fail_running(CUDA_ERROR_LAUNCH_FAILED, "a shuffle reads a lane outside its mask, at " + at(wait));
        }
        wait.result = waits[first_thread + source].value;
    }
    const unsigned lanes = min(WARP_LANES, thread_count - first_thread);
    if (races::checking && request.op == WarpOp::sync && mask == ~0u >> (WARP_LANES - lanes)) {
        races::pass_warp(first_thread);
    }
    if (request.op == WarpOp::mma && !multiply_in_warp(reinterpret_cast<const MmaCall* const*>(calls))) {
        set_thread(first_thread);
        fail_running(CUDA_ERROR_LAUNCH_FAILED, "the lanes of a warp request different products, at " + at(request));
    }
    if (request.op == WarpOp::matrices &&
        !load_in_warp(reinterpret_cast<const MatricesCall* const*>(calls), first_thread)) {
        set_thread(first_thread);
        fail_running(CUDA_ERROR_LAUNCH_FAILED,
                     "the lanes of a warp request different forms of ldmatrix, at " + at(request));
    }
    return true;
}

// Completes what the warpgroup waits for if all of its threads wait for it.
bool resolve_warpgroup(unsigned first) {
    const Wait& leader = waits[first];
    if (leader.kind != Wait::warpgroup || first + WARPGROUP > thread_count) return false;
    for (unsigned thread = first; thread < first + WARPGROUP; ++thread) {
        if (waits[thread].kind != Wait::warpgroup || waits[thread].complete != leader.complete) return false;
    }
    for (unsigned thread = first; thread < first + WARPGROUP; ++thread) waits[thread].fiber->released = true;
    leader.complete(first);
    return true;
}

[[noreturn]] void report_stuck() {
    for (unsigned thread = 0; thread < thread_count; ++thread) {
        const Wait& wait = waits[thread];
        if (wait.kind == Wait::exited) continue;
        set_thread(thread);
        if (wait.kind == Wait::warp && wait.op == WarpOp::mma) {
            fail_running(CUDA_ERROR_LAUNCH_FAILED,
                         "not every lane of the warp takes part in a product, at " + at(wait));
        }
        if (wait.kind == Wait::warp && wait.op == WarpOp::matrices) {
            fail_running(CUDA_ERROR_LAUNCH_FAILED, "not every lane of the warp takes part in ldmatrix, at " + at(wait));
        }
        if (wait.kind == Wait::warp) {
            fail_running(CUDA_ERROR_LAUNCH_FAILED, "lanes named by a shuffle's mask never reach it, at " + at(wait));
        }
        if (wait.kind == Wait::warpgroup) {
            fail_running(CUDA_ERROR_LAUNCH_FAILED, "not every thread of the warpgroup takes part, at " + at(wait));
        }
        fail_running(CUDA_ERROR_LAUNCH_FAILED,
                     "divergent barrier: not every thread of the block reaches it, at " + at(wait));
    }
    fail_running(CUDA_ERROR_LAUNCH_FAILED, "the block is stuck");
}

void resume_released() {
    static std::vector<Fiber*> blocked, resumed;  // Static to reuse their memory.
    blocked.clear();
    resumed.clear();
    for (Fiber* fiber : waiting) (fiber->released ? resumed : blocked).push_back(fiber);
    for (Fiber* fiber : resumed) waits[fiber->thread].kind = Wait::none;
    for (Fiber* fiber : resumed) {
        fiber->waiting = fiber->released = false;
        run_fiber(fiber);
        (fiber->waiting ? blocked : fibers).push_back(fiber);
    }
    waiting.swap(blocked);
}

void run_block() {
    next_thread = 0;
    waits.resize(thread_count);
    for (Wait& wait : waits) wait.kind = Wait::none;
    while (next_thread < thread_count) {
        if (fibers.empty()) fibers.push_back(new Fiber(fiber_main));
        Fiber* fiber = fibers.back();
        fibers.pop_back();
        run_fiber(fiber);
        (fiber->waiting ? waiting : fibers).push_back(fiber);
    }
    while (!waiting.empty()) {
        const bool barrier_passed = resolve_barrier();  // If so, no thread waits for a warp operation.
        bool progress = barrier_passed;
        for (unsigned first = 0; first < thread_count && !barrier_passed; first += WARPGROUP) {
            if (resolve_warpgroup(first)) progress = true;
        }
        for (unsigned first = 0; first < thread_count && !barrier_passed; first += WARP_LANES) {
            for (unsigned lane = 0; lane < WARP_LANES && first + lane < thread_count; ++lane) {
                if (resolve_warp(first, lane)) progress = true;
            }
        }
        if (!progress) report_stuck();
        resume_released();
    }
}

void poison_shared() {
    const Kernel& kernel = *launch->kernel;
    if (kernel.shared) memset(kernel.shared, 0xff, static_cast<size_t>(kernel.shared_end - kernel.shared));
}

}  // namespace

Target running_target{0, false};

void run_grid(const Launch& request) {
    launch = &request;
    running_target = request.target;
    in_kernel = true;
    parameters.clear();
    for (const auto& bytes : request.parameters) parameters.push_back(const_cast<unsigned char*>(bytes.data()));
    gridDim = {request.grid[0], request.grid[1], request.grid[2]};
    blockDim = {request.block[0], request.block[1], request.block[2]};
    thread_count = blockDim.x * blockDim.y * blockDim.z;
    shared::begin_launch(request.shared_bytes);
    dependent::begin_launch(request.dependent);
    races::begin_launch(request);
    const uint64_t blocks = static_cast<uint64_t>(gridDim.x) * gridDim.y * gridDim.z;
    device_nanoseconds() += blocks * thread_count;
    for (uint64_t i = 0; i < blocks; ++i) {
        const uint64_t block = settings().reversed ? blocks - 1 - i : i;
        blockIdx.x = static_cast<unsigned>(block % gridDim.x);
        blockIdx.y = static_cast<unsigned>(block / gridDim.x % gridDim.y);
        blockIdx.z = static_cast<unsigned>(block / gridDim.x / gridDim.y);
        poison_shared();
        shared::begin_block(thread_count);
        copies::begin_block(thread_count);
        products::begin_block(thread_count);
        dependent::begin_block(thread_count);
        if (races::checking) races::begin_block(block, thread_count);
        run_block();
        shared::end_block();
    }
    in_kernel = false;
}

void abandon_grid() {
    if (!in_kernel) return;
    in_kernel = false;
    // The fibers are in the middle of threads that will never continue. Faults are rare, so the fibers are leaked and
    // new ones are created.
    waiting.clear();
    fibers.clear();
}

unsigned running_thread_index() { return current; }

unsigned running_thread_count() { return thread_count; }

void set_running_thread(unsigned thread) { set_thread(thread); }

void wait_for_warpgroup(void (*complete)(unsigned first), const Place& place) {
    Wait& wait = waits[current];
    wait.kind = Wait::warpgroup;
    wait.file = place.file;
    wait.line = place.line;
    wait.complete = complete;
    stop_and_wait();
}

void fail_target(int capability, bool specific, const char* instruction, const Place& place) {
    const std::string needed = "sm_" + std::to_string(capability) + (specific ? "a" : "");
    fail_at(CUDA_ERROR_LAUNCH_FAILED, std::string(instruction) + " needs a module for " + needed, place);
}

std::string running_thread() {
    if (!in_kernel) return "";
    auto triple = [](const uint3& v) {
        return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
    };
    return ", block " + triple(blockIdx) + ", thread " + triple(threadIdx);
}

}  // namespace emulator

using namespace emulator;

void emulator_barrier(const char* file, int line) {
    Wait& wait = waits[current];
    wait.kind = Wait::barrier;
    wait.file = file;
    wait.line = line;
    stop_and_wait();
}

uint64_t emulator_warp(WarpOp op, unsigned mask, uint64_t value, unsigned argument, unsigned width, const char* file,
                       int line) {
    const unsigned thread = current;
    Wait& wait = waits[thread];
    wait = Wait{Wait::warp, file, line, op, mask, argument, width, value, 0, nullptr, nullptr};
    if (!(mask >> (thread % WARP_LANES) & 1)) {
        fail_running(CUDA_ERROR_LAUNCH_FAILED, "a lane takes part in a shuffle whose mask omits it, at " + at(wait));
    }
    stop_and_wait();
    return waits[thread].result;
}
