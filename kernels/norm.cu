// Batch normalisation: a pass for the batch's statistics and one over the values, with the residual sum and the
// activation in it; backward a pass for the sums and one for the input's gradient.
#include "reduce.cuh"

// `weight · inverse deviation · (x − mean) + bias` of one channel.
struct Factors {
    float mean, inverse, weight, bias;
};

// `statistics` is [2][channels]: means, then inverse deviations, or variances where `epsilon` is not negative.
static __device__ __forceinline__ Factors factors_of(const float* weight, const float* bias, const float* statistics,
                                                     u32 channels, u32 channel, float epsilon) {
    const float spread = read(statistics + channels + channel);
    return Factors{read(statistics + channel), epsilon >= 0.0f ? 1.0f / sqrtf(spread + epsilon) : spread,
                   read(weight + channel), read(bias + channel)};
}

// `statistics` are the batch's own: means and inverse deviations.
constexpr float OWN = -1.0f;

static __device__ __forceinline__ float normalised(float value, const Factors& factors) {
    return (value - factors.mean) * (factors.weight * factors.inverse) + factors.bias;
}

struct NormStatisticsParams {
    const real* input;
    float *running, *saved, *partial;
    u32* arrived;
    ColumnGrid grid;
    float momentum, epsilon;
    static constexpr u32 READS = 1, POINTERS = 5;
};
static_assert(sizeof(NormStatisticsParams) == 72, "the layout is shared with Rust");

// Sums over a channel are of distances from its first value, so that a large mean costs no digits of the variance.
template <u32 V>
static __device__ __forceinline__ void statistics(const NormStatisticsParams& p, float* parts, u32& flag) {
    const real* const input = p.input;
    float *const running = p.running, *const saved = p.saved;
    const u32 channels = p.grid.channels;
    const float momentum = p.momentum;
    column_sums<V, 2>(
        {p.grid, saved, p.partial, p.arrived}, parts, flag,
        [&](u64 row, u32 channel, float (&values)[2 * V]) {
            float lanes[V], firsts[V];
            read_lanes(lanes, input + row * channels + channel);
            read_lanes(firsts, input + channel);
#pragma unroll
            for (u32 lane = 0; lane < V; ++lane) {
                const float distance = lanes[lane] - firsts[lane];
                values[lane] = distance;
                values[V + lane] = distance * distance;
            }
        },
        [&](u32 channel, const float (&totals)[2]) {
            const float rows = (float)p.grid.rows;
            const float distance = totals[0] / rows;
            const float mean = read(input + channel) + distance;
            // Not fmaxf, which would hide NaN.
            const float rest = totals[1] / rows - distance * distance;
            const float variance = rest < 0.0f ? 0.0f : rest;
            saved[channel] = mean;
            saved[channels + channel] = 1.0f / sqrtf(variance + p.epsilon);
            const float unbiased = variance * (rows / (rows - 1.0f));
            running[channel] = (1.0f - momentum) * running[channel] + momentum * mean;
            running[channels + channel] = (1.0f - momentum) * running[channels + channel] + momentum * unbiased;
        });
}

// Mean and inverse deviation of every channel to `saved`, [2][channels], and `running` (means, variances) towards them.
// For grid and scratch see ColumnGrid.
KERNEL(norm_statistics)(const __grid_constant__ NormStatisticsParams p) {
    __shared__ float parts[BLOCK];
    __shared__ u32 flag;
    statistics<1>(p, parts, flag);
}

// The same where `channels` is a multiple of VEC.
KERNEL(norm_statistics_vec)(const __grid_constant__ NormStatisticsParams p) {
    __shared__ float parts[BLOCK * VEC];
    __shared__ u32 flag;
    statistics<VEC>(p, parts, flag);
}

struct NormForwardParams {
    const real* input;
    const float *weight, *bias, *statistics;
    const real* residual;  // May be null.
    real* output;          // May be the input.
    u64 count;
    u32 channels;
    float epsilon, slope;
    u32 unused;
    static constexpr u32 READS = 5, POINTERS = 6;
};
static_assert(sizeof(NormForwardParams) == 72, "the layout is shared with Rust");

template <u32 V>
static __device__ __forceinline__ void normalise(const NormForwardParams& p) {
    GRID_STRIDE(i, p.count / V) {
        u64 rest = i;
        const u32 channel = take_digit(rest, p.channels / V) * V;
        float values[V], added[V];
        load_lanes(values, p.input + i * V);
        if (p.residual) load_lanes(added, p.residual + i * V);
#pragma unroll
        for (u32 lane = 0; lane < V; ++lane) {
            const Factors factors = factors_of(p.weight, p.bias, p.statistics, p.channels, channel + lane, p.epsilon);
            const float value = normalised(values[lane], factors);
            values[lane] = activate(p.residual ? value + added[lane] : value, p.slope);
        }
        store_lanes(p.output + i * V, values);
    }
}

// output = act(normalised input + residual), over [count / channels][channels]. For `statistics` and `epsilon` see factors_of.
KERNEL(norm_forward)(const __grid_constant__ NormForwardParams p) { normalise<1>(p); }

// The same where `channels` is a multiple of VEC: one thread per 16 bytes.
KERNEL(norm_forward_vec)(const __grid_constant__ NormForwardParams p) { normalise<VEC>(p); }

struct NormSumsParams {
    const real *input, *output;  // The output null: without a residual.
    const float *weight, *bias, *saved;
    real* d_output;
    float *d_weight, *d_bias, *partial;
    u32* arrived;
    ColumnGrid grid;
    float slope;
    u32 unused;
    static constexpr u32 READS = 5, POINTERS = 10;
};
static_assert(sizeof(NormSumsParams) == 112, "the layout is shared with Rust");

template <u32 V>
static __device__ __forceinline__ void gradient_sums(const NormSumsParams& p, float* parts, u32& flag) {
    const real* const output = p.output;
    const u32 channels = p.grid.channels;
    column_sums<V, 2>(
        {p.grid, p.d_bias, p.partial, p.arrived}, parts, flag,
        [&](u64 row, u32 channel, float (&values)[2 * V]) {
            const u64 at = row * channels + channel;
            float inputs[V], outputs[V], gradients[V];
            read_lanes(inputs, p.input + at);
            load_lanes(gradients, p.d_output + at);
            if (output) read_lanes(outputs, output + at);
#pragma unroll
            for (u32 lane = 0; lane < V; ++lane) {
                const Factors factors = factors_of(p.weight, p.bias, p.saved, channels, channel + lane, OWN);
                const float result = output ? outputs[lane] : activate(normalised(inputs[lane], factors), p.slope);
                gradients[lane] = activate_backward(result, gradients[lane], p.slope);
                values[lane] = gradients[lane];
                values[V + lane] = gradients[lane] * (inputs[lane] - factors.mean);
            }
            if (output) store_lanes(p.d_output + at, gradients);
        },
        [&](u32 channel, const float (&totals)[2]) {
            p.d_bias[channel] = totals[0];
            p.d_weight[channel] = totals[1] * p.saved[channels + channel];
        });
}

// d_bias and d_weight from d_output, taken back through the activation. With `output` that tells the derivative, and d_output
// is overwritten, which makes it the residual's gradient. For grid and scratch see ColumnGrid.
KERNEL(norm_backward_sums)(const __grid_constant__ NormSumsParams p) {
    __shared__ float parts[BLOCK];
    __shared__ u32 flag;
    gradient_sums<1>(p, parts, flag);
}

// The same where `channels` is a multiple of VEC.
KERNEL(norm_backward_sums_vec)(const __grid_constant__ NormSumsParams p) {
    __shared__ float parts[BLOCK * VEC];
    __shared__ u32 flag;
    gradient_sums<VEC>(p, parts, flag);
}

struct NormInputParams {
    const real *input, *d_output;
    const float *weight, *bias, *saved, *d_weight, *d_bias;
    real* d_input;  // May be d_output.
    u64 count;
    u32 channels;
    float share, slope;
    u32 unused;
    static constexpr u32 READS = 7, POINTERS = 8;
};
static_assert(sizeof(NormInputParams) == 88, "the layout is shared with Rust");

template <u32 V>
static __device__ __forceinline__ void input_gradients(const NormInputParams& p) {
    GRID_STRIDE(i, p.count / V) {
        u64 rest = i;
        const u32 channel = take_digit(rest, p.channels / V) * V;
        float inputs[V], gradients[V];
        read_lanes(inputs, p.input + i * V);
        load_lanes(gradients, p.d_output + i * V);
#pragma unroll
        for (u32 lane = 0; lane < V; ++lane) {
            const Factors factors = factors_of(p.weight, p.bias, p.saved, p.channels, channel + lane, OWN);
            const float output = activate(normalised(inputs[lane], factors), p.slope);
            const float gradient = activate_backward(output, gradients[lane], p.slope);
            const float position = (inputs[lane] - factors.mean) * factors.inverse;
            const float common = (read(p.d_bias + channel + lane) + position * read(p.d_weight + channel + lane)) * p.share;
            gradients[lane] = factors.weight * factors.inverse * (gradient - common);
        }
        store_lanes(p.d_input + i * V, gradients);
    }
}

// d_input from d_output, and the sums over all rows; `share` is 1 / rows.
KERNEL(norm_backward_input)(const __grid_constant__ NormInputParams p) { input_gradients<1>(p); }

// The same where `channels` is a multiple of VEC: one thread per 16 bytes.
KERNEL(norm_backward_input_vec)(const __grid_constant__ NormInputParams p) { input_gradients<VEC>(p); }
