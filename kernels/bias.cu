// Bias: added together with the activation in one pass over the output; its gradient is the column sum of what the
// activation's backward pass leaves, in one pass too.
#include "reduce.cuh"

struct BiasForwardParams {
    const real* input;
    const float* bias;
    real* output;
    u64 count;
    u32 channels;
    float slope;
    static constexpr u32 READS = 2, POINTERS = 3;
};
static_assert(sizeof(BiasForwardParams) == 40, "the layout is shared with Rust");

// output[i] = act(input[i] + bias[i mod channels]), over [count / channels][channels]; output may be input.
KERNEL(bias_activation_forward)(const __grid_constant__ BiasForwardParams p) {
    GRID_STRIDE(i, p.count) {
        u64 rest = i;
        const u32 channel = take_digit(rest, p.channels);
        store(p.output + i, activate(load(p.input[i]) + read(p.bias + channel), p.slope));
    }
}

// The same where `channels` is a multiple of VEC: one thread per 16 bytes.
KERNEL(bias_activation_forward_vec)(const __grid_constant__ BiasForwardParams p) {
    GRID_STRIDE(i, p.count / VEC) {
        u64 rest = i;
        const u32 first = take_digit(rest, p.channels / VEC) * VEC;
        float values[VEC];
        load_some(values, p.input, i * VEC, p.count);
#pragma unroll
        for (u32 lane = 0; lane < VEC; ++lane) values[lane] = activate(values[lane] + read(p.bias + first + lane), p.slope);
        store_some(p.output, values, i * VEC, p.count);
    }
}

struct BiasBackwardParams {
    const real* output;
    real* d_output;
    float *d_bias, *partial;
    u32* arrived;
    ColumnGrid grid;
    float slope;
    u32 unused;
    static constexpr u32 READS = 1, POINTERS = 5;
};
static_assert(sizeof(BiasBackwardParams) == 72, "the layout is shared with Rust");

template <u32 V>
static __device__ __forceinline__ void activation_and_sums(const BiasBackwardParams& p, float* parts, u32& flag) {
    column_pass<V>({p.grid, p.d_bias, p.partial, p.arrived}, parts, flag, [&](u64 row, u32 channel, float (&gradients)[V]) {
        const u64 at = row * p.grid.channels + channel;
        load_lanes(gradients, p.d_output + at);
        if (p.slope == 1.0f) return;
        float values[V];
        read_lanes(values, p.output + at);
#pragma unroll
        for (u32 lane = 0; lane < V; ++lane) {
            gradients[lane] = activate_backward(values[lane], gradients[lane], p.slope);
        }
        store_lanes(p.d_output + at, gradients);
    });
}

// d_output *= act'(output), then d_bias[channel] = its column sums; over [rows][channels]. For grid and scratch see
// ColumnGrid.
KERNEL(bias_activation_backward)(const __grid_constant__ BiasBackwardParams p) {
    __shared__ float parts[BLOCK];
    __shared__ u32 flag;
    activation_and_sums<1>(p, parts, flag);
}

// The same where `channels` is a multiple of VEC.
KERNEL(bias_activation_backward_vec)(const __grid_constant__ BiasBackwardParams p) {
    __shared__ float parts[BLOCK * VEC];
    __shared__ u32 flag;
    activation_and_sums<VEC>(p, parts, flag);
}
