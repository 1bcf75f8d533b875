// Copies and fills of memory, synchronous and in stream order.
//
// A copy from pageable host memory reads it when the call is made, and a copy to it has completed when the call
// returns. Pinned memory is accessed only when the stream executes the copy.
#include <cstring>
#include <memory>

#include "emulator.h"

namespace emulator {
namespace {

void* at(CUdeviceptr pointer) { return reinterpret_cast<void*>(pointer); }

bool is_device(CUdeviceptr pointer, size_t bytes) {
    return is_device_range(pointer, bytes) || is_pinned(at(pointer), bytes);
}

bool is_host(const void* pointer) { return pointer && !find_allocation(reinterpret_cast<uintptr_t>(pointer)); }

// Pinned memory must still be allocated when the copy runs, because freeing it does not wait for pending copies.
Operation copy_operation(const char* what, void* to, const void* from, size_t bytes) {
    const bool pinned_to = is_pinned(to, bytes), pinned_from = is_pinned(from, bytes);
    return {what, [=] {
                if ((pinned_to && !is_pinned(to, bytes)) || (pinned_from && !is_pinned(from, bytes))) {
                    fail_running(CUDA_ERROR_ILLEGAL_ADDRESS, "its page-locked memory was freed before it ran");
                }
                memmove(to, from, bytes);
                return CUDA_SUCCESS;
            }};
}

Operation fill_operation(CUdeviceptr to, unsigned value, size_t width, size_t count) {
    return {"cuMemset", [=] {
                auto* bytes = static_cast<unsigned char*>(at(to));
                for (size_t i = 0; width > 1 && i < count; ++i) memcpy(bytes + i * width, &value, width);
                if (width == 1) memset(bytes, static_cast<int>(value), count);
                return CUDA_SUCCESS;
            }};
}

// Runs a synchronous call: refused during a capture, and completed when it returns.
CUresult now(Operation operation) {
    if (CUresult refused = refuse_during_capture()) return refused;
    if (CUresult failed = submit(nullptr, std::move(operation))) return failed;
    return finish(static_cast<CUstream>(nullptr));
}

CUresult host_to_device(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    if (is_capturing(stream) || is_pinned(from, bytes)) {
        return submit(stream, copy_operation("cuMemcpyHtoD", at(to), from, bytes));
    }
    auto staged =
        std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    return submit(stream,
                  {"cuMemcpyHtoD",
                   [=] {
                       memcpy(at(to), staged->data(), bytes);
                       return CUDA_SUCCESS;
                   }},
                  bytes);
}

CUresult fill(CUdeviceptr to, unsigned value, size_t width, size_t count, CUstream stream) {
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (count == 0) return CUDA_SUCCESS;
    if (to % width != 0 || !is_device(to, width * count)) return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, fill_operation(to, value, width, count));
}

}  // namespace
}  // namespace emulator

using namespace emulator;

CUDA_API cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    EMULATOR_ENTER();
    if (bytes == 0) return CUDA_SUCCESS;
    if (!is_device(to, bytes) || !is_host(from)) return CUDA_ERROR_INVALID_VALUE;
    return now(copy_operation("cuMemcpyHtoD", at(to), from, bytes));
}

CUDA_API cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    EMULATOR_ENTER();
    if (bytes == 0) return CUDA_SUCCESS;
    if (!is_device(from, bytes) || !is_host(to)) return CUDA_ERROR_INVALID_VALUE;
    return now(copy_operation("cuMemcpyDtoH", to, at(from), bytes));
}

// The host does not wait for device-to-device copies.
CUDA_API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    EMULATOR_ENTER();
    if (bytes == 0) return CUDA_SUCCESS;
    if (!is_device(from, bytes) || !is_device(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult refused = refuse_during_capture()) return refused;
    return submit(nullptr, copy_operation("cuMemcpyDtoD", at(to), at(from), bytes));
}

CUDA_API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    EMULATOR_ENTER();
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (bytes == 0) return CUDA_SUCCESS;
    if (!is_device(to, bytes) || !is_host(from)) return CUDA_ERROR_INVALID_VALUE;
    return host_to_device(to, from, bytes, stream);
}

CUDA_API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    EMULATOR_ENTER();
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (bytes == 0) return CUDA_SUCCESS;
    if (!is_device(from, bytes) || !is_host(to)) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult failed = submit(stream, copy_operation("cuMemcpyDtoH", to, at(from), bytes))) return failed;
    return is_capturing(stream) || is_pinned(to, bytes) ? CUDA_SUCCESS : finish(stream);
}

CUDA_API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    EMULATOR_ENTER();
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (bytes == 0) return CUDA_SUCCESS;
    if (!is_device(from, bytes) || !is_device(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, copy_operation("cuMemcpyDtoD", at(to), at(from), bytes));
}

CUDA_API cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream stream) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
}

CUDA_API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
    EMULATOR_ENTER();
    return fill(to, value, 1, count, stream);
}

CUDA_API cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream stream) {
    EMULATOR_ENTER();
    return fill(to, value, 2, count, stream);
}

CUDA_API cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
    EMULATOR_ENTER();
    return fill(to, value, 4, count, stream);
}

CUDA_API cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
    EMULATOR_ENTER();
    if (CUresult refused = refuse_during_capture()) return refused;
    return fill(to, value, 1, count, nullptr);
}

CUDA_API cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) {
    EMULATOR_ENTER();
    if (CUresult refused = refuse_during_capture()) return refused;
    return fill(to, value, 4, count, nullptr);
}
