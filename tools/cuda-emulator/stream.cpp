// Streams: operations are added to the stream's queue, or to a graph while the stream is capturing.
#include <cstdio>
#include <cstdlib>

#include "emulator.h"

namespace emulator {
namespace {

Handles<Stream> streams;

// Appends what a call submits to the file named by CUDA_EMULATOR_SUBMITTED, not what a graph repeats.
void record(const Operation& operation) {
    static const char* const path = getenv("CUDA_EMULATOR_SUBMITTED");
    if (!path) return;
    if (FILE* file = fopen(path, "a")) {
        fprintf(file, "%s%s\n", operation.dependent ? "dependent " : "", operation.what.c_str());
        fclose(file);
    }
}

}  // namespace

// Null, 1 and 2 are the legacy and per-thread default streams.
bool is_stream(Stream* stream) { return reinterpret_cast<uintptr_t>(stream) <= 2 || streams.has(stream); }

bool is_capturing(Stream* stream) { return streams.has(stream) && stream->capture; }

CUresult submit(Stream* stream, std::shared_ptr<Operation> operation, size_t staged_bytes) {
    if (is_capturing(stream)) {
        if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        auto& nodes = stream->capture->graph->nodes;
        auto& last = stream->capture->last[stream];
        nodes.push_back({std::move(operation), last});
        last = {nodes.size() - 1};
        return CUDA_SUCCESS;
    }
    if (CUresult refused = refuse_implicit(stream)) return refused;
    enqueue(stream, std::move(operation), staged_bytes);
    return enforce_limits(stream);
}

CUresult submit(Stream* stream, Operation operation, size_t staged_bytes) {
    record(operation);
    return submit(stream, std::make_shared<Operation>(std::move(operation)), staged_bytes);
}

}  // namespace emulator

using namespace emulator;

CUDA_API cuStreamCreate(CUstream* stream, unsigned flags) {
    EMULATOR_ENTER();
    *stream = streams.add(new Stream{open_queue(current_context(), (flags & 1) == 0), nullptr});
    return CUDA_SUCCESS;
}

CUDA_API cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }

// Does not wait: the stream's pending work still runs.
CUDA_API cuStreamDestroy_v2(CUstream stream) {
    EMULATOR_ENTER();
    if (!streams.has(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) {
        stream->capture->invalid = true;
        stream->capture->last.erase(stream);
    }
    close_queue(*stream->queue);
    streams.remove(stream);
    return CUDA_SUCCESS;
}

CUDA_API cuStreamSynchronize(CUstream stream) {
    EMULATOR_ENTER();
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (CUresult refused = refuse_waiting_on(stream)) return refused;
    if (CUresult refused = refuse_implicit(stream)) return refused;
    if (CUresult refused = refuse_during_capture()) return refused;
    return finish(stream);
}

// Every second query runs the work, so that a program that polls makes progress.
CUDA_API cuStreamQuery(CUstream stream) {
    EMULATOR_ENTER();
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (CUresult refused = refuse_waiting_on(stream)) return refused;
    if (CUresult refused = refuse_implicit(stream)) return refused;
    if (CUresult refused = refuse_during_capture()) return refused;
    if (is_idle(stream)) return CUDA_SUCCESS;
    return is_repeated_query(stream) ? finish(stream) : CUDA_ERROR_NOT_READY;
}

CUDA_API cuCtxSynchronize() {
    EMULATOR_ENTER();
    return synchronize(current_context());
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

// Called by the emulated cuBLAS and cuBLASLt: work in stream order, which can be captured like any other.
extern "C" __attribute__((visibility("default"))) CUresult cuda_emulator_enqueue(CUstream stream, const char* what,
                                                                                 const std::function<CUresult()>* run,
                                                                                 const std::vector<uintptr_t>* writes,
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

extern "C" __attribute__((visibility("default"))) CUresult cuda_emulator_synchronize(CUcontext context) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    return synchronize(context);
}
