// Batch normalisation. Forward: a pass for the batch's statistics and a pass that normalises, fused with the residual
// sum and the activation. Backward: a pass for the sums and a pass for the input gradient.
#include "reduce.cuh"

// The terms of `weight · inverse deviation · (x − mean) + bias` for one channel.
struct Factors {
    float mean, inverse, weight, bias;
};

// `statistics` is [2][channels]: the means, then the variances, or the inverse deviations if `epsilon` is negative.
static __device__ __forceinline__ Factors factors_of(const float* weight, const float* bias, const float* statistics,
                                                     u32 channels, u32 channel, float epsilon) {
    const float spread = read(statistics + channels + channel);
    return Factors{read(statistics + channel), epsilon >= 0.0f ? 1.0f / sqrtf(spread + epsilon) : spread,
                   read(weight + channel), read(bias + channel)};
}

// The epsilon for the batch's own statistics, which are means and inverse deviations.
constexpr float OWN = -1.0f;

static __device__ __forceinline__ float normalised(float value, const Factors& factors) {
    return (value - factors.mean) * (factors.weight * factors.inverse) + factors.bias;
}

struct NormStatisticsParams : Params<1, 5, 72> {
    const real* input;
    float* running;
    ColumnPass saved;
    float momentum, epsilon;
};

// Sums distances from the channel's first value, so that the variance loses no precision if the mean is large.
template <u32 V>
static __device__ __forceinline__ void statistics(const NormStatisticsParams& p, ColumnScratch<V>& scratch) {
    const u32 channels = p.saved.grid.channels;
    column_sums<2>(
        p.saved, scratch,
        [&](u64 row, u32 channel) {
            const Lanes<V> lanes = read_lanes<V>(p.input + row * channels + channel);
            const Lanes<V> firsts = read_lanes<V>(p.input + channel);
            Lanes<2 * V> values;
            unroll<V>([&](u32 lane) {
                const float distance = lanes[lane] - firsts[lane];
                values[lane] = distance;
                values[V + lane] = distance * distance;
            });
            return values;
        },
        [&](u32 channel, const float (&totals)[2]) {
            const float rows = (float)p.saved.grid.rows;
            const float distance = totals[0] / rows;
            const float mean = read(p.input + channel) + distance;
            // Not fmaxf, which would hide a NaN.
            const float rest = totals[1] / rows - distance * distance;
            const float variance = rest < 0.0f ? 0.0f : rest;
            p.saved.sums[channel] = mean;
            p.saved.sums[channels + channel] = 1.0f / sqrtf(variance + p.epsilon);
            const float unbiased = variance * (rows / (rows - 1.0f));
            float* const running = p.running + channel;
            running[0] = fmaf(p.momentum, mean, (1.0f - p.momentum) * running[0]);
            running[channels] = fmaf(p.momentum, unbiased, (1.0f - p.momentum) * running[channels]);
        });
}

// Stores each channel's mean and inverse deviation in `saved`, [2][channels], and updates the running means and
// variances in `running`, [2][channels]. The grid is a ColumnGrid.
KERNEL(norm_statistics, NormStatisticsParams) {
    __shared__ ColumnScratch<1> scratch;
    statistics(p, scratch);
}
KERNEL(norm_statistics_vec, NormStatisticsParams) {
    __shared__ ColumnScratch<VEC> scratch;
    statistics(p, scratch);
}

struct NormForwardParams : Params<5, 6, 72> {
    const real* input;
    const float *weight, *bias, *statistics;
    const real* residual;  // May be null.
    real* output;          // May be the input.
    u64 count;
    u32 channels;
    float epsilon, slope;
};

template <u32 V>
static __device__ __forceinline__ void normalise(const NormForwardParams& p) {
    for_channels<V>(p.count, p.channels, [&](u64 at, u64, u32 channel) {
        Lanes<V> values = load_lanes<V>(p.input + at), added = {};
        if (p.residual) added = load_lanes<V>(p.residual + at);
        unroll<V>([&](u32 lane) {
            const Factors factors = factors_of(p.weight, p.bias, p.statistics, p.channels, channel + lane, p.epsilon);
            const float value = normalised(values[lane], factors);
            values[lane] = activate(p.residual ? value + added[lane] : value, p.slope);
        });
        store_lanes(p.output + at, values);
    });
}

// output = act(normalised input + residual) over [count / channels][channels]. For `statistics` and `epsilon` see
// factors_of.
KERNEL(norm_forward, NormForwardParams) { normalise<1>(p); }
KERNEL(norm_forward_vec, NormForwardParams) { normalise<VEC>(p); }

struct NormSumsParams : Params<5, 10, 112> {
    const real *input, *output;  // `output` is null without a residual.
    const float *weight, *bias, *saved;
    real* d_output;
    float* d_weight;
    ColumnPass d_bias;
    float slope;
};

template <u32 V>
static __device__ __forceinline__ void gradient_sums(const NormSumsParams& p, ColumnScratch<V>& scratch) {
    const u32 channels = p.d_bias.grid.channels;
    column_sums<2>(
        p.d_bias, scratch,
        [&](u64 row, u32 channel) {
            const u64 at = row * channels + channel;
            const Lanes<V> inputs = read_lanes<V>(p.input + at);
            Lanes<V> gradients = load_lanes<V>(p.d_output + at), outputs = {};
            if (p.output) outputs = read_lanes<V>(p.output + at);
            Lanes<2 * V> values;
            unroll<V>([&](u32 lane) {
                const Factors factors = factors_of(p.weight, p.bias, p.saved, channels, channel + lane, OWN);
                const float result = p.output ? outputs[lane] : activate(normalised(inputs[lane], factors), p.slope);
                gradients[lane] = activate_backward(result, gradients[lane], p.slope);
                values[lane] = gradients[lane];
                values[V + lane] = gradients[lane] * (inputs[lane] - factors.mean);
            });
            if (p.output) store_lanes(p.d_output + at, gradients);
            return values;
        },
        [&](u32 channel, const float (&totals)[2]) {
            p.d_bias.sums[channel] = totals[0];
            p.d_weight[channel] = totals[1] * p.saved[channels + channel];
        });
}

// Computes d_bias and d_weight from d_output · act'. If `output` is given, act' is computed from it and the product
// overwrites d_output, which then is the residual's gradient. The grid is a ColumnGrid.
KERNEL(norm_backward_sums, NormSumsParams) {
    __shared__ ColumnScratch<1> scratch;
    gradient_sums(p, scratch);
}
KERNEL(norm_backward_sums_vec, NormSumsParams) {
    __shared__ ColumnScratch<VEC> scratch;
    gradient_sums(p, scratch);
}

struct NormInputParams : Params<7, 8, 88> {
    const real *input, *d_output;
    const float *weight, *bias, *saved, *d_weight, *d_bias;
    real* d_input;  // May be d_output.
    u64 count;
    u32 channels;
    float share, slope;
};

template <u32 V>
static __device__ __forceinline__ void input_gradients(const NormInputParams& p) {
    for_channels<V>(p.count, p.channels, [&](u64 at, u64, u32 channel) {
        const Lanes<V> inputs = read_lanes<V>(p.input + at);
        Lanes<V> gradients = load_lanes<V>(p.d_output + at);
        unroll<V>([&](u32 lane) {
            const Factors factors = factors_of(p.weight, p.bias, p.saved, p.channels, channel + lane, OWN);
            const float output = activate(normalised(inputs[lane], factors), p.slope);
            const float gradient = activate_backward(output, gradients[lane], p.slope);
            const float position = (inputs[lane] - factors.mean) * factors.inverse;
            const float common =
                (read(p.d_bias + channel + lane) + position * read(p.d_weight + channel + lane)) * p.share;
            gradients[lane] = factors.weight * factors.inverse * (gradient - common);
        });
        store_lanes(p.d_input + at, gradients);
    });
}

// d_input from d_output and from the sums d_weight and d_bias; `share` is 1 / rows.
KERNEL(norm_backward_input, NormInputParams) { input_gradients<1>(p); }
KERNEL(norm_backward_input_vec, NormInputParams) { input_gradients<VEC>(p); }
