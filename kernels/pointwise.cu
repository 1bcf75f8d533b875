// GELU, scaling, square and square root. One thread per 16 bytes; input and output may be the same buffer.
#include "common.cuh"

struct PointwiseParams : Params<2, 3, 40> {
    const real *x, *input;  // x is used in the backward pass only; the input is then d_output.
    real* output;           // In the backward pass, d_input.
    u64 count;
    float factor;  // Of scaling.
};

// The cumulative distribution of the standard normal distribution, and its density.
static __device__ __forceinline__ float normal_distribution(float x) { return 0.5f + 0.5f * erff(x * 0.70710678f); }
static __device__ __forceinline__ float normal_density(float x) { return 0.39894228f * expf(-0.5f * x * x); }

// output = input · Φ(input). Bound by memory: 2 values each.
KERNEL(gelu_forward, PointwiseParams) {
    map(p.output, p.count, [](float value) { return value * normal_distribution(value); }, p.input);
}

// output = input · (Φ(x) + x φ(x)). Bound by memory: 3 values each.
KERNEL(gelu_backward, PointwiseParams) {
    const auto gradient = [](float x, float d_output) {
        return d_output * (normal_distribution(x) + x * normal_density(x));
    };
    map(p.output, p.count, gradient, p.x, p.input);
}

// output = factor · input. Bound by memory: 2 values each.
KERNEL(scale_values, PointwiseParams) {
    map(p.output, p.count, [&](float value) { return p.factor * value; }, p.input);
}

// output = input². Bound by memory: 2 values each.
KERNEL(square_forward, PointwiseParams) {
    map(p.output, p.count, [](float value) { return value * value; }, p.input);
}

// output = 2 x · input. Bound by memory: 3 values each.
KERNEL(square_backward, PointwiseParams) {
    map(p.output, p.count, [](float x, float d_output) { return 2.0f * x * d_output; }, p.x, p.input);
}

// output = √input. Bound by memory: 2 values each.
KERNEL(sqrt_forward, PointwiseParams) {
    map(p.output, p.count, [](float value) { return sqrtf(value); }, p.input);
}

// output = input / (2 √x), and 0 where x is 0. Bound by memory: 3 values each.
KERNEL(sqrt_backward, PointwiseParams) {
    const auto gradient = [](float x, float d_output) { return x == 0.0f ? 0.0f : d_output / (2.0f * sqrtf(x)); };
    map(p.output, p.count, gradient, p.x, p.input);
}
