// The emulated cuBLASLt: descriptors, the heuristic, and matrix products with epilogues for bias, ReLU and their
// gradients.
#include "blas.h"

#include <cstdio>
#include <cstring>

namespace {

enum Epilogue : unsigned {
    DEFAULT = 1,
    RELU = 2,
    BIAS = 4,
    RELU_BIAS = RELU | BIAS,
    AUX = 128,
    RELU_AUX_BIAS = RELU | BIAS | AUX,
    DRELU = 8 | AUX,
    DRELU_BGRAD = 16 | DRELU,
    BGRADB = 512
};

constexpr int32_t WHOLE_ALIGNMENT = 256;

// The problem that an algorithm was proposed for, stored in the 64 opaque bytes of cublasLtMatmulAlgo_t.
struct Algorithm {
    uint64_t mark = 0;
    uint32_t epilogue = 0, alignment[4] = {};
    int64_t m = 0, n = 0, k = 0;
};
static_assert(sizeof(Algorithm) <= 64, "cublasLtMatmulAlgo_t has 64 bytes");
constexpr uint64_t MARK = 0x65'6d'75'6c'61'74'6f'72;

}  // namespace

struct LtHandle {
    uint64_t mark = MARK;
};

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t ld;
};

struct Desc {
    int compute, scale_type;
    int32_t transpose_a = 0, transpose_b = 0;
    uint32_t epilogue = DEFAULT;
    uintptr_t bias = 0, aux = 0;
    int64_t aux_ld = 0;
};

struct Preference {
    size_t workspace = 0;
    uint32_t reductions = 7;
    uint32_t alignment[4] = {WHOLE_ALIGNMENT, WHOLE_ALIGNMENT, WHOLE_ALIGNMENT, WHOLE_ALIGNMENT};
};

struct Proposal {
    union {
        Algorithm algorithm;
        uint64_t data[8];
    };
    size_t workspace;
    Status state;
    float waves;
    int reserved[4];
};

namespace {

bool is_alive(const LtHandle* handle) { return handle && handle->mark == MARK; }

// Copies an attribute, whose size must match its type.
template <class T>
Status set_attribute(T* field, const void* value, size_t size) {
    if (!value || size != sizeof(T)) return INVALID_VALUE;
    memcpy(field, value, size);
    return SUCCESS;
}

// The product that the descriptors define, without its addresses.
Status product_of(const Desc& desc, const Layout& a, const Layout& b, const Layout& c, const Layout& d, Gemm* g) {
    g->transpose_a = desc.transpose_a != 0;
    g->transpose_b = desc.transpose_b != 0;
    g->m = static_cast<long>(d.rows);
    g->n = static_cast<long>(d.columns);
    g->k = static_cast<long>(desc.transpose_a ? a.rows : a.columns);
    g->lda = a.ld;
    g->ldb = b.ld;
    g->ldc = d.ld;
    const auto rows = [](const Layout& layout, bool transposed) { return transposed ? layout.columns : layout.rows; };
    const bool fits = rows(a, desc.transpose_a) == d.rows && rows(b, desc.transpose_b) == static_cast<uint64_t>(g->k) &&
                      rows(b, !desc.transpose_b) == d.columns && a.ld >= static_cast<int64_t>(a.rows) &&
                      b.ld >= static_cast<int64_t>(b.rows) && d.ld >= static_cast<int64_t>(d.rows);
    if (!fits || c.type != d.type || c.rows != d.rows || c.columns != d.columns) return INVALID_VALUE;
    // The product of 16-bit operands may be stored as fp32.
    if (desc.scale_type != 0 || a.type != b.type || (d.type != 0 && a.type != d.type)) return NOT_SUPPORTED;
    if (!type_of(a.type, &g->ab_type) || !type_of(d.type, &g->c_type)) return NOT_SUPPORTED;
    return choose_rounding(desc.compute, 0, g) ? SUCCESS : NOT_SUPPORTED;
}

bool reads_bias(const Desc& desc) { return desc.epilogue & BIAS; }

bool writes_bias(const Desc& desc) { return desc.epilogue == DRELU_BGRAD || desc.epilogue == BGRADB; }

Status check_epilogue(const Desc& desc, long rows) {
    switch (desc.epilogue) {
        case DEFAULT:
        case RELU:
        case BIAS:
        case RELU_BIAS:
        case RELU_AUX_BIAS:
        case DRELU:
        case DRELU_BGRAD:
        case BGRADB:
            break;
        default:
            return NOT_SUPPORTED;
    }
    if ((reads_bias(desc) || writes_bias(desc)) && !desc.bias) return INVALID_VALUE;
    const bool valid_aux = desc.aux && desc.aux % 16 == 0 && desc.aux_ld % 128 == 0 && desc.aux_ld >= rows;
    return (desc.epilogue & AUX) && !valid_aux ? INVALID_VALUE : SUCCESS;
}

// Computes a product in fp32, applies its epilogue and rounds the result; runs when its stream reaches it.
CUresult run(Gemm g, const Desc& desc, const Addresses& epilogue_addresses) {
    const auto* relu_mask_address = reinterpret_cast<const void*>(epilogue_addresses[0]);
    const auto* bias_address = reinterpret_cast<const void*>(epilogue_addresses[1]);
    const bool sums_b = desc.epilogue == BGRADB;
    const size_t bias_bytes = static_cast<size_t>(sums_b ? g.n : g.m) * size_of(g.c_type);
    const size_t relu_mask_bytes = static_cast<size_t>((g.n - 1) * desc.aux_ld + g.m + 7) / 8;
    const size_t a = extent(g.transpose_a ? g.k : g.m, g.transpose_a ? g.m : g.k, g.lda, 0, 1, g.ab_type);
    const size_t b = extent(g.transpose_b ? g.n : g.k, g.transpose_b ? g.k : g.n, g.ldb, 0, 1, g.ab_type);
    const size_t c = extent(g.m, g.n, g.ldc, 0, 1, g.c_type);
    const bool inside = cuda_emulator_range(g.a, a) && cuda_emulator_range(g.b, b) && cuda_emulator_range(g.c, c) &&
                        (!bias_address || cuda_emulator_range(bias_address, bias_bytes)) &&
                        (!relu_mask_address || cuda_emulator_range(relu_mask_address, relu_mask_bytes));
    if (!inside) {
        fprintf(stderr,
                "CUDA emulator: an operand of a cuBLASLt product (m %ld, n %ld, k %ld) is not in device memory\n", g.m,
                g.n, g.k);
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    std::vector<float> sums(static_cast<size_t>(g.m * g.n));
    Gemm plain = g;
    plain.c = sums.data();
    plain.c_type = Type::f32;
    plain.ldc = g.m;
    emulator::gemm(plain);
    auto* bias = reinterpret_cast<void*>(desc.bias);
    auto* relu_mask = reinterpret_cast<unsigned char*>(desc.aux);
    for (long i = 0; i < g.m; ++i) {
        float sum = 0.0f;
        for (long j = 0; j < g.n; ++j) {
            float value = sums[static_cast<size_t>(i + j * g.m)];
            const long bit = j * desc.aux_ld + i;
            const unsigned char mask = static_cast<unsigned char>(1u << (bit % 8));
            if (desc.epilogue & BIAS) value += emulator::load_element(bias, g.c_type, i);
            if (desc.epilogue == RELU_AUX_BIAS) {
                relu_mask[bit / 8] =
                    static_cast<unsigned char>(value > 0.0f ? relu_mask[bit / 8] | mask : relu_mask[bit / 8] & ~mask);
            }
            // Loses a NaN, as a library may.
            if (desc.epilogue & RELU) value = value > 0.0f ? value : 0.0f;
            if ((desc.epilogue & DRELU) == DRELU) value = relu_mask[bit / 8] & mask ? value : 0.0f;
            sum += value;
            emulator::store_element(g.c, g.c_type, i + j * g.ldc, value);
        }
        if (desc.epilogue == DRELU_BGRAD) emulator::store_element(bias, g.c_type, i, sum);
    }
    for (long j = 0; sums_b && j < g.n; ++j) {
        float sum = 0.0f;
        for (long k = 0; k < g.k; ++k) {
            sum += emulator::load_element(g.b, g.ab_type, g.transpose_b ? j + k * g.ldb : k + j * g.ldb);
        }
        emulator::store_element(bias, g.c_type, j, sum);
    }
    return CUDA_SUCCESS;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) size_t cublasLtGetVersion() { return 130000; }

BLAS_API cublasLtCreate(LtHandle** handle) {
    if (cuda_emulator_refuse_during_capture() != CUDA_SUCCESS) return NOT_INITIALIZED;
    if (const Status status = injected_status("CUDA_EMULATOR_CUBLASLT_CREATE")) return status;
    *handle = new LtHandle;
    return SUCCESS;
}

BLAS_API cublasLtDestroy(LtHandle* handle) {
    if (!is_alive(handle)) return NOT_INITIALIZED;
    handle->mark = 0;
    delete handle;
    return SUCCESS;
}

BLAS_API cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    *layout = new Layout{type, rows, columns, ld};
    return SUCCESS;
}

BLAS_API cublasLtMatrixLayoutDestroy(Layout* layout) {
    delete layout;
    return SUCCESS;
}

BLAS_API cublasLtMatmulDescCreate(Desc** desc, int compute, int scale_type) {
    *desc = new Desc{compute, scale_type};
    return SUCCESS;
}

BLAS_API cublasLtMatmulDescSetAttribute(Desc* desc, int attribute, const void* value, size_t size) {
    switch (attribute) {
        case 3:
            return set_attribute(&desc->transpose_a, value, size);
        case 4:
            return set_attribute(&desc->transpose_b, value, size);
        case 7:
            return set_attribute(&desc->epilogue, value, size);
        case 8:
            return set_attribute(&desc->bias, value, size);
        case 11:
            return set_attribute(&desc->aux, value, size);
        case 12:
            return set_attribute(&desc->aux_ld, value, size);
        default:
            return NOT_SUPPORTED;
    }
}

BLAS_API cublasLtMatmulDescDestroy(Desc* desc) {
    delete desc;
    return SUCCESS;
}

BLAS_API cublasLtMatmulPreferenceCreate(Preference** preference) {
    *preference = new Preference;
    return SUCCESS;
}

BLAS_API cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t size) {
    if (attribute == 1) return set_attribute(&preference->workspace, value, size);
    if (attribute == 3) return set_attribute(&preference->reductions, value, size);
    if (attribute < 5 || attribute > 8) return NOT_SUPPORTED;
    return set_attribute(&preference->alignment[attribute - 5], value, size);
}

BLAS_API cublasLtMatmulPreferenceDestroy(Preference* preference) {
    delete preference;
    return SUCCESS;
}

BLAS_API cublasLtMatmulAlgoGetHeuristic(LtHandle* handle, const Desc* desc, const Layout* a, const Layout* b,
                                        const Layout* c, const Layout* d, const Preference* preference, int requested,
                                        Proposal* proposals, int* count) {
    if (!is_alive(handle)) return NOT_INITIALIZED;
    *count = 0;
    if (requested < 1) return INVALID_VALUE;
    if (const Status status = injected_status("CUDA_EMULATOR_CUBLASLT_PROPOSAL")) return status;
    Gemm g{};
    if (const Status status = product_of(*desc, *a, *b, *c, *d, &g)) return status;
    if (const Status status = check_epilogue(*desc, g.m)) return status;
    Algorithm algorithm;
    algorithm.mark = MARK;
    algorithm.epilogue = desc->epilogue;
    memcpy(algorithm.alignment, preference->alignment, sizeof algorithm.alignment);
    algorithm.m = g.m;
    algorithm.n = g.n;
    algorithm.k = g.k;
    memset(proposals, 0, sizeof *proposals);
    proposals->algorithm = algorithm;
    proposals->workspace = preference->workspace < 1024 ? preference->workspace : 1024;
    *count = 1;
    return SUCCESS;
}

BLAS_API cublasLtMatmul(LtHandle* handle, const Desc* desc, const float* alpha, const void* a, const Layout* a_layout,
                        const void* b, const Layout* b_layout, const float* beta, const void* c, const Layout* c_layout,
                        void* d, const Layout* d_layout, const Algorithm* algorithm, void* workspace,
                        size_t workspace_bytes, CUstream stream) {
    if (!is_alive(handle)) return NOT_INITIALIZED;
    if (!alpha || !beta || *beta != 0.0f || c != d) return NOT_SUPPORTED;
    Gemm g{};
    if (const Status status = product_of(*desc, *a_layout, *b_layout, *c_layout, *d_layout, &g)) return status;
    if (const Status status = check_epilogue(*desc, g.m)) return status;
    const bool same = algorithm && algorithm->mark == MARK && algorithm->epilogue == desc->epilogue &&
                      algorithm->m == g.m && algorithm->n == g.n && algorithm->k == g.k;
    const auto address = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); };
    const uintptr_t operands[] = {address(a), address(b), address(c), address(d) | desc->bias};
    bool aligned = address(workspace) % 256 == 0;
    for (int i = 0; same && i < 4; ++i) aligned &= operands[i] % algorithm->alignment[i] == 0;
    if (!same || !aligned || (workspace_bytes > 0 && !cuda_emulator_range(workspace, workspace_bytes)))
        return INVALID_VALUE;
    if (const Status status = injected_status("CUDA_EMULATOR_CUBLASLT_PRODUCT")) return status;
    if (g.m == 0 || g.n == 0) return SUCCESS;
    g.a = a;
    g.b = b;
    g.c = d;
    g.alpha = *alpha;
    g.beta = 0.0f;
    Addresses writes = {address(d), address(workspace)}, reads = {address(a), address(b)};
    const bool reads_relu_mask = (desc->epilogue & DRELU) == DRELU, writes_relu_mask = desc->epilogue == RELU_AUX_BIAS;
    if (reads_bias(*desc)) reads.push_back(desc->bias);
    if (writes_bias(*desc)) writes.push_back(desc->bias);
    if (reads_relu_mask) reads.push_back(desc->aux);
    if (writes_relu_mask) writes.push_back(desc->aux);
    const Addresses epilogue_addresses = {reads_relu_mask || writes_relu_mask ? desc->aux : 0, desc->bias};
    const std::function<CUresult()> work = [g, copy = *desc, epilogue_addresses] {
        return run(g, copy, epilogue_addresses);
    };
    // Tests can make products with a bias or a bias gradient slower: each extra operation adds to the clock.
    const char* extra =
        getenv(reads_bias(*desc) ? "CUDA_EMULATOR_CUBLASLT_FORWARD_EXTRA" : "CUDA_EMULATOR_CUBLASLT_SUM_EXTRA");
    const std::function<CUresult()> nothing = [] { return CUDA_SUCCESS; };
    for (int i = extra && (reads_bias(*desc) || desc->epilogue == BGRADB) ? atoi(extra) : 0; i > 0; --i) {
        if (cuda_emulator_enqueue(stream, "cuBLASLt's delay", &nothing, &writes, &reads) != CUDA_SUCCESS)
            return EXECUTION_FAILED;
    }
    const CUresult result = cuda_emulator_enqueue(stream, "cuBLASLt product", &work, &writes, &reads);
    return result == CUDA_SUCCESS ? SUCCESS : EXECUTION_FAILED;
}
