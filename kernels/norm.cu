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
    const float spread = statistics[channels + channel];
    return Factors{statistics[channel], epsilon >= 0.0f ? 1.0f / sqrtf(spread + epsilon) : spread, weight[channel],
                   bias[channel]};
}

// `statistics` are the batch's own: means and inverse deviations.
constexpr float OWN = -1.0f;

static __device__ __forceinline__ float normalised(float value, const Factors& factors) {
    return (value - factors.mean) * (factors.weight * factors.inverse) + factors.bias;
}

// Sums over a channel are of distances from its first value, so that a large mean costs no digits of the variance.
template <u32 V>
static __device__ __forceinline__ void statistics(const real* input, float* running, float* saved,
                                                  const ColumnPass& pass, float momentum, float epsilon, float* parts,
                                                  u32& flag) {
    const u32 channels = pass.channels;
    column_sums<V, 2>(
        pass, parts, flag,
        [&](u64 row, u32 channel, float (&values)[2 * V]) {
            float lanes[V], firsts[V];
            load_lanes(lanes, input + row * channels + channel);
            load_lanes(firsts, input + channel);
#pragma unroll
            for (u32 lane = 0; lane < V; ++lane) {
                const float distance = lanes[lane] - firsts[lane];
                values[lane] = distance;
                values[V + lane] = distance * distance;
            }
        },
        [&](u32 channel, const float (&totals)[2]) {
            const float rows = (float)pass.rows;
            const float distance = totals[0] / rows;
            const float mean = load(input[channel]) + distance;
            // Not fmaxf, which would hide NaN.
            const float rest = totals[1] / rows - distance * distance;
            const float variance = rest < 0.0f ? 0.0f : rest;
            saved[channel] = mean;
            saved[channels + channel] = 1.0f / sqrtf(variance + epsilon);
            const float unbiased = variance * (rows / (rows - 1.0f));
            running[channel] = (1.0f - momentum) * running[channel] + momentum * mean;
            running[channels + channel] = (1.0f - momentum) * running[channels + channel] + momentum * unbiased;
        });
}

// Mean and inverse deviation of every channel to `saved`, [2][channels], and `running` (means, variances) towards them.
// For grid and scratch see ColumnPass.
KERNEL(norm_statistics)(const real* __restrict__ input, float* running, float* saved, float* partial, u32* arrived,
                        u64 rows, u32 channels, u32 width, u32 rows_per_block, float momentum, float epsilon) {
    __shared__ float parts[BLOCK];
    __shared__ u32 flag;
    const ColumnPass pass = {rows, channels, width, rows_per_block, saved, partial, arrived};
    statistics<1>(input, running, saved, pass, momentum, epsilon, parts, flag);
}

// The same where `channels` is a multiple of VEC.
KERNEL(norm_statistics_vec)(const real* __restrict__ input, float* running, float* saved, float* partial, u32* arrived,
                            u64 rows, u32 channels, u32 width, u32 rows_per_block, float momentum, float epsilon) {
    __shared__ float parts[BLOCK * VEC];
    __shared__ u32 flag;
    const ColumnPass pass = {rows, channels, width, rows_per_block, saved, partial, arrived};
    statistics<VEC>(input, running, saved, pass, momentum, epsilon, parts, flag);
}

// V elements from `at` on, which are those of `channel` and the ones after it.
template <u32 V>
static __device__ __forceinline__ void normalise(const real* input, const float* weight, const float* bias,
                                                 const float* statistics, const real* residual, real* output, u64 at,
                                                 u32 channel, u32 channels, float epsilon, float slope) {
    float values[V], added[V];
    load_lanes(values, input + at);
    if (residual) load_lanes(added, residual + at);
#pragma unroll
    for (u32 lane = 0; lane < V; ++lane) {
        const Factors factors = factors_of(weight, bias, statistics, channels, channel + lane, epsilon);
        const float value = normalised(values[lane], factors);
        values[lane] = activate(residual ? value + added[lane] : value, slope);
    }
    store_lanes(output + at, values);
}

// output = act(normalised input + residual); `residual` may be null, `output` the input. For `statistics` and `epsilon`
// see factors_of.
KERNEL(norm_forward)(const real* input, const float* __restrict__ weight, const float* __restrict__ bias,
                     const float* __restrict__ statistics, const real* residual, real* output, u64 count, u32 channels,
                     float epsilon, float slope) {
    GRID_STRIDE(i, count) {
        u64 rest = i;
        const u32 channel = take_digit(rest, channels);
        normalise<1>(input, weight, bias, statistics, residual, output, i, channel, channels, epsilon, slope);
    }
}

// The same where `channels` is a multiple of VEC: one thread per 16 bytes.
KERNEL(norm_forward_vec)(const real* input, const float* __restrict__ weight, const float* __restrict__ bias,
                         const float* __restrict__ statistics, const real* residual, real* output, u64 count,
                         u32 channels, float epsilon, float slope) {
    GRID_STRIDE(i, count / VEC) {
        u64 rest = i;
        const u32 channel = take_digit(rest, channels / VEC) * VEC;
        normalise<VEC>(input, weight, bias, statistics, residual, output, i * VEC, channel, channels, epsilon, slope);
    }
}

// What the sums read besides the gradient.
struct Forward {
    const real* input;
    const real* output;
    const float* weight;
    const float* bias;
    const float* saved;
};

template <u32 V>
static __device__ __forceinline__ void gradient_sums(const Forward& forward, real* d_output, float* d_weight,
                                                     float* d_bias, float slope, const ColumnPass& pass, float* parts,
                                                     u32& flag) {
    const u32 channels = pass.channels;
    column_sums<V, 2>(
        pass, parts, flag,
        [&](u64 row, u32 channel, float (&values)[2 * V]) {
            const u64 at = row * channels + channel;
            float inputs[V], outputs[V], gradients[V];
            load_lanes(inputs, forward.input + at);
            load_lanes(gradients, d_output + at);
            if (forward.output) load_lanes(outputs, forward.output + at);
#pragma unroll
            for (u32 lane = 0; lane < V; ++lane) {
                const Factors factors =
                    factors_of(forward.weight, forward.bias, forward.saved, channels, channel + lane, OWN);
                const float output =
                    forward.output ? outputs[lane] : activate(normalised(inputs[lane], factors), slope);
                gradients[lane] = activate_backward(output, gradients[lane], slope);
                values[lane] = gradients[lane];
                values[V + lane] = gradients[lane] * (inputs[lane] - factors.mean);
            }
            if (forward.output) store_lanes(d_output + at, gradients);
        },
        [&](u32 channel, const float (&totals)[2]) {
            d_bias[channel] = totals[0];
            d_weight[channel] = totals[1] * forward.saved[channels + channel];
        });
}

// d_bias and d_weight from d_output, taken back through the activation. With `output` (null: without a residual) that
// tells the derivative, and d_output is overwritten, which makes it the residual's gradient. For grid and scratch see
// ColumnPass.
KERNEL(norm_backward_sums)(const real* __restrict__ input, const real* __restrict__ output, real* d_output,
                           const float* __restrict__ weight, const float* __restrict__ bias,
                           const float* __restrict__ saved, float* d_weight, float* d_bias, float* partial,
                           u32* arrived, u64 rows, u32 channels, u32 width, u32 rows_per_block, float slope) {
    __shared__ float parts[BLOCK];
    __shared__ u32 flag;
    const ColumnPass pass = {rows, channels, width, rows_per_block, d_bias, partial, arrived};
    gradient_sums<1>(Forward{input, output, weight, bias, saved}, d_output, d_weight, d_bias, slope, pass, parts,
                     flag);
}

// The same where `channels` is a multiple of VEC.
KERNEL(norm_backward_sums_vec)(const real* __restrict__ input, const real* __restrict__ output, real* d_output,
                               const float* __restrict__ weight, const float* __restrict__ bias,
                               const float* __restrict__ saved, float* d_weight, float* d_bias, float* partial,
                               u32* arrived, u64 rows, u32 channels, u32 width, u32 rows_per_block, float slope) {
    __shared__ float parts[BLOCK * VEC];
    __shared__ u32 flag;
    const ColumnPass pass = {rows, channels, width, rows_per_block, d_bias, partial, arrived};
    gradient_sums<VEC>(Forward{input, output, weight, bias, saved}, d_output, d_weight, d_bias, slope, pass, parts,
                       flag);
}

// V elements of d_input from `at` on.
template <u32 V>
static __device__ __forceinline__ void input_gradients(const Forward& forward, const real* d_output, real* d_input,
                                                       const float* d_weight, const float* d_bias, u64 at, u32 channel,
                                                       u32 channels, float share, float slope) {
    float inputs[V], gradients[V];
    load_lanes(inputs, forward.input + at);
    load_lanes(gradients, d_output + at);
#pragma unroll
    for (u32 lane = 0; lane < V; ++lane) {
        const Factors factors = factors_of(forward.weight, forward.bias, forward.saved, channels, channel + lane, OWN);
        const float output = activate(normalised(inputs[lane], factors), slope);
        const float gradient = activate_backward(output, gradients[lane], slope);
        const float position = (inputs[lane] - factors.mean) * factors.inverse;
        const float common = (d_bias[channel + lane] + position * d_weight[channel + lane]) * share;
        gradients[lane] = factors.weight * factors.inverse * (gradient - common);
    }
    store_lanes(d_input + at, gradients);
}

// d_input from d_output, which it may be, and the sums over all rows; `share` is 1 / rows.
KERNEL(norm_backward_input)(const real* __restrict__ input, const real* d_output, real* d_input,
                            const float* __restrict__ weight, const float* __restrict__ bias,
                            const float* __restrict__ saved, const float* __restrict__ d_weight,
                            const float* __restrict__ d_bias, u64 count, u32 channels, float share, float slope) {
    const Forward forward = {input, nullptr, weight, bias, saved};
    GRID_STRIDE(i, count) {
        u64 rest = i;
        const u32 channel = take_digit(rest, channels);
        input_gradients<1>(forward, d_output, d_input, d_weight, d_bias, i, channel, channels, share, slope);
    }
}

// The same where `channels` is a multiple of VEC: one thread per 16 bytes.
KERNEL(norm_backward_input_vec)(const real* __restrict__ input, const real* d_output, real* d_input,
                                const float* __restrict__ weight, const float* __restrict__ bias,
                                const float* __restrict__ saved, const float* __restrict__ d_weight,
                                const float* __restrict__ d_bias, u64 count, u32 channels, float share, float slope) {
    const Forward forward = {input, nullptr, weight, bias, saved};
    GRID_STRIDE(i, count / VEC) {
        u64 rest = i;
        const u32 channel = take_digit(rest, channels / VEC) * VEC;
        input_gradients<VEC>(forward, d_output, d_input, d_weight, d_bias, i * VEC, channel, channels, share, slope);
    }
}
