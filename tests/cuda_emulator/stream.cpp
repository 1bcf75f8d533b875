// Streams: work is queued and runs when the program waits for it, as on a GPU, so that a program which reads a result
// before it waited reads the old bytes here too. While a stream is capturing, its work goes into a graph instead.
//
// One queue serves all streams: the order of the calls is one of the orders that the streams and events allow. A graph
// keeps what its streams and events demand, and runs in other orders too.
#include <algorithm>
#include <deque>

#include "emulator.h"

namespace emulator {
namespace {

struct Queued {
    Context* context;
    std::shared_ptr<Operation> operation;
};

constexpr size_t QUEUE_LIMIT = 1024;
constexpr size_t STAGED_LIMIT = 64 << 20;

std::deque<Queued> queue;
size_t staged = 0;
Handles<Stream> streams;
bool flushing = false;

void invalidate(Stream* stream) {
    if (stream && stream->capture) stream->capture->invalid = true;
}

}  // namespace

uint64_t& device_nanoseconds() {
    static uint64_t now = 0;
    return now;
}

std::vector<std::shared_ptr<Capture>>& captures() {
    static auto* all = new std::vector<std::shared_ptr<Capture>>;
    return *all;
}

// Null, 1 and 2 are the legacy and per-thread default streams.
bool is_stream(Stream* stream) { return reinterpret_cast<uintptr_t>(stream) <= 2 || streams.has(stream); }

bool is_capturing(Stream* stream) { return streams.has(stream) && stream->capture; }

CUresult flush() {
    if (flushing) return CUDA_SUCCESS;
    flushing = true;
    CUresult result = CUDA_SUCCESS;
    while (!queue.empty() && result == CUDA_SUCCESS) {
        const Queued next = queue.front();
        queue.pop_front();
        if (next.context->failure) continue;
        device_nanoseconds() += 1000;
        result = run_guarded(next.operation->what, next.operation->run);
        if (result) next.context->failure = result;
    }
    if (queue.empty()) staged = 0;
    flushing = false;
    return result;
}

CUresult submit(Stream* stream, Operation operation, size_t staged_bytes) {
    auto shared = std::make_shared<Operation>(std::move(operation));
    if (is_capturing(stream)) {
        if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        auto& nodes = stream->capture->graph->nodes;
        auto& last = stream->capture->last[stream];
        nodes.push_back({shared, last});
        last = {nodes.size() - 1};
        return CUDA_SUCCESS;
    }
    queue.push_back({current_context(), shared});
    staged += staged_bytes;
    if (settings().blocking || queue.size() > QUEUE_LIMIT || staged > STAGED_LIMIT) return flush();
    return CUDA_SUCCESS;
}

CUresult refuse_during_capture() {
    bool refused = false;
    for (auto& capture : captures()) {
        const bool here = capture->thread == std::this_thread::get_id();
        if (capture->mode == 0 || (capture->mode == 1 && here)) {
            capture->invalid = true;
            refused = true;
        }
    }
    if (refused) say("a synchronous call was made while a stream is capturing");
    return refused ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

CUresult refuse_waiting_on(Stream* stream) {
    if (!is_capturing(stream)) return CUDA_SUCCESS;
    invalidate(stream);
    say("a call that waits for, or allocates on, a capturing stream");
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

}  // namespace emulator

using namespace emulator;

CUDA_API cuStreamCreate(CUstream* stream, unsigned flags) {
    EMULATOR_ENTER();
    *stream = streams.add(new Stream{current_context(), (flags & 1) == 0, nullptr});
    return CUDA_SUCCESS;
}

CUDA_API cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }

CUDA_API cuStreamDestroy_v2(CUstream stream) {
    EMULATOR_ENTER();
    if (!streams.has(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) {
        stream->capture->invalid = true;
        stream->capture->last.erase(stream);
    }
    const CUresult result = flush();
    streams.remove(stream);
    return result;
}

CUDA_API cuStreamSynchronize(CUstream stream) {
    EMULATOR_ENTER();
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (CUresult refused = refuse_waiting_on(stream)) return refused;
    if (CUresult refused = refuse_during_capture()) return refused;
    return flush();
}

CUDA_API cuStreamQuery(CUstream stream) { return cuStreamSynchronize(stream); }

CUDA_API cuCtxSynchronize() {
    EMULATOR_ENTER();
    if (!captures().empty()) {
        for (auto& capture : captures()) capture->invalid = true;
        say("cuCtxSynchronize while a stream is capturing");
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return flush();
}

CUDA_API cuStreamIsCapturing(CUstream stream, int* status) {
    EMULATOR_ENTER();
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    *status = !is_capturing(stream) ? 0 : stream->capture->invalid ? 2 : 1;
    return CUDA_SUCCESS;
}

CUDA_API cuLaunchHostFunc(CUstream stream, void (*function)(void*), void* data) {
    EMULATOR_ENTER();
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    return submit(stream, {"cuLaunchHostFunc", [function, data] {
                               function(data);
                               return CUDA_SUCCESS;
                           }});
}

// What the stand-in for cuBLAS calls: work in stream order, captured like any other.
extern "C" __attribute__((visibility("default"))) CUresult cuda_emulator_enqueue(
    CUstream stream, const char* what, const std::function<CUresult()>* run, const std::vector<uintptr_t>* writes,
    const std::vector<uintptr_t>* reads) {
    EMULATOR_ENTER();
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    return submit(stream, {what, *run, *writes, *reads});
}

extern "C" __attribute__((visibility("default"))) bool cuda_emulator_range(const void* pointer, size_t bytes) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    return is_live_range(reinterpret_cast<CUdeviceptr>(pointer), bytes) || is_pinned(pointer, bytes);
}

extern "C" __attribute__((visibility("default"))) CUresult cuda_emulator_refuse_during_capture() {
    EMULATOR_ENTER();
    return refuse_during_capture();
}
