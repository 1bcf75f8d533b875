// Initialisation, devices and contexts.
#include <cstdio>
#include <cstring>
#include <map>

#include "emulator.h"

namespace emulator {
namespace {

bool initialised = false;
std::map<int, Context*> primaries;
Handles<Context> contexts;
thread_local Context* current = nullptr;

bool is_device(CUdevice device) { return device >= 0 && device < settings().devices; }

}  // namespace

std::recursive_mutex& lock() {
    static auto* mutex = new std::recursive_mutex;
    return *mutex;
}

Context* current_context() { return current; }

CUresult check_context() {
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (!current || !contexts.has(current)) return CUDA_ERROR_INVALID_CONTEXT;
    return current->failure;
}

// Device attributes by CUdevice_attribute number; all others are zero.
static int attribute(int which) {
    static const std::map<int, int> values = {
        {1, 1024},                                   // Threads per block
        {2, 1024},                                   // Block x
        {3, 1024},                                   // Block y
        {4, 64},                                     // Block z
        {5, 2147483647}, {6, 65535}, {7, 65535},     // Grid
        {8, 48 * 1024},                              // Shared memory per block
        {9, 64 * 1024},                              // Constant memory
        {10, 32},                                    // Warp
        {12, 65536},                                 // Registers per block
        {13, 1000000},                               // Clock, kHz
        {16, 1},                                     // Multiprocessors: one block at a time
        {19, 1},                                     // Maps host memory
        {31, 1},                                     // Concurrent kernels
        {36, 1000000},   {37, 1024}, {38, 1 << 16},  // Memory clock, bus width, second-level cache
        {39, 2048},                                  // Threads per multiprocessor
        {40, 1},                                     // Copy engines
        {41, 1},                                     // Unified addressing
        {82, 65536},                                 // Registers per multiprocessor
        {106, 32},                                   // Blocks per multiprocessor
        {115, 1},                                    // Memory pools
    };
    constexpr int RESERVED = 1024;  // Of a multiprocessor's shared memory, for each block, since 8.0.
    if (which == 81) return largest_shared() + (settings().capability < 80 ? 0 : RESERVED);
    if (which == 97) return largest_shared();
    if (which == 75) return settings().capability / 10;
    if (which == 76) return settings().capability % 10;
    auto found = values.find(which);
    return found == values.end() ? 0 : found->second;
}

}  // namespace emulator

using namespace emulator;

CUDA_API cuInit(unsigned) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    if (settings().devices == 0) return CUDA_ERROR_NO_DEVICE;
    initialised = true;
    return CUDA_SUCCESS;
}

CUDA_API cuDriverGetVersion(int* version) {
    *version = settings().driver_version;
    return CUDA_SUCCESS;
}

CUDA_API cuDeviceGetCount(int* count) {
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    *count = settings().devices;
    return CUDA_SUCCESS;
}

CUDA_API cuDeviceGet(CUdevice* device, int ordinal) {
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (!is_device(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUDA_API cuDeviceGetName(char* name, int room, CUdevice device) {
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    snprintf(name, static_cast<size_t>(room), "CUDA emulator");
    return CUDA_SUCCESS;
}

CUDA_API cuDeviceGetUuid_v2(unsigned char* uuid, CUdevice device) {
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    memset(uuid, 0, 16);
    uuid[0] = static_cast<unsigned char>(device + 1);
    return CUDA_SUCCESS;
}

CUDA_API cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *bytes = settings().memory_bytes;
    return CUDA_SUCCESS;
}

CUDA_API cuDeviceGetAttribute(int* value, int which, CUdevice device) {
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *value = attribute(which);
    return CUDA_SUCCESS;
}

CUDA_API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    Context*& primary = primaries[device];
    if (!primary) primary = contexts.add(new Context{device});
    ++primary->references;
    *context = primary;
    return CUDA_SUCCESS;
}

// The last release clears the context's error, as a reset does on a GPU, but does not destroy the context.
CUDA_API cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    auto found = primaries.find(device);
    if (found == primaries.end() || found->second->references == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (--found->second->references > 0) return CUDA_SUCCESS;
    finish(found->second);
    found->second->failure = CUDA_SUCCESS;
    return CUDA_SUCCESS;
}

CUDA_API cuCtxCreate_v4(CUcontext* context, void*, unsigned, CUdevice device) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *context = current = contexts.add(new Context{device, 1, false});
    return CUDA_SUCCESS;
}

CUDA_API cuCtxDestroy_v2(CUcontext context) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    if (!contexts.has(context) || context->primary) return CUDA_ERROR_INVALID_CONTEXT;
    finish(context);
    contexts.remove(context);
    return CUDA_SUCCESS;
}

CUDA_API cuCtxGetCurrent(CUcontext* context) {
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    *context = current;
    return CUDA_SUCCESS;
}

CUDA_API cuCtxSetCurrent(CUcontext context) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (context && !contexts.has(context)) return CUDA_ERROR_INVALID_CONTEXT;
    current = context;
    return CUDA_SUCCESS;
}

CUDA_API cuCtxGetDevice(CUdevice* device) {
    EMULATOR_ENTER();
    *device = current->device;
    return CUDA_SUCCESS;
}

CUDA_API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    EMULATOR_ENTER();
    *least = 0;
    *greatest = -5;
    return CUDA_SUCCESS;
}

CUDA_API cuCtxSetFlags(unsigned) {
    EMULATOR_ENTER();
    return CUDA_SUCCESS;
}

CUDA_API cuCtxSetCacheConfig(int) {
    EMULATOR_ENTER();
    return CUDA_SUCCESS;
}

CUDA_API cuCtxSetLimit(int, size_t) {
    EMULATOR_ENTER();
    return CUDA_SUCCESS;
}

CUDA_API cuProfilerStart() { return CUDA_SUCCESS; }
CUDA_API cuProfilerStop() { return CUDA_SUCCESS; }

CUDA_API cuGetErrorName(CUresult error, const char** text) {
    switch (error) {
#define X(name, number, words) \
    case name:                 \
        *text = #name;         \
        return CUDA_SUCCESS;
        EMULATOR_RESULTS(X)
#undef X
    }
    *text = nullptr;
    return CUDA_ERROR_INVALID_VALUE;
}

CUDA_API cuGetErrorString(CUresult error, const char** text) {
    switch (error) {
#define X(name, number, words) \
    case name:                 \
        *text = words;         \
        return CUDA_SUCCESS;
        EMULATOR_RESULTS(X)
#undef X
    }
    *text = nullptr;
    return CUDA_ERROR_INVALID_VALUE;
}
