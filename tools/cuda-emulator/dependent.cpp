// Programmatic dependent launch: the instruction that waits, and the launch attributes.
//
// A dependent kernel may run at the same time as its predecessor until its threads wait (griddepcontrol.wait). The
// emulator runs kernels one after another, so a kernel that does not wait would have the right results; it is an error
// instead. In the build that checks for races, so is an access of global memory before the wait, even of memory that the
// previous kernel does not write: that kernel may itself be waiting for one that does.
#include "dependent.h"

#include "cuda_device.h"
#include "emulator.h"
#include "launch.h"

namespace emulator {
namespace dependent {
namespace {

bool launched = false;  // The running kernel is dependent.
std::vector<bool> waited;

}  // namespace

void begin_launch(bool is_dependent) { launched = is_dependent; }

void begin_block(unsigned threads) {
    if (launched) waited.assign(threads, false);
}

bool is_early() { return launched && !waited[running_thread_index()]; }

void end_thread() {
    if (!is_early()) return;
    fail_running(CUDA_ERROR_LAUNCH_FAILED,
                 "a thread ends without griddepcontrol.wait, but its kernel was launched to overlap with the previous "
                 "one");
}

}  // namespace dependent

namespace {

// Attribute ids of CUlaunchAttributeID.
constexpr unsigned IGNORED = 0, PROGRAMMATIC_STREAM_SERIALIZATION = 6, NEWEST = 14;

CUresult refuse(const Function* function, CUresult error, const std::string& why) {
    log_message(std::string("launch of ") + function->kernel->name + " refused: " + why);
    return error;
}

// The first device and driver that allow a dependent launch, and the first driver that captures one.
constexpr int CAPABILITY = 90, CAPTURING_DRIVER = 12030;

CUresult check_dependent(const Function* function, Stream* stream) {
    if (settings().capability < CAPABILITY) {
        return refuse(function, CUDA_ERROR_NOT_SUPPORTED, "programmatic dependent launch needs compute capability 9.0");
    }
    if (is_capturing(stream) && settings().driver_version < CAPTURING_DRIVER) {
        stream->capture->invalid = true;
        return refuse(function, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                      "drivers before 12.3 do not capture a programmatic dependent launch");
    }
    return CUDA_SUCCESS;
}

CUresult read_attributes(const Function* function, const CUlaunchConfig& config, bool* dependent) {
    if (config.attribute_count > NEWEST + 1 || (config.attribute_count && !config.attributes)) {
        return refuse(function, CUDA_ERROR_INVALID_VALUE, "the number of launch attributes does not fit their array");
    }
    std::set<unsigned> ids;
    for (unsigned i = 0; i < config.attribute_count; ++i) {
        const CUlaunchAttribute& attribute = config.attributes[i];
        const std::string name = "launch attribute " + std::to_string(attribute.id);
        if (attribute.id == IGNORED) continue;
        if (attribute.id > NEWEST) return refuse(function, CUDA_ERROR_INVALID_VALUE, name + " does not exist");
        if (!ids.insert(attribute.id).second) {
            return refuse(function, CUDA_ERROR_INVALID_VALUE, name + " is given twice");
        }
        if (attribute.id != PROGRAMMATIC_STREAM_SERIALIZATION) {
            return refuse(function, CUDA_ERROR_NOT_SUPPORTED, name + " is not supported by the emulator");
        }
        *dependent = attribute.value.number != 0;
    }
    return CUDA_SUCCESS;
}

}  // namespace
}  // namespace emulator

using namespace emulator;

void emulator_wait_for_previous_kernel() {
    // The kernels are compiled once for all targets, of which those before sm_90 do not have the instruction.
    if (dependent::launched && running_target.capability >= 90) dependent::waited[running_thread_index()] = true;
}

CUDA_API cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction handle, void** parameters, void** extra) {
    EMULATOR_ENTER();
    if (!config) return CUDA_ERROR_INVALID_VALUE;
    const Function* function = as_function(handle);
    if (!function || !is_stream(config->stream)) return CUDA_ERROR_INVALID_HANDLE;
    LaunchRequest request{handle, {}, {}, config->shared_bytes, config->stream, parameters, extra, false};
    for (unsigned axis = 0; axis < 3; ++axis) {
        request.grid[axis] = config->grid[axis];
        request.block[axis] = config->block[axis];
    }
    if (CUresult refused = read_attributes(function, *config, &request.dependent)) return refused;
    if (request.dependent) {
        if (CUresult refused = check_dependent(function, config->stream)) return refused;
    }
    return launch(request);
}
