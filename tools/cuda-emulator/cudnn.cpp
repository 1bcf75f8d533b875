// The emulated cuDNN's backend API: descriptors whose attributes are checked, heuristics that propose engines of several
// kinds, and plans that run on the emulated device. Numbers are those of cudnn_backend.h.
#include "cudnn.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>

#include "blas.h"

namespace {

using emulator::Convolution;
using emulator::Direction;
using emulator::elements;

enum CudnnStatus : int {
    OK = 0,
    CUDNN_NOT_INITIALIZED = 1001,
    BAD_PARAM = 2000,
    MISALIGNED = 2003,
    NOT_FINALIZED = 2004,
    SIZE_INSUFFICIENT = 2006,
    SHAPE_MISMATCH = 2008,
    ATTRIBUTE_TYPE = 2010,
    CUDNN_NOT_SUPPORTED = 3000,
    LAYOUT = 3004,
    CUDNN_EXECUTION_FAILED = 5000
};

enum Kind {
    CONVOLUTION = 1,
    ENGINE = 2,
    ENGINE_CONFIGURATION = 3,
    HEURISTIC = 4,
    PLAN = 5,
    FORWARD = 10,
    BACKWARD_FILTER = 11,
    BACKWARD_DATA = 12,
    GRAPH = 15,
    VARIANT_PACK = 16,
    TENSOR = 17
};

enum AttributeType {
    HANDLE = 0,
    DATA_TYPE = 1,
    INT64 = 3,
    FLOAT = 4,
    POINTER = 6,
    MODE = 7,
    HEURISTIC_MODE = 8,
    NOTE = 11,
    DESCRIPTOR = 15
};

// An attribute that a descriptor needs: its number, its type and how many values it has.
struct Attribute {
    int number, type;
    int64_t count;
};

const std::map<int, std::vector<Attribute>> ATTRIBUTES = {
    {CONVOLUTION,
     {{100, DATA_TYPE, 1},
      {101, MODE, 1},
      {102, INT64, 2},
      {103, INT64, 2},
      {104, INT64, 2},
      {105, INT64, 2},
      {106, INT64, 1}}},
    {HEURISTIC, {{200, HEURISTIC_MODE, 1}, {201, DESCRIPTOR, 1}}},
    {PLAN, {{400, HANDLE, 1}, {401, DESCRIPTOR, 1}}},
    {FORWARD,
     {{700, FLOAT, 1},
      {701, FLOAT, 1},
      {702, DESCRIPTOR, 1},
      {703, DESCRIPTOR, 1},
      {704, DESCRIPTOR, 1},
      {705, DESCRIPTOR, 1}}},
    {BACKWARD_DATA,
     {{706, FLOAT, 1},
      {707, FLOAT, 1},
      {708, DESCRIPTOR, 1},
      {709, DESCRIPTOR, 1},
      {710, DESCRIPTOR, 1},
      {711, DESCRIPTOR, 1}}},
    {BACKWARD_FILTER,
     {{712, FLOAT, 1},
      {713, FLOAT, 1},
      {714, DESCRIPTOR, 1},
      {715, DESCRIPTOR, 1},
      {716, DESCRIPTOR, 1},
      {717, DESCRIPTOR, 1}}},
    {GRAPH, {{800, HANDLE, 1}, {801, DESCRIPTOR, 1}}},
    {VARIANT_PACK, {{1000, INT64, 3}, {1001, POINTER, 3}, {1003, POINTER, 1}}},
    {TENSOR, {{900, INT64, 1}, {901, DATA_TYPE, 1}, {902, INT64, 4}, {903, INT64, 4}, {906, INT64, 1}}},
};

size_t bytes_of(int type) { return type == HANDLE || type == INT64 || type == POINTER || type == DESCRIPTOR ? 8 : 4; }

enum Note { TENSOR_CORE = 0, DOWN_CONVERT_INPUTS = 1, REDUCED_PRECISION_REDUCTION = 2, NONDETERMINISTIC = 4 };

struct Engine {
    std::vector<int> notes;
    int64_t workspace;
};

// What the heuristics propose, the best first. Only the last two may be used, and the last one by its fallback mode.
const Engine ENGINES[] = {
    {{TENSOR_CORE, NONDETERMINISTIC}, 0},
    {{TENSOR_CORE, DOWN_CONVERT_INPUTS}, 0},
    {{TENSOR_CORE, REDUCED_PRECISION_REDUCTION}, 0},
    {{TENSOR_CORE}, int64_t{1} << 50},
    {{TENSOR_CORE}, 512},
    {{}, 0},
};
constexpr int FALLBACK = 5;

CudnnStatus injected(const char* name) {
    const char* text = getenv(name);
    return text && *text ? static_cast<CudnnStatus>(atoi(text)) : OK;
}

}  // namespace

struct CudnnHandle {
    uint64_t mark;
    CUstream stream;
};
constexpr uint64_t HANDLE_MARK = 0x6e'6e'64'75'63;

struct Descriptor {
    int kind;
    bool finalized = false;
    std::map<int, std::vector<unsigned char>> attributes;
    // Of a configuration and its engine: the index of the engine, and the graph that it was proposed for.
    int engine = -1;
    Descriptor* graph = nullptr;

    template <class T>
    T get(int attribute, size_t index = 0) const {
        T value;
        memcpy(&value, attributes.at(attribute).data() + index * sizeof value, sizeof value);
        return value;
    }

    template <size_t N>
    std::array<int64_t, N> sizes(int attribute) const {
        std::array<int64_t, N> values;
        for (size_t i = 0; i < N; ++i) values[i] = get<int64_t>(attribute, i);
        return values;
    }
};

namespace {

// An operation's convolution, input, weight and output, or their gradients.
std::array<const Descriptor*, 4> parts_of(const Descriptor& operation) {
    const std::array<int, 4> numbers = operation.kind == FORWARD           ? std::array{702, 704, 703, 705}
                                       : operation.kind == BACKWARD_FILTER ? std::array{714, 716, 715, 717}
                                                                           : std::array{708, 710, 709, 711};
    std::array<const Descriptor*, 4> parts;
    for (size_t i = 0; i < 4; ++i) parts[i] = operation.get<Descriptor*>(numbers[i]);
    return parts;
}

const Descriptor& operation_of(const Descriptor& graph) { return *graph.get<Descriptor*>(801); }

// The convolution of a graph; checks its tensors.
CudnnStatus convolution_of(const Descriptor& graph, Convolution* c) {
    const Descriptor& operation = operation_of(graph);
    const auto parts = parts_of(operation);
    c->direction = operation.kind == FORWARD           ? Direction::forward
                   : operation.kind == BACKWARD_FILTER ? Direction::backward_weight
                                                       : Direction::backward_input;
    const Descriptor& window = *parts[0];
    c->dilation = window.sizes<2>(102);
    c->stride = window.sizes<2>(103);
    c->padding = window.sizes<2>(105);
    if (window.get<int64_t>(106) != 2 || window.get<int>(100) != 0 || window.get<int>(101) != 1)
        return CUDNN_NOT_SUPPORTED;
    if (window.sizes<2>(104) != c->padding) return CUDNN_NOT_SUPPORTED;
    std::array<int64_t, 4>* sizes[] = {&c->input, &c->weight, &c->output};
    for (size_t i = 0; i < 3; ++i) {
        const Descriptor& tensor = *parts[i + 1];
        const auto size = *sizes[i] = tensor.sizes<4>(902);
        if (tensor.sizes<4>(903) != std::array{size[1] * size[2] * size[3], int64_t{1}, size[1] * size[3], size[1]})
            return LAYOUT;
        const int type = tensor.get<int>(901);  // bfloat16 is 9, but 14 in CUDA's numbering.
        if (!type_of(type == 9 ? 14 : type, &c->types[i])) return CUDNN_NOT_SUPPORTED;
    }
    const auto along = [&](size_t side) {
        const int64_t extent = c->dilation[side] * (c->weight[side + 2] - 1) + 1;
        return (c->input[side + 2] + 2 * c->padding[side] - extent) / c->stride[side] + 1;
    };
    const bool divides = c->weight[1] > 0 && c->input[1] % c->weight[1] == 0 && c->weight[0] % c->groups() == 0;
    const std::array expected = {c->input[0], c->weight[0], along(0), along(1)};
    if (!divides || c->output != expected) return SHAPE_MISMATCH;
    return OK;
}

// Computes a convolution as an engine does; runs when its stream reaches it. The results of an engine that must not be
// used are far off, and differ between runs if it is not deterministic.
CUresult run(Convolution c, int engine, const std::array<void*, 3>& tensors, void* workspace) {
    static int runs = 0;
    const std::array<int64_t, 3> counts = {elements(c.input), elements(c.weight), elements(c.output)};
    for (size_t i = 0; i < 3; ++i) {
        if (!cuda_emulator_range(tensors[i], static_cast<size_t>(counts[i]) * size_of(c.types[i]))) {
            fprintf(stderr, "CUDA emulator: tensor %zu of a cuDNN convolution is not in device memory\n", i);
            return CUDA_ERROR_ILLEGAL_ADDRESS;
        }
    }
    const size_t workspace_bytes = static_cast<size_t>(ENGINES[engine].workspace);
    if (workspace_bytes > 0) {
        if (!cuda_emulator_range(workspace, workspace_bytes)) return CUDA_ERROR_ILLEGAL_ADDRESS;
        memset(workspace, 0xff, workspace_bytes);
    }
    const auto& notes = ENGINES[engine].notes;
    c.rounding = notes.empty() || c.types[0] != Type::f32 ? Rounding::none : Rounding::tf32;
    convolve(c, tensors);
    if (notes.size() > 1) {
        const size_t result = c.result();
        for (int64_t i = 0; i < counts[result]; ++i) {
            const float value = emulator::load_element(tensors[result], c.types[result], i);
            emulator::store_element(tensors[result], c.types[result], i,
                                    value * (1.5f + static_cast<float>(++runs % 7)));
        }
    }
    return CUDA_SUCCESS;
}

CudnnStatus execute(const CudnnHandle& handle, const Descriptor& plan, const Descriptor& pack) {
    const Descriptor& configuration = *plan.get<Descriptor*>(401);
    Convolution c;
    if (const CudnnStatus status = convolution_of(*configuration.graph, &c)) return status;
    const auto parts = parts_of(operation_of(*configuration.graph));
    std::array<void*, 3> tensors = {};
    for (size_t i = 0; i < 3; ++i) {
        const Descriptor& tensor = *parts[i + 1];
        for (size_t j = 0; j < 3; ++j) {
            if (pack.get<int64_t>(1000, j) == tensor.get<int64_t>(906)) tensors[i] = pack.get<void*>(1001, j);
        }
        if (!tensors[i]) return BAD_PARAM;
        if (reinterpret_cast<uintptr_t>(tensors[i]) % static_cast<uintptr_t>(tensor.get<int64_t>(900)) != 0)
            return MISALIGNED;
    }
    void* workspace = pack.get<void*>(1003);
    const int engine = configuration.engine;
    if (ENGINES[engine].workspace > 0 && !workspace) return SIZE_INSUFFICIENT;
    const auto address = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); };
    const size_t result = c.result();
    Addresses writes = {address(tensors[result])}, reads;
    if (workspace) writes.push_back(address(workspace));
    for (size_t i = 0; i < 3; ++i) {
        if (i != result) reads.push_back(address(tensors[i]));
    }
    const std::function<CUresult()> work = [=] { return run(c, engine, tensors, workspace); };
    const CUresult queued = cuda_emulator_enqueue(handle.stream, "cuDNN convolution", &work, &writes, &reads);
    return queued == CUDA_SUCCESS ? OK : CUDNN_EXECUTION_FAILED;
}

}  // namespace

#define CUDNN_API extern "C" __attribute__((visibility("default")))

CUDNN_API size_t cudnnGetVersion() {
    const char* version = getenv("CUDA_EMULATOR_CUDNN_VERSION");
    return version ? strtoul(version, nullptr, 10) : 90'10'00;
}

CUDNN_API const char* cudnnGetErrorString(int status) {
    static const char* const names[] = {"CUDNN_STATUS_SUCCESS",
                                        "CUDNN_STATUS_NOT_INITIALIZED",
                                        "CUDNN_STATUS_BAD_PARAM",
                                        "CUDNN_STATUS_NOT_SUPPORTED",
                                        "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
                                        "CUDNN_STATUS_EXECUTION_FAILED"};
    return names[status / 1000];
}

CUDNN_API CudnnStatus cudnnCreate(CudnnHandle** handle) {
    if (cuda_emulator_refuse_during_capture() != CUDA_SUCCESS) return CUDNN_NOT_INITIALIZED;
    if (const CudnnStatus status = injected("CUDA_EMULATOR_CUDNN_CREATE")) return status;
    *handle = new CudnnHandle{HANDLE_MARK, nullptr};
    return OK;
}

CUDNN_API CudnnStatus cudnnDestroy(CudnnHandle* handle) {
    handle->mark = 0;
    delete handle;
    return OK;
}

CUDNN_API CudnnStatus cudnnSetStream(CudnnHandle* handle, CUstream stream) {
    handle->stream = stream;
    return OK;
}

CUDNN_API CudnnStatus cudnnBackendCreateDescriptor(int kind, Descriptor** descriptor) {
    if (kind != ENGINE && kind != ENGINE_CONFIGURATION && !ATTRIBUTES.count(kind)) return CUDNN_NOT_SUPPORTED;
    *descriptor = new Descriptor{kind, false, {}, -1, nullptr};
    return OK;
}

CUDNN_API CudnnStatus cudnnBackendDestroyDescriptor(Descriptor* descriptor) {
    delete descriptor;
    return OK;
}

CUDNN_API CudnnStatus cudnnBackendSetAttribute(Descriptor* descriptor, int attribute, int type, int64_t count,
                                               const void* values) {
    const auto allowed = ATTRIBUTES.find(descriptor->kind);
    if (allowed == ATTRIBUTES.end() || descriptor->finalized) return BAD_PARAM;
    for (const Attribute& known : allowed->second) {
        if (known.number != attribute) continue;
        if (known.type != type) return ATTRIBUTE_TYPE;
        if (known.count != count) return BAD_PARAM;
        const auto* bytes = static_cast<const unsigned char*>(values);
        descriptor->attributes[attribute].assign(bytes, bytes + static_cast<size_t>(count) * bytes_of(type));
        return OK;
    }
    return BAD_PARAM;
}

CUDNN_API CudnnStatus cudnnBackendFinalize(Descriptor* descriptor) {
    const auto needed = ATTRIBUTES.find(descriptor->kind);
    if (needed == ATTRIBUTES.end()) return BAD_PARAM;
    for (const Attribute& attribute : needed->second) {
        if (!descriptor->attributes.count(attribute.number)) return BAD_PARAM;
        if (attribute.type == HANDLE && descriptor->get<CudnnHandle*>(attribute.number)->mark != HANDLE_MARK)
            return BAD_PARAM;
        if (attribute.type != DESCRIPTOR) continue;
        const auto* part = descriptor->get<Descriptor*>(attribute.number);
        if (!part->finalized) return NOT_FINALIZED;
    }
    if (descriptor->kind == GRAPH) {
        Convolution c;
        if (const CudnnStatus status = convolution_of(*descriptor, &c)) return status;
    }
    if (descriptor->kind == PLAN) {
        if (cuda_emulator_refuse_during_capture() != CUDA_SUCCESS) return CUDNN_EXECUTION_FAILED;
        if (const CudnnStatus status = injected("CUDA_EMULATOR_CUDNN_PLAN")) return status;
    }
    descriptor->finalized = true;
    return OK;
}

CUDNN_API CudnnStatus cudnnBackendGetAttribute(Descriptor* descriptor, int attribute, int type, int64_t most,
                                               int64_t* count, void* values) {
    if (descriptor->kind == HEURISTIC && attribute == 202 && type == DESCRIPTOR && descriptor->finalized) {
        Convolution c;
        if (const CudnnStatus status = convolution_of(*descriptor->get<Descriptor*>(201), &c)) return status;
        if (c.types[0] != c.types[1] || c.types[0] != c.types[2]) {
            *count = 0;  // As in cuDNN, there are no engines for tensors of different types.
            return OK;
        }
        const bool fallback = descriptor->get<int>(200) == 2;
        const int first = fallback ? FALLBACK : 0, end = fallback ? FALLBACK + 1 : FALLBACK;
        *count = std::min<int64_t>(most, end - first);
        for (int64_t i = 0; i < *count; ++i) {
            Descriptor* configuration = static_cast<Descriptor**>(values)[i];
            if (configuration->kind != ENGINE_CONFIGURATION) return BAD_PARAM;
            configuration->engine = first + static_cast<int>(i);
            configuration->graph = descriptor->get<Descriptor*>(201);
            configuration->finalized = true;
        }
        return OK;
    }
    if (descriptor->kind == ENGINE_CONFIGURATION && attribute == 300 && type == DESCRIPTOR && descriptor->finalized) {
        Descriptor* engine = *static_cast<Descriptor**>(values);
        if (most != 1 || engine->kind != ENGINE) return BAD_PARAM;
        engine->engine = descriptor->engine;
        engine->finalized = true;
        *count = 1;
        return OK;
    }
    if (descriptor->kind == ENGINE && attribute == 1303 && type == NOTE && descriptor->finalized) {
        const auto& notes = ENGINES[descriptor->engine].notes;
        *count = std::min<int64_t>(most, static_cast<int64_t>(notes.size()));
        if (*count > 0) memcpy(values, notes.data(), static_cast<size_t>(*count) * sizeof notes[0]);
        return OK;
    }
    if (descriptor->kind == PLAN && attribute == 402 && type == INT64 && descriptor->finalized) {
        if (most != 1) return BAD_PARAM;
        *count = 1;
        memcpy(values, &ENGINES[descriptor->get<Descriptor*>(401)->engine].workspace, sizeof(int64_t));
        return OK;
    }
    return BAD_PARAM;
}

CUDNN_API CudnnStatus cudnnBackendExecute(CudnnHandle* handle, Descriptor* plan, Descriptor* pack) {
    if (handle->mark != HANDLE_MARK) return CUDNN_NOT_INITIALIZED;
    if (plan->kind != PLAN || pack->kind != VARIANT_PACK) return BAD_PARAM;
    if (!plan->finalized || !pack->finalized) return NOT_FINALIZED;
    if (const CudnnStatus status = injected("CUDA_EMULATOR_CUDNN_EXECUTE")) return status;
    return execute(*handle, *plan, *pack);
}
