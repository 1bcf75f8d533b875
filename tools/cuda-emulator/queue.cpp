// Pending work: one queue per stream, run as late and in as unusual an order as CUDA allows.
//
// Work runs when something waits for it, and only as much as necessary: the stream's earlier work, and the work of
// other streams that events order before it. If several streams are ready, waits alternate between preferring the
// oldest and the newest stream, so that a missing event gives wrong results in one of the two orders.
#include <algorithm>

#include "emulator.h"

namespace emulator {
namespace {

// If more work than this is pending, all of it runs, as on a GPU with a slow host.
constexpr size_t COUNT_LIMIT = 1024;
constexpr size_t STAGED_LIMIT = 64 << 20;

std::vector<std::shared_ptr<Queue>> queues;  // Oldest first.
std::map<std::pair<Context*, std::thread::id>, std::shared_ptr<Queue>> thread_queues;
size_t count = 0, staged = 0;
bool running = false, newest_first = false;
uint64_t* clock_of_running = nullptr;

Queue& queue_of(Stream* stream) {
    if (reinterpret_cast<uintptr_t>(stream) > 2) return *stream->queue;
    Context* context = current_context();
    const bool of_thread = reinterpret_cast<uintptr_t>(stream) == 2;
    auto& queue = of_thread ? thread_queues[{context, std::this_thread::get_id()}] : context->legacy;
    if (!queue) queue = open_queue(context, of_thread);
    return *queue;
}

// Work on the legacy stream waits for earlier work on all blocking streams, and vice versa.
void order_with_legacy(const Queue& queue, std::vector<std::shared_ptr<Work>>& after) {
    const Queue* legacy = queue.context->legacy.get();
    for (const auto& other : queues) {
        const bool ordered = legacy == &queue ? other->blocking : queue.blocking && other.get() == legacy;
        if (ordered && other->context == queue.context && !other->work.empty()) after.push_back(other->work.back());
    }
}

void push(Queue& queue, const std::shared_ptr<Work>& work) {
    work->queue = &queue;
    work->number = queue.first + queue.work.size();
    order_with_legacy(queue, work->after);
    queue.work.push_back(work);
    staged += work->staged;
    ++count;
}

// Marks `work` and everything that must run before it as required.
void require(const Work& work) {
    Queue& queue = *work.queue;
    for (uint64_t number = std::max(queue.required_end, queue.first); number <= work.number; ++number) {
        queue.required_end = number + 1;
        for (const auto& earlier : queue.work[number - queue.first]->after) {
            if (!earlier->done) require(*earlier);
        }
    }
}

void require_all(const Queue& queue) {
    if (!queue.work.empty()) require(*queue.work.back());
}

bool is_required(const Queue& queue) { return queue.required_end > queue.first; }

bool is_ready(const Queue& queue) {
    const auto& after = queue.work.front()->after;
    return std::all_of(after.begin(), after.end(), [](const auto& earlier) { return earlier->done; });
}

Queue* next() {
    for (size_t i = 0; i < queues.size(); ++i) {
        Queue& queue = *queues[newest_first ? queues.size() - 1 - i : i];
        if (is_required(queue) && is_ready(queue)) return &queue;
    }
    return nullptr;
}

CUresult run_first(Queue& queue) {
    const std::shared_ptr<Work> work = queue.work.front();
    CUresult result = queue.context->failure;
    if (!result) {
        for (const auto& earlier : work->after) queue.nanoseconds = std::max(queue.nanoseconds, earlier->nanoseconds);
        queue.nanoseconds += work->cost;
        clock_of_running = &queue.nanoseconds;
        if (work->operation) result = run_guarded(work->operation->what, work->operation->run);
        queue.context->failure = result;
    }
    work->nanoseconds = queue.nanoseconds;
    work->done = true;
    work->after.clear();
    queue.work.pop_front();
    ++queue.first;
    staged -= work->staged;
    --count;
    return result;
}

CUresult run_required() {
    if (running) return CUDA_SUCCESS;
    running = true;
    CUresult result = CUDA_SUCCESS;
    const auto required_count =
        std::count_if(queues.begin(), queues.end(), [](const auto& queue) { return is_required(*queue); });
    if (required_count > 1) newest_first = !newest_first;
    while (Queue* queue = next()) {
        const CUresult ran = run_first(*queue);
        if (!result) result = ran;
    }
    const auto is_over = [](const auto& queue) { return queue->closed && queue->work.empty(); };
    queues.erase(std::remove_if(queues.begin(), queues.end(), is_over), queues.end());
    running = false;
    return result;
}

}  // namespace

uint64_t& device_nanoseconds() { return *clock_of_running; }

std::shared_ptr<Queue> open_queue(Context* context, bool blocking) {
    auto queue = std::make_shared<Queue>();
    queue->context = context;
    queue->blocking = blocking;
    queues.push_back(queue);
    return queue;
}

// Its pending work still runs when it is required.
void close_queue(Queue& queue) {
    queue.closed = true;
    run_required();
}

std::shared_ptr<Work> enqueue(Stream* stream, std::shared_ptr<Operation> operation, size_t staged_bytes) {
    auto work = std::make_shared<Work>();
    work->operation = std::move(operation);
    work->staged = staged_bytes;
    work->cost = 1000;
    push(queue_of(stream), work);
    return work;
}

void enqueue_wait(Stream* stream, const std::shared_ptr<Work>& earlier) {
    if (earlier->done) return;
    auto work = std::make_shared<Work>();
    work->after.push_back(earlier);
    push(queue_of(stream), work);
}

CUresult enforce_limits(Stream* stream) {
    if (settings().blocking) return finish(stream);
    if (count <= COUNT_LIMIT && staged <= STAGED_LIMIT) return CUDA_SUCCESS;
    for (const auto& queue : queues) require_all(*queue);
    return run_required();
}

CUresult finish(const std::shared_ptr<Work>& work) {
    if (!work->done) require(*work);
    return run_required();
}

CUresult finish(Stream* stream) {
    Queue& queue = queue_of(stream);
    // A wait for the legacy stream also waits for the blocking streams that it is ordered after.
    if (queue.context->legacy.get() == &queue) {
        std::vector<std::shared_ptr<Work>> before;
        order_with_legacy(queue, before);
        for (const auto& work : before) require(*work);
    }
    require_all(queue);
    return run_required();
}

CUresult finish(Context* context) {
    for (const auto& queue : queues) {
        if (queue->context == context) require_all(*queue);
    }
    return run_required();
}

bool is_idle(Stream* stream) { return queue_of(stream).work.empty(); }

bool is_repeated_query(Stream* stream) {
    bool& queried = queue_of(stream).queried;
    queried = !queried;
    return !queried;
}

}  // namespace emulator
