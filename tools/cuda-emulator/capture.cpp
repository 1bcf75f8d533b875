// What breaks a capture: calls that its mode prohibits, and waits for whatever the capture is a part of.
//
// A thread must make no potentially unsafe call while it captures other than in relaxed mode, or while any thread captures
// in global mode. Whatever the mode, nothing may wait for a capturing stream, for its context, or for the legacy stream
// where the capturing one is blocking. A call that does is refused, and the capture is invalid.
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
    if (refused) say("a synchronous call was made while a stream is capturing");
    return refused ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

CUresult refuse_waiting_on(Stream* stream) {
    if (!is_capturing(stream)) return CUDA_SUCCESS;
    stream->capture->invalid = true;
    say("a call that waits for, or allocates on, a capturing stream");
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
    if (refused) say("a use of the legacy stream while a blocking stream is capturing");
    return refused ? CUDA_ERROR_STREAM_CAPTURE_IMPLICIT : CUDA_SUCCESS;
}

CUresult synchronize(Context* context) {
    bool refused = false;
    for (auto& capture : captures()) {
        if (capture->origin->queue->context != context) continue;
        capture->invalid = true;
        refused = true;
    }
    if (refused) say("a context was synchronised while one of its streams is capturing");
    return refused ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : finish(context);
}

}  // namespace emulator
