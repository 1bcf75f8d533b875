// Calls that invalidate a capture: calls that its mode prohibits, and waits that include the capturing stream.
//
// Potentially unsafe calls are prohibited in a thread that captures, except in relaxed mode, and in all threads while
// any thread captures in global mode. In every mode, it is prohibited to wait for a capturing stream, for its context,
// or, if the capturing stream is blocking, for the legacy stream. A prohibited call fails and invalidates the capture.
#include "emulator.h"

namespace emulator {

std::vector<std::shared_ptr<Capture>>& captures() {
    static auto* all = new std::vector<std::shared_ptr<Capture>>;
    return *all;
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
    if (refused) log_message("a synchronous call was made while a stream is capturing");
    return refused ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

CUresult refuse_waiting_on(Stream* stream) {
    if (!is_capturing(stream)) return CUDA_SUCCESS;
    stream->capture->invalid = true;
    log_message("a call waits for, or allocates on, a capturing stream");
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult refuse_implicit(Stream* stream) {
    if (reinterpret_cast<uintptr_t>(stream) > 1) return CUDA_SUCCESS;
    bool refused = false;
    for (auto& capture : captures()) {
        for (const auto& [taking_part, last] : capture->last) {
            const Queue& queue = *taking_part->queue;
            if (!queue.blocking || queue.context != current_context()) continue;
            capture->invalid = true;
            refused = true;
        }
    }
    if (refused) log_message("the legacy stream was used while a blocking stream is capturing");
    return refused ? CUDA_ERROR_STREAM_CAPTURE_IMPLICIT : CUDA_SUCCESS;
}

CUresult synchronize(Context* context) {
    bool refused = false;
    for (auto& capture : captures()) {
        if (capture->origin->queue->context != context) continue;
        capture->invalid = true;
        refused = true;
    }
    if (refused) log_message("a context was synchronised while one of its streams is capturing");
    return refused ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : finish(context);
}

}  // namespace emulator
