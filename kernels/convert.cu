// Between fp32 and the storage type.
#include "common.cuh"

KERNEL(to_real)(const float* __restrict__ source, real* __restrict__ target, u64 count) {
    GRID_STRIDE(i, count) store(target + i, source[i]);
}

KERNEL(to_float)(const real* __restrict__ source, float* __restrict__ target, u64 count) {
    GRID_STRIDE(i, count) target[i] = load(source[i]);
}
