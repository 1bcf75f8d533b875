// Activations that are not fused with another operator. One thread per 16 bytes; input and output may be the same
// buffer.
#include "common.cuh"

struct ActivationForwardParams : Params<1, 2, 32> {
    const real* input;
    real* output;
    u64 count;
    float slope;
};

// output = act(input), over `count` values.
KERNEL(activation_forward, ActivationForwardParams) {
    map(p.output, p.count, [&](float value) { return activate(value, p.slope); }, p.input);
}

struct ActivationBackwardParams : Params<2, 3, 40> {
    const real *output, *d_output;
    real* d_input;
    u64 count;
    float slope;
};

// d_input = act'(output) · d_output. The derivative follows from the output, so the input need not be saved.
KERNEL(activation_backward, ActivationBackwardParams) {
    const auto gradient = [&](float output, float d_output) { return activate_backward(output, d_output, p.slope); };
    map(p.d_input, p.count, gradient, p.output, p.d_output);
}
