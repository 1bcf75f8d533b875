// The emulated device's state and the interfaces between the parts of libcuda's stand-in.
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

namespace emulator {

// ---- Settings, from the environment (settings.cpp).
struct Settings {
    int devices, driver_version, capability;  // capability: 10·major + minor.
    size_t memory_bytes;
    size_t graph_nodes;                 // A graph of more is refused, as for want of memory.
    uint64_t graph_launch_nanoseconds;  // What a launch of a graph takes on the device's clock.
    bool blocking, reversed;
};
const Settings& settings();

// ---- The one lock, and what every call checks first (device.cpp).
std::recursive_mutex& lock();
CUresult usable();  // Not initialised, no context, or the context's earlier error.

struct Context {
    int device;
    int references = 0;
    bool primary = true;
    CUresult failure = CUDA_SUCCESS;  // Sticky, as on a GPU.
    std::shared_ptr<Queue> legacy = nullptr;  // Of the default stream.
};
Context* current_context();

#define EMULATOR_ENTER()                                                     \
    std::lock_guard<std::recursive_mutex> guard_(emulator::lock());          \
    if (CUresult unusable_ = emulator::usable()) return unusable_

// ---- Memory (memory.cpp).
struct Allocation {
    unsigned id;
    uintptr_t start;  // What the program sees; at most 255 bytes of canary follow, then a page without access.
    size_t size;
    uintptr_t pages;  // The accessible pages, with canary before `start`.
    size_t page_bytes;
    bool freed = false, free_pending = false;
};
uintptr_t device_range();  // All device memory lies in this range of addresses.
size_t device_range_bytes();
CUresult allocate(size_t bytes, CUdeviceptr* pointer);
CUresult release(CUdeviceptr pointer);
Allocation* find_allocation(uintptr_t address);  // Live or freed, guard zones included.
bool is_device_range(CUdeviceptr pointer, size_t bytes);  // When a call is made.
bool is_live_range(CUdeviceptr pointer, size_t bytes);    // When it runs: a free may already wait behind it.
bool is_pinned(const void* pointer, size_t bytes);
CUresult check_guards(const char* what);  // A write outside its allocation.
size_t memory_used();

// ---- Faults (faults.cpp): runs device code, turning a fault into its error after a line on stderr.
CUresult run_guarded(const std::string& what, const std::function<CUresult()>& body);
[[noreturn]] void fail_running(CUresult error, const std::string& message);
void say(const std::string& message);

// ---- Blocks (block.cpp).
struct Launch {
    const Kernel* kernel;
    unsigned grid[3], block[3];
    size_t shared_bytes;
    std::vector<std::vector<unsigned char>> parameters;
};
void run_grid(const Launch& launch);
void abandon_grid();  // After a fault in it.
std::string running_thread();  // "block (0, 0, 0), thread (1, 0, 0)", while a kernel runs.

// ---- Tensor cores (mma.cpp): the products that the 32 lanes of a warp ask for; false where they disagree on the shape.
bool multiply_in_warp(const MmaCall* const* lanes);

// ---- Work in stream order (queue.cpp).
struct Operation {
    std::string what;
    std::function<CUresult()> run;
    // Device addresses that it is given to write to, or only to read from, where that is known.
    std::vector<uintptr_t> writes = {}, reads = {};
};
// A place in a stream's queue: an operation, an event's mark, or a wait for work of other streams.
struct Work {
    Queue* queue = nullptr;  // While it is not done.
    uint64_t number = 0;     // Its place there, counted from the first work ever.
    std::shared_ptr<Operation> operation = nullptr;
    std::vector<std::shared_ptr<Work>> after = {};
    size_t staged = 0;
    // On the clock of its stream: what it takes besides what it counts itself, and when it was done.
    uint64_t cost = 0, nanoseconds = 0;
    bool done = false;
};
struct Queue {
    Context* context;
    bool blocking = false, closed = false, asked = false;
    std::deque<std::shared_ptr<Work>> work = {};
    uint64_t first = 0, wanted = 0;  // Numbers of the front, and of the first work that nobody waits for.
    uint64_t nanoseconds = 0;
};
std::shared_ptr<Queue> open_queue(Context* context, bool blocking);
void close_queue(Queue& queue);
std::shared_ptr<Work> enqueue(Stream* stream, std::shared_ptr<Operation> operation, size_t staged_bytes = 0);
void enqueue_wait(Stream* stream, const std::shared_ptr<Work>& earlier);
CUresult keep_limits(Stream* stream);  // After work was queued: too much of it runs.
// Each runs what must have run for it, and nothing else.
CUresult finish(const std::shared_ptr<Work>& work);
CUresult finish(Stream* stream);
CUresult finish(Context* context);
bool is_idle(Stream* stream);
bool is_asked_again(Stream* stream);  // True for every second query.
// The clock of the running operation's stream. It counts work, not time, so that what is chosen by events is the same every
// time: a microsecond for every operation, a nanosecond for every thread.
uint64_t& device_nanoseconds();

// ---- Streams, captures, events and graphs (stream.cpp, capture.cpp, event.cpp, graph.cpp).
// A captured operation, and the earlier ones that it waits for.
struct Node {
    std::shared_ptr<Operation> operation;
    std::set<size_t> after;
};
struct Graph {
    std::vector<Node> nodes;
};
struct GraphExec {
    std::vector<Node> nodes;
    // Two orders that the dependencies allow, taken in turn: as recorded, and the last recorded first wherever it may be,
    // so that a missing dependency shows in the numbers of one of them.
    std::vector<size_t> orders[2];
    unsigned launches = 0;
};
struct Capture {
    Graph* graph;
    Stream* origin;
    int mode;
    std::thread::id thread;
    bool invalid = false;
    // The streams that take part, each with the nodes that its next one waits for.
    std::map<Stream*, std::set<size_t>> last;
};
struct Stream {
    std::shared_ptr<Queue> queue;
    std::shared_ptr<Capture> capture;
};
struct Event {
    unsigned flags;
    std::shared_ptr<Work> mark = nullptr;  // Null where it was never recorded.
    bool asked = false;
    std::shared_ptr<Capture> capture = nullptr;
    std::set<size_t> last = {};  // The nodes that whoever waits for it waits for.
};
bool is_stream(Stream* stream);
// Queues the operation, or records it where the stream is capturing.
CUresult submit(Stream* stream, std::shared_ptr<Operation> operation, size_t staged_bytes = 0);
CUresult submit(Stream* stream, Operation operation, size_t staged_bytes = 0);
// Waits for all of a context, which breaks the captures in it.
CUresult synchronize(Context* context);
// For calls that may not be made while a capture is under way: each invalidates it and says so.
CUresult refuse_during_capture();
CUresult refuse_waiting_on(Stream* stream);
CUresult refuse_implicit(Stream* stream);  // The legacy stream waits for blocking streams, so for one that is capturing.
bool is_capturing(Stream* stream);
std::vector<std::shared_ptr<Capture>>& captures();

// ---- Modules (module.cpp).
struct Function {
    const Kernel* kernel;
    int shared_limit = 48 * 1024;
};
const Kernel* find_kernel(const std::string& name);
Function* as_function(CUfunction handle);

// A set of handles in use: a call with any other is refused.
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
