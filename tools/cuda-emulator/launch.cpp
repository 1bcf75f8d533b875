// Launches: checks the device's limits and copies the parameters when a launch is called.
#include "launch.h"

#include <cstdio>
#include <cstdlib>

namespace emulator {
namespace {

CUresult refuse(const Function* function, const char* why) {
    log_message(std::string("launch of ") + function->kernel->name + " refused: " + why);
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult check_limits(const Function* function, const Launch& launch) {
    for (int axis = 0; axis < 3; ++axis) {
        if (launch.grid[axis] == 0 || launch.block[axis] == 0) return refuse(function, "a dimension of zero");
    }
    if (launch.grid[0] > 0x7fffffffu || launch.grid[1] > 65535 || launch.grid[2] > 65535) {
        return refuse(function, "the grid is too large");
    }
    const unsigned long long threads = 1ull * launch.block[0] * launch.block[1] * launch.block[2];
    if (threads > 1024 || launch.block[0] > 1024 || launch.block[1] > 1024 || launch.block[2] > 64) {
        return refuse(function, "the block is too large");
    }
    if (threads > function->kernel->max_threads) return refuse(function, "more threads than its launch bounds");
    if (launch.shared_bytes > static_cast<size_t>(function->shared_limit)) {
        return refuse(function, "more shared memory than its limit");
    }
    return CUDA_SUCCESS;
}

// The pointers passed to a kernel: those that it may write to, and those that it only reads.
struct PointerArguments {
    std::vector<uintptr_t> writes, reads;
};

PointerArguments pointer_arguments(const Launch& launch) {
    PointerArguments arguments;
    for (unsigned i = 0; i < launch.kernel->parameter_count; ++i) {
        const Pointers pointers = launch.kernel->parameter_pointers[i];
        for (unsigned word = 0; word < pointers.count; ++word) {
            uintptr_t address;
            __builtin_memcpy(&address, launch.parameters[i].data() + word * sizeof address, sizeof address);
            if (address) (word < pointers.reads ? arguments.reads : arguments.writes).push_back(address);
        }
    }
    return arguments;
}

// A pointer to pageable host memory would cause a fault on a GPU, but not on the host, so it is checked here.
void check_pointers(const std::vector<uintptr_t>& pointers) {
    for (const uintptr_t address : pointers) {
        if (find_allocation(address) || is_pinned(reinterpret_cast<void*>(address), 0)) continue;
        char text[64];
        snprintf(text, sizeof text, "argument 0x%zx is not a device pointer", static_cast<size_t>(address));
        fail_running(CUDA_ERROR_ILLEGAL_ADDRESS, text);
    }
}

// Appends the kernel's name to the file named by CUDA_EMULATOR_LAUNCHED after its first run.
void record_launch(const Kernel& kernel) {
    static const char* const path = getenv("CUDA_EMULATOR_LAUNCHED");
    static std::set<std::string> recorded;
    if (!path || !recorded.insert(kernel.name).second) return;
    if (FILE* file = fopen(path, "a")) {
        fprintf(file, "%s\n", kernel.name);
        fclose(file);
    }
}

}  // namespace

CUresult launch(const LaunchRequest& request) {
    const CUfunction handle = request.function;
    const Function* function = as_function(handle);
    if (!function || !is_stream(request.stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (request.extra || (!request.parameters && function->kernel->parameter_count)) return CUDA_ERROR_INVALID_VALUE;
    const auto &grid = request.grid, &block = request.block;
    Launch launch{function->kernel,
                  {grid[0], grid[1], grid[2]},
                  {block[0], block[1], block[2]},
                  request.shared_bytes,
                  {},
                  function->target,
                  request.dependent};
    if (CUresult refused = check_limits(function, launch)) return refused;
    for (unsigned i = 0; i < launch.kernel->parameter_count; ++i) {
        const auto* bytes = static_cast<const unsigned char*>(request.parameters[i]);
        launch.parameters.emplace_back(bytes, bytes + launch.kernel->parameter_sizes[i]);
    }
    PointerArguments arguments = pointer_arguments(launch);
    Operation operation{std::string("kernel ") + launch.kernel->name, [launch, arguments, handle] {
                            if (!as_function(handle)) {
                                fail_running(CUDA_ERROR_ILLEGAL_ADDRESS, "its module was unloaded before it ran");
                            }
                            check_pointers(arguments.reads);
                            check_pointers(arguments.writes);
                            run_grid(launch);
                            record_launch(*launch.kernel);
                            return CUDA_SUCCESS;
                        }};
    operation.writes = std::move(arguments.writes);
    operation.reads = std::move(arguments.reads);
    operation.dependent = request.dependent;
    return submit(request.stream, std::move(operation));
}

}  // namespace emulator

using namespace emulator;

CUDA_API cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void** parameters,
                        void** extra) {
    EMULATOR_ENTER();
    return launch({function,
                   {grid_x, grid_y, grid_z},
                   {block_x, block_y, block_z},
                   shared_bytes,
                   stream,
                   parameters,
                   extra,
                   false});
}

CUDA_API cuLaunchCooperativeKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                   CUstream, void**) {
    return CUDA_ERROR_NOT_SUPPORTED;
}
