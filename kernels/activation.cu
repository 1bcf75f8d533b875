// Activations on their own, where no bias precedes them. One thread per 16 bytes; input and output may be the same.
#include "common.cuh"

KERNEL(activation_forward)(const real* input, real* output, u64 count, float slope) {
    GRID_STRIDE(i, (count + VEC - 1) / VEC) {
        float values[VEC];
        load_some(values, input, i * VEC, count);
#pragma unroll
        for (u32 lane = 0; lane < VEC; ++lane) values[lane] = activate(values[lane], slope);
        store_some(output, values, i * VEC, count);
    }
}

// Masks by the output, which has the input's sign: the input need not be kept.
KERNEL(activation_backward)(const real* output, const real* d_output, real* d_input, u64 count, float slope) {
    GRID_STRIDE(i, (count + VEC - 1) / VEC) {
        float values[VEC], gradients[VEC];
        load_some(values, output, i * VEC, count);
        load_some(gradients, d_output, i * VEC, count);
#pragma unroll
        for (u32 lane = 0; lane < VEC; ++lane) {
            gradients[lane] = activate_backward(values[lane], gradients[lane], slope);
        }
        store_some(d_input, gradients, i * VEC, count);
    }
}
