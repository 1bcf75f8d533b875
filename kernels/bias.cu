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

// output[i] = act(x) for the values x that `change(values, at, channel)` makes of input[i].
template <u32 V, typename P, typename Change>
static __device__ __forceinline__ void activate_changed(const P& p, const real* input, Change change) {
    for_channels<V>(p.count, p.channels, [&](u64 at, u64, u32 channel) {
        Lanes<V> values = load_lanes<V>(input + at);
        change(values, at, channel);
        unroll<V>([&](u32 lane) { values[lane] = activate(values[lane], p.slope); });
        store_lanes(p.output + at, values);
    });
}

template <u32 V>
static __device__ __forceinline__ void add_bias(const BiasForwardParams& p) {
    activate_changed<V>(p, p.input, [&](Lanes<V>& values, u64, u32 channel) {
        unroll<V>([&](u32 lane) { values[lane] += read(p.bias + channel + lane); });
    });
}

// output[i] = act(input[i] + bias[i mod channels]) over [count / channels][channels]; output may be input.
KERNEL(bias_activation_forward, BiasForwardParams) { add_bias<1>(p); }
KERNEL(bias_activation_forward_vec, BiasForwardParams) { add_bias<VEC>(p); }

struct BiasResidualParams : Params<2, 3, 40> {
    const float* bias;  // May be null.
    const real* residual;
    real* output;
    u64 count;
    u32 channels;
    float slope;
};

template <u32 V>
static __device__ __forceinline__ void add_residual(const BiasResidualParams& p) {
    activate_changed<V>(p, p.output, [&](Lanes<V>& values, u64 at, u32 channel) {
        const Lanes<V> residual = load_lanes<V>(p.residual + at);
        unroll<V>([&](u32 lane) {
            if (p.bias) values[lane] += read(p.bias + channel + lane);
            values[lane] += residual[lane];
        });
    });
}

// output[i] = act(output[i] + bias[i mod channels] + residual[i]) over [count / channels][channels].
KERNEL(bias_residual_forward, BiasResidualParams) { add_residual<1>(p); }
KERNEL(bias_residual_forward_vec, BiasResidualParams) { add_residual<VEC>(p); }

struct BiasBackwardParams : Params<1, 5, 64> {
    const real* output;
    real* d_output;
    ColumnPass d_bias;
    float slope;
};

// Threads per block, and rows that a thread reads ahead.
constexpr u32 SUMS_BLOCK = 512, SUMS_IN_FLIGHT = 2;

template <u32 V>
struct GradientOfOutput {
    Pack<V, real> output, d_output;
};

template <u32 V>
static __device__ __forceinline__ void activation_and_sums(const BiasBackwardParams& p,
                                                           ColumnScratch<1, SUMS_BLOCK>& scratch) {
    column_pass<V, SUMS_IN_FLIGHT>(
        p.d_bias, scratch,
        [&](u64 at) {
            GradientOfOutput<V> loaded;
            loaded.d_output = load_pack<V>(p.d_output + at);
            if (p.slope != 1.0f) loaded.output = read_pack<V>(p.output + at);
            return loaded;
        },
        [&](u64 at, const GradientOfOutput<V>& loaded, Lanes<V>& sums) {
            Pack<V, real> gradients;
            unroll<V>([&](u32 lane) {
                float gradient = load(loaded.d_output.lane[lane]);
                if (p.slope != 1.0f) gradient = activate_backward(load(loaded.output.lane[lane]), gradient, p.slope);
                sums[lane] += gradient;
                store(&gradients.lane[lane], gradient);
            });
            if (p.slope != 1.0f) store_pack(p.d_output + at, gradients);
        });
}

// d_output *= act'(output), then d_bias[channel] = Σ_rows d_output, over [rows][channels].
//
// Grid: a ColumnGrid. Bound by memory: in fp16 2 bytes per value without an activation, otherwise 6; for 128×56×56×64
// with a ReLU 154 MB, which takes an H200 at least 32 + 1.3 µs.
KERNEL(bias_activation_backward, BiasBackwardParams, SUMS_BLOCK, 2) {
    __shared__ ColumnScratch<1, SUMS_BLOCK> scratch;
    activation_and_sums<1>(p, scratch);
}
KERNEL(bias_activation_backward_vec, BiasBackwardParams, SUMS_BLOCK, 2) {
    __shared__ ColumnScratch<1, SUMS_BLOCK> scratch;
    activation_and_sums<VEC>(p, scratch);
}
