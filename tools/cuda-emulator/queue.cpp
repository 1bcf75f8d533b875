// What was asked for and has not run: a queue for every stream, run as late and in as odd an order as CUDA allows.
//
// Work runs when something waits for it, and then no more than that: the stream's work before it, and the work of other
// streams that events order before it. Where several streams could go on, one wait prefers the oldest stream and the next
// wait the newest, so that a missing event shows in the numbers of one of them.
#include <algorithm>

#include "emulator.h"

namespace emulator {
namespace {

// More work than this runs at once, as on a GPU whose host is slow.
constexpr size_t COUNT_LIMIT = 1024;
constexpr size_t STAGED_LIMIT = 64 << 20;

std::vector<std::shared_ptr<Queue>> queues;  // In the order in which they were opened.
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

// The legacy stream and the blocking streams wait for one another, whatever comes between.
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

// Marks what must run before `work`, and itself.
void want(const Work& work) {
    Queue& queue = *work.queue;
    for (uint64_t number = std::max(queue.wanted, queue.first); number <= work.number; ++number) {
        queue.wanted = number + 1;
        for (const auto& earlier : queue.work[number - queue.first]->after) {
            if (!earlier->done) want(*earlier);
        }
    }
}

void want_all(const Queue& queue) {
    if (!queue.work.empty()) want(*queue.work.back());
}

bool is_wanted(const Queue& queue) { return queue.wanted > queue.first; }

bool may_go_on(const Queue& queue) {
    const auto& after = queue.work.front()->after;
    return std::all_of(after.begin(), after.end(), [](const auto& earlier) { return earlier->done; });
}

Queue* next() {
    for (size_t i = 0; i < queues.size(); ++i) {
        Queue& queue = *queues[newest_first ? queues.size() - 1 - i : i];
        if (is_wanted(queue) && may_go_on(queue)) return &queue;
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

CUresult run_wanted() {
    if (running) return CUDA_SUCCESS;
    running = true;
    CUresult result = CUDA_SUCCESS;
    const auto wanted = std::count_if(queues.begin(), queues.end(), [](const auto& queue) { return is_wanted(*queue); });
    if (wanted > 1) newest_first = !newest_first;
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

// Its work runs all the same, sooner or later.
void close_queue(Queue& queue) {
    queue.closed = true;
    run_wanted();
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

CUresult keep_limits(Stream* stream) {
    if (settings().blocking) return finish(stream);
    if (count <= COUNT_LIMIT && staged <= STAGED_LIMIT) return CUDA_SUCCESS;
    for (const auto& queue : queues) want_all(*queue);
    return run_wanted();
}

CUresult finish(const std::shared_ptr<Work>& work) {
    if (!work->done) want(*work);
    return run_wanted();
}

CUresult finish(Stream* stream) {
    Queue& queue = queue_of(stream);
    // Whoever waits for the legacy stream waits for what it would wait for.
    if (queue.context->legacy.get() == &queue) {
        std::vector<std::shared_ptr<Work>> before;
        order_with_legacy(queue, before);
        for (const auto& work : before) want(*work);
    }
    want_all(queue);
    return run_wanted();
}

CUresult finish(Context* context) {
    for (const auto& queue : queues) {
        if (queue->context == context) want_all(*queue);
    }
    return run_wanted();
}

bool is_idle(Stream* stream) { return queue_of(stream).work.empty(); }

bool is_asked_again(Stream* stream) {
    bool& asked = queue_of(stream).asked;
    asked = !asked;
    return !asked;
}

}  // namespace emulator
