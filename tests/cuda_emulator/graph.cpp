// Stream capture, graphs made by it, and their replay.
#include <algorithm>

#include "emulator.h"

namespace emulator {
namespace {

Handles<Graph> graphs;
Handles<GraphExec> execs;

void end(const std::shared_ptr<Capture>& capture) {
    for (Stream* stream : capture->streams) stream->capture = nullptr;
    auto& all = captures();
    all.erase(std::remove(all.begin(), all.end(), capture), all.end());
}

}  // namespace
}  // namespace emulator

using namespace emulator;

CUDA_API cuStreamBeginCapture_v2(CUstream stream, int mode) {
    EMULATOR_ENTER();
    if (mode < 0 || mode > 2) return CUDA_ERROR_INVALID_VALUE;
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (reinterpret_cast<uintptr_t>(stream) <= 2) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture) return CUDA_ERROR_NOT_PERMITTED;
    auto capture = std::make_shared<Capture>();
    capture->graph = new Graph;
    capture->origin = stream;
    capture->mode = mode;
    capture->thread = std::this_thread::get_id();
    capture->streams.insert(stream);
    stream->capture = capture;
    captures().push_back(capture);
    return CUDA_SUCCESS;
}

CUDA_API cuStreamEndCapture(CUstream stream, CUgraph* graph) {
    EMULATOR_ENTER();
    *graph = nullptr;
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (!is_capturing(stream)) return CUDA_ERROR_NOT_PERMITTED;
    const std::shared_ptr<Capture> capture = stream->capture;
    if (capture->origin != stream) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    if (capture->mode != 2 && capture->thread != std::this_thread::get_id()) {
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    }
    end(capture);
    if (capture->invalid || !capture->unjoined.empty()) {
        delete capture->graph;
        return capture->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    }
    *graph = graphs.add(capture->graph);
    return CUDA_SUCCESS;
}

CUDA_API cuGraphInstantiateWithFlags(CUgraphExec* exec, CUgraph graph, unsigned long long flags) {
    EMULATOR_ENTER();
    if (!graphs.has(graph)) return CUDA_ERROR_INVALID_VALUE;
    if ((flags & 1 && flags & 4) || flags > 15) return CUDA_ERROR_INVALID_VALUE;
    *exec = execs.add(new GraphExec{graph->operations});
    return CUDA_SUCCESS;
}

CUDA_API cuGraphUpload(CUgraphExec exec, CUstream stream) {
    EMULATOR_ENTER();
    return execs.has(exec) && is_stream(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUDA_API cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    EMULATOR_ENTER();
    if (!execs.has(exec) || !is_stream(stream)) return CUDA_ERROR_INVALID_VALUE;
    for (const auto& operation : exec->operations) {
        if (CUresult failed = submit(stream, *operation)) return failed;
    }
    return CUDA_SUCCESS;
}

CUDA_API cuGraphGetNodes(CUgraph graph, void** nodes, size_t* count) {
    EMULATOR_ENTER();
    if (!graphs.has(graph)) return CUDA_ERROR_INVALID_VALUE;
    const size_t room = nodes ? *count : 0;
    for (size_t i = 0; i < room; ++i) {
        nodes[i] = i < graph->operations.size() ? graph->operations[i].get() : nullptr;
    }
    *count = graph->operations.size();
    return CUDA_SUCCESS;
}

CUDA_API cuGraphDestroy(CUgraph graph) {
    EMULATOR_ENTER();
    return graphs.remove(graph) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUDA_API cuGraphExecDestroy(CUgraphExec exec) {
    EMULATOR_ENTER();
    return execs.remove(exec) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
