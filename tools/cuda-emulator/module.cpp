// Modules: the kernel names are read from the PTX image, and the host-compiled kernels of those names run.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "emulator.h"

namespace emulator {

struct Module {
    Target target;
    std::set<std::string> entries;
    std::map<std::string, Function*> functions;
};

namespace {

Handles<Module> modules;
Handles<Function> functions;

std::map<std::string, Kernel>& kernels() {
    static auto* all = new std::map<std::string, Kernel>;
    return *all;
}

// The newest PTX version that the driver accepts, as 10·major + minor.
int newest_ptx() {
    const int major = settings().driver_version / 1000, minor = settings().driver_version % 1000 / 10;
    if (major >= 13) return 90 + minor;
    // CUDA 12.6 has PTX 8.5, as CUDA 12.5 does.
    if (major == 12) return 80 + (minor <= 5 ? minor : minor - 1);
    return 70 + minor;
}

// The number after directive `name`, or −1: 87 for ".version 8.7", 90 for ".target sm_90". `suffix` receives the letter
// after the target's number, if any.
int directive(const std::string& ptx, const std::string& name, std::string* suffix) {
    const size_t at = ptx.find(name);
    if (at == std::string::npos) return -1;
    int major = 0, minor = 0, read = 0;
    const char* rest = ptx.c_str() + at + name.size();
    if (sscanf(rest, " %d.%d%n", &major, &minor, &read) == 2) return major * 10 + minor;
    if (sscanf(rest, " sm_%d%n", &major, &read) != 1) return -1;
    *suffix = isalpha(static_cast<unsigned char>(rest[read])) ? std::string(1, rest[read]) : "";
    return major;
}

std::set<std::string> entries(const std::string& ptx) {
    std::set<std::string> names;
    for (size_t at = ptx.find(".entry"); at != std::string::npos; at = ptx.find(".entry", at + 1)) {
        const size_t from = ptx.find_first_not_of(" \t\r\n", at + 6);
        const size_t to = ptx.find_first_of(" \t\r\n(", from);
        if (from != std::string::npos && to != std::string::npos) names.insert(ptx.substr(from, to - from));
    }
    return names;
}

CUresult load(Module** module, const std::string& ptx) {
    std::string suffix;
    const int version = directive(ptx, ".version", &suffix), target = directive(ptx, ".target", &suffix);
    if (version < 0 || target < 0) return CUDA_ERROR_INVALID_PTX;
    if (version > newest_ptx()) {
        auto dotted = [](int number) { return std::to_string(number / 10) + "." + std::to_string(number % 10); };
        log_message("PTX " + dotted(version) + " is newer than the driver's " + dotted(newest_ptx()));
        return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    }
    // Targets such as sm_90a run only on exactly that compute capability.
    const bool runs = suffix == "a" ? target == settings().capability : target <= settings().capability;
    if (!runs) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    *module = modules.add(new Module{{target, suffix == "a"}, entries(ptx), {}});
    return CUDA_SUCCESS;
}

}  // namespace

void register_kernel(const Kernel& kernel) { kernels()[kernel.name] = kernel; }

Function* as_function(CUfunction handle) { return functions.has(handle) ? handle : nullptr; }

}  // namespace emulator

using namespace emulator;

CUDA_API cuModuleLoadData(CUmodule* module, const void* image) {
    EMULATOR_ENTER();
    if (CUresult refused = refuse_during_capture()) return refused;
    if (!image) return CUDA_ERROR_INVALID_VALUE;
    return load(module, static_cast<const char*>(image));
}

CUDA_API cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, void*, void*) {
    return cuModuleLoadData(module, image);
}

CUDA_API cuModuleLoad(CUmodule* module, const char* path) {
    EMULATOR_ENTER();
    if (CUresult refused = refuse_during_capture()) return refused;
    std::ifstream file(path, std::ios::binary);
    if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
    std::stringstream text;
    text << file.rdbuf();
    return load(module, text.str());
}

// Does not wait: a launched kernel that has not run yet fails.
CUDA_API cuModuleUnload(CUmodule module) {
    EMULATOR_ENTER();
    if (!modules.has(module)) return CUDA_ERROR_INVALID_HANDLE;
    if (CUresult refused = refuse_during_capture()) return refused;
    for (auto& named : module->functions) functions.remove(named.second);
    modules.remove(module);
    return CUDA_SUCCESS;
}

CUDA_API cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    EMULATOR_ENTER();
    if (!modules.has(module)) return CUDA_ERROR_INVALID_HANDLE;
    auto kernel = kernels().find(name);
    if (module->entries.count(name) == 0 || kernel == kernels().end()) return CUDA_ERROR_NOT_FOUND;
    Function*& made = module->functions[name];
    if (!made) made = functions.add(new Function{&kernel->second, module->target});
    *function = made;
    return CUDA_SUCCESS;
}

CUDA_API cuModuleGetGlobal_v2(CUdeviceptr*, size_t*, CUmodule, const char*) { return CUDA_ERROR_NOT_FOUND; }

CUDA_API cuFuncGetAttribute(int* value, int which, CUfunction handle) {
    EMULATOR_ENTER();
    const Function* function = as_function(handle);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    switch (which) {
        case 0:
            *value = static_cast<int>(function->kernel->max_threads);
            break;
        case 4:
            *value = 32;
            break;
        case 5:
        case 6:
            *value = settings().capability;
            break;
        case 8:
            *value = function->shared_limit;
            break;
        default:
            *value = 0;
    }
    return CUDA_SUCCESS;
}

CUDA_API cuFuncSetAttribute(CUfunction handle, int which, int value) {
    EMULATOR_ENTER();
    Function* function = as_function(handle);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (which != 8) return CUDA_SUCCESS;
    if (value < 0 || value > largest_shared()) return CUDA_ERROR_INVALID_VALUE;
    function->shared_limit = value;
    return CUDA_SUCCESS;
}

CUDA_API cuFuncSetCacheConfig(CUfunction handle, int) {
    EMULATOR_ENTER();
    return as_function(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUDA_API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction handle, int block_size, size_t) {
    EMULATOR_ENTER();
    if (!as_function(handle) || block_size <= 0) return CUDA_ERROR_INVALID_VALUE;
    *blocks = 2048 / block_size;
    return CUDA_SUCCESS;
}

CUDA_API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction handle, int block_size,
                                                              size_t shared, unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, handle, block_size, shared);
}
