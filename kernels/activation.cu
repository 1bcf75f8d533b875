// Activations on their own, where no bias precedes them. One thread per 16 bytes; input and output may be the same.
#include "common.cuh"

struct ActivationForwardParams {
    const real* input;
    real* output;
    u64 count;
    float slope;
    u32 unused;
    static constexpr u32 READS = 1, POINTERS = 2;
};
static_assert(sizeof(ActivationForwardParams) == 32, "the layout is shared with Rust");

// output = act(input), over `count` values.
KERNEL(activation_forward)(const __grid_constant__ ActivationForwardParams p) {
    GRID_STRIDE(i, (p.count + VEC - 1) / VEC) {
        float values[VEC];
        load_some(values, p.input, i * VEC, p.count);
#pragma unroll
        for (u32 lane = 0; lane < VEC; ++lane) values[lane] = activate(values[lane], p.slope);
        store_some(p.output, values, i * VEC, p.count);
    }
}

struct ActivationBackwardParams {
    const real *output, *d_output;
    real* d_input;
    u64 count;
    float slope;
    u32 unused;
    static constexpr u32 READS = 2, POINTERS = 3;
};
static_assert(sizeof(ActivationBackwardParams) == 40, "the layout is shared with Rust");

// d_input = act'(output) · d_output: the output has the input's sign, so the input need not be kept.
KERNEL(activation_backward)(const __grid_constant__ ActivationBackwardParams p) {
    GRID_STRIDE(i, (p.count + VEC - 1) / VEC) {
        float values[VEC], gradients[VEC];
        load_some(values, p.output, i * VEC, p.count);
        load_some(gradients, p.d_output, i * VEC, p.count);
#pragma unroll
        for (u32 lane = 0; lane < VEC; ++lane) {
            gradients[lane] = activate_backward(values[lane], gradients[lane], p.slope);
        }
        store_some(p.d_input, gradients, i * VEC, p.count);
    }
}
