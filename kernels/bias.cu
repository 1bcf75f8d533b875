// Bias and activation in one pass over the output. The backward pass, also one pass, goes through the activation and
// sums the columns for the bias gradient.
#include "reduce.cuh"

struct BiasForwardParams : Params<2, 3, 40> {
    const real* input;
    const float* bias;
    real* output;
    u64 count;
    u32 channels;
    float slope;
};

template <u32 V>
static __device__ __forceinline__ void add_bias(const BiasForwardParams& p) {
    for_channels<V>(p.count, p.channels, [&](u64 at, u64, u32 channel) {
        Lanes<V> values = load_lanes<V>(p.input + at);
        unroll<V>([&](u32 lane) { values[lane] = activate(values[lane] + read(p.bias + channel + lane), p.slope); });
        store_lanes(p.output + at, values);
    });
}

// output[i] = act(input[i] + bias[i mod channels]) over [count / channels][channels]; output may be input.
KERNEL(bias_activation_forward, BiasForwardParams) { add_bias<1>(p); }
KERNEL(bias_activation_forward_vec, BiasForwardParams) { add_bias<VEC>(p); }

struct BiasBackwardParams : Params<1, 5, 72> {
    const real* output;
    real* d_output;
    ColumnPass d_bias;
    float slope;
};

template <u32 V>
static __device__ __forceinline__ void activation_and_sums(const BiasBackwardParams& p, ColumnScratch<V>& scratch) {
    column_pass(p.d_bias, scratch, [&](u64 row, u32 channel) {
        const u64 at = row * p.d_bias.grid.channels + channel;
        Lanes<V> gradients = load_lanes<V>(p.d_output + at);
        if (p.slope == 1.0f) return gradients;
        const Lanes<V> values = read_lanes<V>(p.output + at);
        unroll<V>([&](u32 lane) { gradients[lane] = activate_backward(values[lane], gradients[lane], p.slope); });
        store_lanes(p.d_output + at, gradients);
        return gradients;
    });
}

// d_output *= act'(output), then d_bias[channel] = Σ_rows d_output, over [rows][channels]. The grid is a ColumnGrid.
KERNEL(bias_activation_backward, BiasBackwardParams) {
    __shared__ ColumnScratch<1> scratch;
    activation_and_sums(p, scratch);
}
KERNEL(bias_activation_backward_vec, BiasBackwardParams) {
    __shared__ ColumnScratch<VEC> scratch;
    activation_and_sums(p, scratch);
}
