// Stream capture, the captured graphs, and their replay in orders that the dependencies allow.
#include <algorithm>

#include "emulator.h"

namespace emulator {
namespace {

Handles<Graph> graphs;
Handles<GraphExec> execs;

void end(const std::shared_ptr<Capture>& capture) {
    for (const auto& [stream, last] : capture->last) stream->capture = nullptr;
    auto& all = captures();
    all.erase(std::remove(all.begin(), all.end(), capture), all.end());
}

// Marks `node` and all nodes that it depends on.
void mark_before(const std::vector<Node>& nodes, size_t node, std::vector<bool>& marked) {
    if (marked[node]) return;
    marked[node] = true;
    for (size_t before : nodes[node].after) mark_before(nodes, before, marked);
}

// Whether the origin stream has waited for all work of the other streams.
bool is_joined(const Capture& capture) {
    const auto& nodes = capture.graph->nodes;
    std::vector<bool> marked(nodes.size());
    for (size_t last : capture.last.at(capture.origin)) mark_before(nodes, last, marked);
    return std::find(marked.begin(), marked.end(), false) == marked.end();
}

// A topological order that always takes the last recorded of the ready nodes.
std::vector<size_t> last_first(const std::vector<Node>& nodes) {
    std::vector<size_t> order;
    std::vector<bool> done(nodes.size());
    const auto is_done = [&](size_t node) { return done[node]; };
    while (order.size() < nodes.size()) {
        size_t next = nodes.size();
        do --next;
        while (done[next] || !std::all_of(nodes[next].after.begin(), nodes[next].after.end(), is_done));
        done[next] = true;
        order.push_back(next);
    }
    return order;
}

bool overlap(const std::vector<uintptr_t>& a, const std::vector<uintptr_t>& b) {
    return std::find_first_of(a.begin(), a.end(), b.begin(), b.end()) != a.end();
}

// Whether two nodes may run concurrently and one writes memory that the other accesses, such as a shared workspace. The
// emulator runs nodes one after another, so results would not show such a race.
bool has_races(const std::vector<Node>& nodes) {
    size_t sequential = 1;
    while (sequential < nodes.size() && nodes[sequential].after == std::set<size_t>{sequential - 1}) ++sequential;
    for (size_t later = sequential; later < nodes.size(); ++later) {
        std::vector<bool> before(nodes.size());
        mark_before(nodes, later, before);
        for (size_t node = 0; node < later; ++node) {
            const Operation &a = *nodes[node].operation, &b = *nodes[later].operation;
            if (before[node] ||
                !(overlap(a.writes, b.writes) || overlap(a.writes, b.reads) || overlap(b.writes, a.reads))) {
                continue;
            }
            log_message(a.what + " and " + b.what +
                        " may run concurrently, and one writes memory that the other accesses");
            return true;
        }
    }
    return false;
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
    capture->last[stream] = {};
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
    if (capture->invalid || !is_joined(*capture)) {
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
    if (graph->nodes.size() > settings().graph_nodes) return CUDA_ERROR_OUT_OF_MEMORY;
    // A GPU would run the graph, with wrong results now and then.
    if (has_races(graph->nodes)) return CUDA_ERROR_INVALID_VALUE;
    auto* made = new GraphExec{graph->nodes};
    for (size_t node = 0; node < made->nodes.size(); ++node) made->orders[0].push_back(node);
    made->orders[1] = last_first(made->nodes);
    *exec = execs.add(made);
    return CUDA_SUCCESS;
}

CUDA_API cuGraphUpload(CUgraphExec exec, CUstream stream) {
    EMULATOR_ENTER();
    return execs.has(exec) && is_stream(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUDA_API cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    EMULATOR_ENTER();
    if (!execs.has(exec) || !is_stream(stream)) return CUDA_ERROR_INVALID_VALUE;
    if (const uint64_t cost = settings().graph_launch_nanoseconds) {
        const auto spend = [cost] {
            device_nanoseconds() += cost;
            return CUDA_SUCCESS;
        };
        if (CUresult failed = submit(stream, {"cuGraphLaunch", spend})) return failed;
    }
    for (size_t node : exec->orders[exec->launches++ % 2]) {
        if (CUresult failed = submit(stream, exec->nodes[node].operation)) return failed;
    }
    return CUDA_SUCCESS;
}

CUDA_API cuGraphGetNodes(CUgraph graph, void** nodes, size_t* count) {
    EMULATOR_ENTER();
    if (!graphs.has(graph)) return CUDA_ERROR_INVALID_VALUE;
    const size_t room = nodes ? *count : 0;
    for (size_t i = 0; i < room; ++i) {
        nodes[i] = i < graph->nodes.size() ? graph->nodes[i].operation.get() : nullptr;
    }
    *count = graph->nodes.size();
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
