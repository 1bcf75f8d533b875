// The emulated cuBLAS: handles, modes and matrix products, which are queued in stream order on the emulated device.
#include "blas.h"

#include <cstdio>
#include <mutex>
#include <unordered_set>

struct Handle {
    CUcontext context = nullptr;
    CUstream stream = nullptr;
    void* workspace = nullptr;
    int math_mode = 0, pointer_mode = 0, atomics_mode = 0;
};

namespace {

std::mutex handles_lock;
std::unordered_set<Handle*> handles;

bool is_valid(Handle* handle) {
    std::lock_guard<std::mutex> guard(handles_lock);
    return handles.count(handle) != 0;
}

struct Batch {
    long long stride_a, stride_b, stride_c;
    int count;
};

// Computes the product of one call; runs when its stream reaches it.
CUresult run(Gemm g, const Batch& batch, const float* device_alpha, const float* device_beta) {
    if (device_alpha) {
        if (!cuda_emulator_range(device_alpha, 4) || !cuda_emulator_range(device_beta, 4)) {
            return CUDA_ERROR_ILLEGAL_ADDRESS;
        }
        g.alpha = *device_alpha;
        g.beta = *device_beta;
    }
    const bool reads = g.alpha != 0.0f && g.k > 0;
    const size_t a =
        extent(g.transpose_a ? g.k : g.m, g.transpose_a ? g.m : g.k, g.lda, batch.stride_a, batch.count, g.ab_type);
    const size_t b =
        extent(g.transpose_b ? g.n : g.k, g.transpose_b ? g.k : g.n, g.ldb, batch.stride_b, batch.count, g.ab_type);
    const size_t c = extent(g.m, g.n, g.ldc, batch.stride_c, batch.count, g.c_type);
    if ((reads && (!cuda_emulator_range(g.a, a) || !cuda_emulator_range(g.b, b))) || !cuda_emulator_range(g.c, c)) {
        fprintf(stderr, "CUDA emulator: a matrix of a cuBLAS product (m %ld, n %ld, k %ld) is not in device memory\n",
                g.m, g.n, g.k);
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    for (int i = 0; i < batch.count; ++i) {
        Gemm one = g;
        one.a = static_cast<const char*>(g.a) + i * batch.stride_a * static_cast<long long>(size_of(g.ab_type));
        one.b = static_cast<const char*>(g.b) + i * batch.stride_b * static_cast<long long>(size_of(g.ab_type));
        one.c = static_cast<char*>(g.c) + i * batch.stride_c * static_cast<long long>(size_of(g.c_type));
        emulator::gemm(one);
    }
    return CUDA_SUCCESS;
}

Status enqueue(Handle* handle, const Gemm& g, const std::function<CUresult()>& work) {
    const auto address = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); };
    Addresses writes = {address(g.c)};
    const Addresses reads = {address(g.a), address(g.b)};
    if (handle->workspace) writes.push_back(address(handle->workspace));
    const CUresult result = cuda_emulator_enqueue(handle->stream, "cuBLAS product", &work, &writes, &reads);
    return result == CUDA_SUCCESS ? SUCCESS : EXECUTION_FAILED;
}

Status product(Handle* handle, int transa, int transb, int m, int n, int k, const void* alpha, const void* a,
               int a_type, int lda, const void* b, int b_type, int ldb, const void* beta, void* c, int c_type, int ldc,
               Batch batch, int compute) {
    if (!is_valid(handle)) return NOT_INITIALIZED;
    if (m < 0 || n < 0 || k < 0 || batch.count < 0 || transa < 0 || transa > 2 || transb < 0 || transb > 2 || !alpha ||
        !beta) {
        return INVALID_VALUE;
    }
    const int a_rows = transa ? k : m, b_rows = transb ? n : k;
    if (lda < a_rows || lda < 1 || ldb < b_rows || ldb < 1 || ldc < m || ldc < 1) return INVALID_VALUE;
    Gemm g{m, n, k, transa != 0, transb != 0, a, b, c, lda, ldb, ldc, Type::f32, Type::f32, Rounding::none, 0, 0};
    if (a_type != b_type || !type_of(a_type, &g.ab_type) || !type_of(c_type, &g.c_type)) return NOT_SUPPORTED;
    if (g.c_type != g.ab_type && g.c_type != Type::f32) return NOT_SUPPORTED;
    if (!choose_rounding(compute, handle->math_mode, &g)) return NOT_SUPPORTED;
    if (m == 0 || n == 0 || batch.count == 0) return SUCCESS;
    if (const Status status = injected_status("CUDA_EMULATOR_CUBLAS_PRODUCT")) return status;
    if (handle->pointer_mode == 1) {
        const auto* device_alpha = static_cast<const float*>(alpha);
        const auto* device_beta = static_cast<const float*>(beta);
        return enqueue(handle, g, [=] { return run(g, batch, device_alpha, device_beta); });
    }
    g.alpha = *static_cast<const float*>(alpha);
    g.beta = *static_cast<const float*>(beta);
    return enqueue(handle, g, [=] { return run(g, batch, nullptr, nullptr); });
}

}  // namespace

BLAS_API cublasCreate_v2(Handle** handle) {
    if (cuda_emulator_refuse_during_capture() != CUDA_SUCCESS) return NOT_INITIALIZED;
    if (const Status status = injected_status("CUDA_EMULATOR_CUBLAS_CREATE")) return status;
    std::lock_guard<std::mutex> guard(handles_lock);
    const char* most = getenv("CUDA_EMULATOR_CUBLAS_HANDLES");  // The maximum number of handles, for tests.
    if (most && handles.size() >= strtoul(most, nullptr, 10)) return ALLOC_FAILED;
    handles.insert(*handle = new Handle);
    cuCtxGetCurrent(&(*handle)->context);
    return SUCCESS;
}

// According to its documentation, it synchronises the device, which invalidates captures.
BLAS_API cublasDestroy_v2(Handle* handle) {
    if (!is_valid(handle)) return NOT_INITIALIZED;
    cuda_emulator_synchronize(handle->context);
    std::lock_guard<std::mutex> guard(handles_lock);
    handles.erase(handle);
    delete handle;
    return SUCCESS;
}

BLAS_API cublasSetStream_v2(Handle* handle, CUstream stream) {
    if (!is_valid(handle)) return NOT_INITIALIZED;
    handle->stream = stream;
    return SUCCESS;
}

BLAS_API cublasGetStream_v2(Handle* handle, CUstream* stream) {
    if (!is_valid(handle)) return NOT_INITIALIZED;
    *stream = handle->stream;
    return SUCCESS;
}

BLAS_API cublasSetWorkspace_v2(Handle* handle, void* workspace, size_t bytes) {
    if (!is_valid(handle)) return NOT_INITIALIZED;
    if (reinterpret_cast<uintptr_t>(workspace) % 256 != 0) return INVALID_VALUE;
    if (bytes > 0 && !cuda_emulator_range(workspace, bytes)) return INVALID_VALUE;
    handle->workspace = workspace;
    return SUCCESS;
}

#define MODE(name, field)                                 \
    BLAS_API cublasSet##name(Handle* handle, int mode) {  \
        if (!is_valid(handle)) return NOT_INITIALIZED;    \
        handle->field = mode;                             \
        return SUCCESS;                                   \
    }                                                     \
    BLAS_API cublasGet##name(Handle* handle, int* mode) { \
        if (!is_valid(handle)) return NOT_INITIALIZED;    \
        *mode = handle->field;                            \
        return SUCCESS;                                   \
    }
MODE(MathMode, math_mode)
MODE(PointerMode_v2, pointer_mode)
MODE(AtomicsMode, atomics_mode)

BLAS_API cublasGetProperty(int which, int* value) {
    *value = which == 0 ? 13 : 0;
    return SUCCESS;
}

extern "C" __attribute__((visibility("default"))) const char* cublasGetStatusString(Status status) {
    switch (status) {
        case SUCCESS:
            return "the operation completed successfully";
        case NOT_INITIALIZED:
            return "the library was not initialized";
        case INVALID_VALUE:
            return "an unsupported value or parameter was passed to the function";
        case EXECUTION_FAILED:
            return "the GPU program failed to execute";
        case NOT_SUPPORTED:
            return "the functionality requested is not supported";
    }
    return "unknown status";
}

BLAS_API cublasSgemm_v2(Handle* handle, int transa, int transb, int m, int n, int k, const float* alpha, const float* a,
                        int lda, const float* b, int ldb, const float* beta, float* c, int ldc) {
    return product(handle, transa, transb, m, n, k, alpha, a, 0, lda, b, 0, ldb, beta, c, 0, ldc, {0, 0, 0, 1},
                   COMPUTE_32F);
}

BLAS_API cublasSgemmStridedBatched(Handle* handle, int transa, int transb, int m, int n, int k, const float* alpha,
                                   const float* a, int lda, long long stride_a, const float* b, int ldb,
                                   long long stride_b, const float* beta, float* c, int ldc, long long stride_c,
                                   int count) {
    return product(handle, transa, transb, m, n, k, alpha, a, 0, lda, b, 0, ldb, beta, c, 0, ldc,
                   {stride_a, stride_b, stride_c, count}, COMPUTE_32F);
}

BLAS_API cublasGemmEx(Handle* handle, int transa, int transb, int m, int n, int k, const void* alpha, const void* a,
                      int a_type, int lda, const void* b, int b_type, int ldb, const void* beta, void* c, int c_type,
                      int ldc, int compute, int) {
    return product(handle, transa, transb, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc,
                   {0, 0, 0, 1}, compute);
}

BLAS_API cublasGemmStridedBatchedEx(Handle* handle, int transa, int transb, int m, int n, int k, const void* alpha,
                                    const void* a, int a_type, int lda, long long stride_a, const void* b, int b_type,
                                    int ldb, long long stride_b, const void* beta, void* c, int c_type, int ldc,
                                    long long stride_c, int count, int compute, int) {
    return product(handle, transa, transb, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc,
                   {stride_a, stride_b, stride_c, count}, compute);
}

// y = alpha · op(A) · x + beta · y for contiguous vectors, as a matrix product with one column.
BLAS_API cublasSgemv_v2(Handle* handle, int trans, int m, int n, const float* alpha, const float* a, int lda,
                        const float* x, int incx, const float* beta, float* y, int incy) {
    if (incx != 1 || incy != 1) return NOT_SUPPORTED;
    const int rows = trans ? n : m, depth = trans ? m : n;
    return product(handle, trans, 0, rows, 1, depth, alpha, a, 0, lda, x, 0, depth > 0 ? depth : 1, beta, y, 0,
                   rows > 0 ? rows : 1, {0, 0, 0, 1}, COMPUTE_32F);
}
