// The emulated device's state and the interfaces between the source files of the emulated libcuda.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "cuda_types.h"
#include "registry.h"

struct MmaCall;
struct MatricesCall;

namespace emulator {

// ---- Settings, from the environment (settings.cpp).
struct Settings {
    int devices, driver_version, capability;  // capability: 10·major + minor.
    size_t memory_bytes;
    size_t graph_nodes;                 // Instantiating a graph with more nodes fails with out of memory.
    uint64_t graph_launch_nanoseconds;  // The cost of a graph launch on the device clock.
    bool blocking, reversed;
    bool early_copies, early_products;  // These happen as early as allowed instead of as late.
};
const Settings& settings();
int largest_shared();  // The most shared memory that a block can have, in bytes.

// ---- The global lock, and the check at the start of every call (device.cpp).
std::recursive_mutex& lock();
CUresult check_context();  // An error if not initialised, without a context, or after the context has failed.

struct Context {
    int device;
    int references = 0;
    bool primary = true;
    CUresult failure = CUDA_SUCCESS;          // Sticky, as on a GPU.
    std::shared_ptr<Queue> legacy = nullptr;  // The queue of the legacy default stream.
};
Context* current_context();

#define EMULATOR_ENTER()                                            \
    std::lock_guard<std::recursive_mutex> guard_(emulator::lock()); \
    if (CUresult unusable_ = emulator::check_context()) return unusable_

// ---- Memory (memory.cpp).
struct Allocation {
    unsigned id;
    uintptr_t start;  // The address that the program gets. Up to 255 bytes of canary follow, then an inaccessible page.
    size_t size;
    uintptr_t pages;  // The accessible pages, which hold canary before `start`.
    size_t page_bytes;
    bool freed = false, free_pending = false;
};
uintptr_t device_range();  // The start of the address range that contains all device memory.
size_t device_range_bytes();
CUresult allocate(size_t bytes, CUdeviceptr* pointer);
CUresult release(CUdeviceptr pointer);
Allocation* find_allocation(uintptr_t address);           // Live or freed, guard zones included.
bool is_device_range(CUdeviceptr pointer, size_t bytes);  // For checks when a call is made.
bool is_live_range(CUdeviceptr pointer, size_t bytes);    // For checks when work runs: a free may already be queued.
bool is_pinned(const void* pointer, size_t bytes);
CUresult check_guards(const char* what);  // An error if `what` wrote outside an allocation.
size_t memory_used();

// ---- Faults (faults.cpp): runs device code; a fault is logged to stderr and becomes a CUDA error.
CUresult run_guarded(const std::string& what, const std::function<CUresult()>& body);
[[noreturn]] void fail_running(CUresult error, const std::string& message);
struct Place;
[[noreturn]] void fail_at(CUresult error, const std::string& message, const Place& place);
std::string describe_address(uintptr_t address, bool writing);  // "wrote byte 4 of allocation #1, which has 4 bytes".
void log_message(const std::string& message);

// ---- Blocks (block.cpp).
// A PTX target: 90 and true for sm_90a.
struct Target {
    int capability;
    bool specific;
};
struct Launch {
    const Kernel* kernel;
    unsigned grid[3], block[3];
    size_t shared_bytes;
    std::vector<std::vector<unsigned char>> parameters;
    Target target;   // Of its module.
    bool dependent;  // It may be scheduled before the previous kernel of the stream has completed.
};
void run_grid(const Launch& launch);
void abandon_grid();  // Called after a fault in the running grid.
unsigned running_thread_index();
unsigned running_thread_count();  // Of the block.
// Fails unless the running kernel's target has an instruction: `capability` or later, or if `specific` exactly that one.
extern Target running_target;
[[noreturn]] void fail_target(int capability, bool specific, const char* instruction, const Place& place);
inline void require_target(int capability, bool specific, const char* instruction, const Place& place) {
    const Target target = running_target;
    const bool has = specific ? target.specific && target.capability == capability : target.capability >= capability;
    if (!has) fail_target(capability, specific, instruction, place);
}
void set_running_thread(unsigned thread);
// Waits until the 128 threads of the running thread's warpgroup wait for the same; then `complete` is called once, with
// the first of them.
void wait_for_warpgroup(void (*complete)(unsigned first), const Place& place);
std::string running_thread();  // ", block (0, 0, 0), thread (1, 0, 0)"; empty if no kernel is running.

// ---- Tensor cores (mma.cpp): computes the products of the 32 lanes of a warp; false if the lanes disagree on the
// shape.
bool multiply_in_warp(const MmaCall* const* lanes);
// Loads of matrix fragments (matrices.cpp), by the lanes of the warp that starts at thread `first`; false if the lanes
// disagree on the form.
bool load_in_warp(const MatricesCall* const* lanes, unsigned first);

// ---- Work in stream order (queue.cpp).
struct Operation {
    std::string what;
    std::function<CUresult()> run;
    // The device pointers passed to it, if known: those that it may write to, and those that it only reads.
    std::vector<uintptr_t> writes = {}, reads = {};
    bool dependent = false;  // A kernel that may be scheduled before the previous one has completed.
};
// An entry of a stream's queue: an operation, an event record, or a wait for work of other streams.
struct Work {
    Queue* queue = nullptr;  // Valid until it is done.
    uint64_t number = 0;     // Its sequence number in the queue.
    std::shared_ptr<Operation> operation = nullptr;
    std::vector<std::shared_ptr<Work>> after = {};
    size_t staged = 0;
    // On its stream's clock: its fixed cost, in addition to what the operation adds itself, and the time it completed.
    uint64_t cost = 0, nanoseconds = 0;
    bool done = false;
};
struct Queue {
    Context* context;
    bool blocking = false, closed = false, queried = false;
    std::deque<std::shared_ptr<Work>> work = {};
    uint64_t first = 0, required_end = 0;  // Sequence numbers of the front, and of the first work that need not run.
    uint64_t nanoseconds = 0;
};
std::shared_ptr<Queue> open_queue(Context* context, bool blocking);
void close_queue(Queue& queue);
std::shared_ptr<Work> enqueue(Stream* stream, std::shared_ptr<Operation> operation, size_t staged_bytes = 0);
void enqueue_wait(Stream* stream, const std::shared_ptr<Work>& earlier);
CUresult enforce_limits(Stream* stream);  // Called after queueing work: runs all work if there is too much.
// Each runs only the work that must have completed when it returns.
CUresult finish(const std::shared_ptr<Work>& work);
CUresult finish(Stream* stream);
CUresult finish(Context* context);
bool is_idle(Stream* stream);
bool is_repeated_query(Stream* stream);  // True for every second query.
// The clock of the running operation's stream. It counts work instead of time, so that decisions based on event times
// are reproducible: one microsecond per operation and one nanosecond per thread.
uint64_t& device_nanoseconds();

// ---- Streams, captures, events and graphs (stream.cpp, capture.cpp, event.cpp, graph.cpp).
// A captured operation and the indices of the nodes that it depends on.
struct Node {
    std::shared_ptr<Operation> operation;
    std::set<size_t> after;
};
struct Graph {
    std::vector<Node> nodes;
};
struct GraphExec {
    std::vector<Node> nodes;
    // Launches alternate between two orders that the dependencies allow: as recorded, and last recorded first. A
    // missing dependency gives wrong results in one of them.
    std::vector<size_t> orders[2];
    unsigned launches = 0;
};
struct Capture {
    Graph* graph;
    Stream* origin;
    int mode;
    std::thread::id thread;
    bool invalid = false;
    // The streams that take part, each with the nodes that its next node depends on.
    std::map<Stream*, std::set<size_t>> last;
};
struct Stream {
    std::shared_ptr<Queue> queue;
    std::shared_ptr<Capture> capture;
};
struct Event {
    unsigned flags;
    std::shared_ptr<Work> mark = nullptr;  // Null if it was never recorded.
    bool queried = false;
    std::shared_ptr<Capture> capture = nullptr;
    std::set<size_t> last = {};  // The captured nodes that a wait for it depends on.
};
bool is_stream(Stream* stream);
// Queues the operation, or adds it to the graph if the stream is capturing.
CUresult submit(Stream* stream, std::shared_ptr<Operation> operation, size_t staged_bytes = 0);
CUresult submit(Stream* stream, Operation operation, size_t staged_bytes = 0);
// Waits for all work of a context, which invalidates captures in it.
CUresult synchronize(Context* context);
// For calls that are not allowed during a capture: each invalidates the capture and returns an error.
CUresult refuse_during_capture();
CUresult refuse_waiting_on(Stream* stream);
CUresult refuse_implicit(Stream* stream);  // The legacy stream waits for blocking streams, including capturing ones.
bool is_capturing(Stream* stream);
std::vector<std::shared_ptr<Capture>>& captures();

// ---- Modules (module.cpp).
struct Function {
    const Kernel* kernel;
    Target target;
    int shared_limit = 48 * 1024;
};
Function* as_function(CUfunction handle);

// The set of valid handles of a type; calls with other handles are refused.
template <class T>
class Handles {
  public:
    T* add(T* handle) {
        known_.insert(handle);
        return handle;
    }
    bool has(T* handle) const { return known_.count(handle) != 0; }
    bool remove(T* handle) {
        if (known_.erase(handle) == 0) return false;
        delete handle;
        return true;
    }

  private:
    std::unordered_set<T*> known_;
};

}  // namespace emulator
