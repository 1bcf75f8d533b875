// Events: marks in stream order, their times, and how they extend a capture to other streams.
#include "emulator.h"

namespace emulator {
namespace {

constexpr unsigned DISABLE_TIMING = 2;

Handles<Event> events;

CUresult refuse_captured(Event* event) {
    if (!event->capture) return CUDA_SUCCESS;
    event->capture->invalid = true;
    return CUDA_ERROR_CAPTURED_EVENT;
}

// A capturing stream waits for `event`, or a stream joins the capture in which `event` was recorded.
CUresult wait_in_capture(Stream* stream, Event* event) {
    if (!event->capture) {
        stream->capture->invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    if (stream->capture && stream->capture != event->capture) {
        stream->capture->invalid = event->capture->invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    }
    stream->capture = event->capture;
    event->capture->last[stream].insert(event->last.begin(), event->last.end());
    return CUDA_SUCCESS;
}

}  // namespace
}  // namespace emulator

using namespace emulator;

CUDA_API cuEventCreate(CUevent* event, unsigned flags) {
    EMULATOR_ENTER();
    *event = events.add(new Event{flags});
    return CUDA_SUCCESS;
}

// Does not wait: waits that were already queued keep the event's mark.
CUDA_API cuEventDestroy_v2(CUevent event) {
    EMULATOR_ENTER();
    return events.remove(event) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUDA_API cuEventRecord(CUevent event, CUstream stream) {
    EMULATOR_ENTER();
    if (!events.has(event) || !is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (is_capturing(stream)) {
        event->capture = stream->capture;
        event->last = stream->capture->last[stream];
        return stream->capture->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
    }
    if (CUresult refused = refuse_implicit(stream)) return refused;
    event->capture = nullptr;
    event->queried = false;
    event->mark = enqueue(stream, nullptr);
    return enforce_limits(stream);
}

// The first query returns "not ready", and the next runs the work, so that a program that polls makes progress.
CUDA_API cuEventQuery(CUevent event) {
    EMULATOR_ENTER();
    if (!events.has(event)) return CUDA_ERROR_INVALID_HANDLE;
    if (CUresult refused = refuse_captured(event)) return refused;
    if (CUresult refused = refuse_during_capture()) return refused;
    if (!event->mark || event->mark->done) return CUDA_SUCCESS;
    if (event->queried) return finish(event->mark);
    event->queried = true;
    return CUDA_ERROR_NOT_READY;
}

CUDA_API cuEventSynchronize(CUevent event) {
    EMULATOR_ENTER();
    if (!events.has(event)) return CUDA_ERROR_INVALID_HANDLE;
    if (CUresult refused = refuse_captured(event)) return refused;
    if (CUresult refused = refuse_during_capture()) return refused;
    return event->mark ? finish(event->mark) : CUDA_SUCCESS;
}

// Each stream has its own clock; waiting for an event advances the clock to the event's time.
CUDA_API cuEventElapsedTime(float* milliseconds, CUevent from, CUevent to) {
    EMULATOR_ENTER();
    for (CUevent event : {from, to}) {
        if (!events.has(event) || !event->mark || event->flags & DISABLE_TIMING) return CUDA_ERROR_INVALID_HANDLE;
        if (!event->mark->done) return CUDA_ERROR_NOT_READY;
    }
    const auto nanoseconds = static_cast<int64_t>(to->mark->nanoseconds - from->mark->nanoseconds);
    *milliseconds = static_cast<float>(nanoseconds) / 1e6f;
    return CUDA_SUCCESS;
}

// Drivers have this function since CUDA 12.8. An older driver would lack the symbol, which makes cudarc panic.
CUDA_API cuEventElapsedTime_v2(float* milliseconds, CUevent from, CUevent to) {
    if (settings().driver_version < 12080) return CUDA_ERROR_NOT_SUPPORTED;
    return cuEventElapsedTime(milliseconds, from, to);
}

CUDA_API cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    EMULATOR_ENTER();
    if (!events.has(event) || !is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    const bool named = reinterpret_cast<uintptr_t>(stream) > 2;
    if (named && (event->capture || (stream->capture && event->mark))) return wait_in_capture(stream, event);
    if (!event->mark || is_capturing(stream)) return CUDA_SUCCESS;
    if (CUresult refused = refuse_implicit(stream)) return refused;
    enqueue_wait(stream, event->mark);
    return CUDA_SUCCESS;
}
