// Kernels for the emulator's own tests: kernels with planted faults, which the emulator must report, and kernels that
// check its warp operations, conversions and tensor-core products.
#include "mma.cuh"

// Unlike kernels/, these kernels take plain arguments instead of one parameter struct.
#undef KERNEL
#define KERNEL(name) extern "C" __global__ void KERNEL_NAME(name)

// Writes `distance` elements past the end, or before the start if `distance` is negative.
KERNEL(planted_write_outside)(float* values, long long count, long long distance) {
    if (threadIdx.x == 0) values[distance < 0 ? distance : count + distance] = 1.0f;
}

KERNEL(planted_read)(const float* values, float* result, long long index) {
    if (threadIdx.x == 0) *result = values[index];
}

KERNEL(planted_divergent_barrier)(float* values) {
    if (threadIdx.x < 16) __syncthreads();
    values[threadIdx.x] = 1.0f;
}

// Two barriers, with half of the threads waiting at each.
KERNEL(planted_two_barriers)(float* values) {
    if (threadIdx.x < 16) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    values[threadIdx.x] = 1.0f;
}

KERNEL(planted_partial_shuffle)(float* values) {
    if (threadIdx.x < 16) values[threadIdx.x] = __shfl_xor_sync(ALL_LANES, values[threadIdx.x], 1);
}

KERNEL(planted_misaligned_vector)(float* values, u32 offset) { reinterpret_cast<uint4*>(values + offset)->x = 1; }

KERNEL(planted_misaligned_scalar)(unsigned char* bytes) { *reinterpret_cast<float*>(bytes + 1) = 1.0f; }

KERNEL(planted_shared_out_of_bounds)(float* values, u32 index) {
    __shared__ float cells[32];
    cells[(threadIdx.x + index) % 64] = 1.0f;
    __syncthreads();
    values[threadIdx.x] = cells[threadIdx.x % 32];
}

// Reads the value that the neighbouring thread writes, without a barrier in between.
KERNEL(planted_missing_barrier)(float* values) {
    __shared__ float cells[BLOCK];
    cells[threadIdx.x] = (float)threadIdx.x;
    values[threadIdx.x] = cells[threadIdx.x == 0 ? 0 : threadIdx.x - 1];
}

KERNEL(planted_dynamic_shared)(float* values, u32 count) {
    DYNAMIC_SHARED(float, cells);
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) cells[i] = (float)i;
    __syncthreads();
    if (threadIdx.x == 0) values[0] = cells[count - 1];
}

KERNEL(planted_divide)(u32* values, u32 divisor) { values[threadIdx.x] /= divisor; }

// Combines all warp operations into a value that the test can compute.
KERNEL(planted_warp)(u32* values) {
    const u32 lane = threadIdx.x % WARP;
    const u32 down = __shfl_down_sync(ALL_LANES, lane, 3);
    const u32 from = __shfl_sync(ALL_LANES, threadIdx.x, 5);
    const u32 odd = __ballot_sync(ALL_LANES, lane % 2 == 1);
    __syncwarp();
    values[threadIdx.x] = down + 100 * from + (odd == 0xaaaaaaaau ? 1000000 : 0);
}

KERNEL(planted_to_real)(const float* source, real* target, u32 count) {
    GRID_STRIDE(i, count) store(target + i, source[i]);
}

KERNEL(planted_to_float)(const real* source, float* target, u32 count) {
    GRID_STRIDE(i, count) target[i] = load(source[i]);
}

// One warp-level product with W = 4 · GROUPS words along k: d [16][8] += a [16][W] · b [W][8].
template <Mma KIND>
static __device__ void multiply(const u32* a, const u32* b, float* d) {
    constexpr u32 GROUPS = mma_groups(KIND);
    const u32 g = threadIdx.x / 4, t = threadIdx.x % 4;
    u32 left[2 * GROUPS], right[GROUPS];
    for (u32 group = 0; group < GROUPS; ++group) {
        left[2 * group] = a[g * 4 * GROUPS + t + 4 * group];
        left[2 * group + 1] = a[(g + 8) * 4 * GROUPS + t + 4 * group];
        right[group] = b[(t + 4 * group) * 8 + g];
    }
    float sums[4] = {d[g * 8 + 2 * t], d[g * 8 + 2 * t + 1], d[(g + 8) * 8 + 2 * t], d[(g + 8) * 8 + 2 * t + 1]};
    mma<KIND, 1, 1>(sums, left, right);
    for (u32 i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sums[i];
}

KERNEL(planted_mma_f16_k8)(const u32* a, const u32* b, float* d) { multiply<MMA_F16_K8>(a, b, d); }
KERNEL(planted_mma_f16_k16)(const u32* a, const u32* b, float* d) { multiply<MMA_F16_K16>(a, b, d); }
KERNEL(planted_mma_bf16_k16)(const u32* a, const u32* b, float* d) { multiply<MMA_BF16_K16>(a, b, d); }
KERNEL(planted_mma_tf32_k8)(const u32* a, const u32* b, float* d) { multiply<MMA_TF32_K8>(a, b, d); }
KERNEL(planted_round_to_tf32)(u32* values) { values[threadIdx.x] = round_to_tf32(values[threadIdx.x]); }

KERNEL(planted_divergent_mma)(float* values) {
    const u32* bits = reinterpret_cast<const u32*>(values);
    if (threadIdx.x < 31) multiply<MMA_TF32_K8>(bits, bits, values);
}
