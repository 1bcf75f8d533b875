// Batch normalisation. Forward: a pass for the batch's statistics and a pass that normalises, fused with the residual
// sum and the activation. Backward: a pass for the sums and a pass for the input gradient.
//
// A thread stays with its channels, so it reads their terms once, and reads several rows ahead. The kernels for vectors
// require that parameters and statistics are aligned too, and know no tanh.
#include "norm.cuh"
#include "reduce.cuh"

// Threads per block of the passes that sum.
constexpr u32 SUMS_BLOCK = 384;
typedef ColumnScratch<2, SUMS_BLOCK> SumsScratch;

template <u32 V>
static __device__ __forceinline__ float activated(float value, float slope) {
    return V > 1 ? activate_piecewise(value, slope) : activate(value, slope);
}

// The gradient of an activation's input, computed from its output, or from that input: without tanh they have the same
// sign, which suffices.
template <u32 V>
static __device__ __forceinline__ float masked_by_output(float output, float d_output, float slope) {
    return V > 1 ? activate_backward_piecewise(output, d_output, slope) : activate_backward(output, d_output, slope);
}
template <u32 V>
static __device__ __forceinline__ float masked(float value, float d_output, float slope) {
    return masked_by_output<V>(V > 1 ? value : activate(value, slope), d_output, slope);
}

// The epsilon for the batch's own statistics, which are means and inverse deviations.
constexpr float OWN = -1.0f;

// `statistics` is [2][channels]: the means, then the variances, or the inverse deviations if `epsilon` is negative.
template <u32 V>
static __device__ __forceinline__ Factors<V> factors_of(const float* weight, const float* bias, const float* statistics,
                                                        u32 channels, u32 channel, float epsilon) {
    Factors<V> factors = {};
    if (channel >= channels) return factors;
    factors.mean = read_lanes<V>(statistics + channel);
    factors.bias = read_lanes<V>(bias + channel);
    const auto scale = [&](float weight, float spread) {
        return weight * (epsilon >= 0.0f ? 1.0f / sqrtf(spread + epsilon) : spread);
    };
    factors.scale = map_lanes(scale, read_lanes<V>(weight + channel), read_lanes<V>(statistics + channels + channel));
    return factors;
}

struct NormStatisticsParams : Params<1, 5, 64> {
    const real* input;
    float* running;
    ColumnPass saved;
    float momentum, epsilon;
};

// Sums distances from the channel's first value, so that the variance loses no precision if the mean is large.
template <u32 V>
static __device__ __forceinline__ void statistics(const NormStatisticsParams& p, SumsScratch& scratch) {
    const u32 channels = p.saved.grid.channels, own = p.saved.grid.channel<V>();
    Lanes<V> firsts = {};
    if (own < channels) firsts = read_lanes<V>(p.input + own);
    column_sums<2, V, 4>(
        p.saved, scratch, [&](u64 at) { return read_pack<V>(p.input + at); },
        [&](u64, const Pack<V, real>& loaded, Lanes<2 * V>& sums) {
            unroll<V>([&](u32 lane) {
                const float distance = load(loaded.lane[lane]) - firsts[lane];
                sums[lane] += distance;
                sums[V + lane] += distance * distance;
            });
        },
        [&](u32 channel, const float (&totals)[2]) {
            const float rows = (float)p.saved.grid.rows;
            const float distance = totals[0] / rows, mean = read(p.input + channel) + distance;
            const float rest = totals[1] / rows - distance * distance;
            const float variance = rest < 0.0f ? 0.0f : rest;  // Not fmaxf, which would hide a NaN.
            NormStatistics{p.running, p.saved.sums, p.momentum, p.epsilon}.store(channel, channels, rows, mean,
                                                                                 variance);
        });
}

// Stores each channel's mean and inverse deviation in `saved`, [2][channels], and updates the running means and
// variances in `running`, [2][channels].
//
// Grid: a ColumnGrid. Bound by memory: 2 bytes per value in fp16, for 128×56×56×64 51 MB, which takes an H200 at least
// 11 + 1.3 µs.
KERNEL(norm_statistics, NormStatisticsParams, SUMS_BLOCK, 2) {
    __shared__ SumsScratch scratch;
    statistics<1>(p, scratch);
}
KERNEL(norm_statistics_vec, NormStatisticsParams, SUMS_BLOCK, 2) {
    __shared__ SumsScratch scratch;
    statistics<VEC>(p, scratch);
}

struct NormForwardParams : Params<5, 6, 72> {
    const real* input;
    const float *weight, *bias, *statistics;
    const real* residual;  // Null in the kernels without a residual.
    real* output;          // May be the input.
    ColumnGrid grid;
    float epsilon, slope;
};

template <u32 V>
struct InputAndResidual {
    Pack<V, real> input, residual;
};

template <u32 V, bool RESIDUAL>
static __device__ __forceinline__ void normalise(const NormForwardParams& p) {
    const Factors<V> factors =
        factors_of<V>(p.weight, p.bias, p.statistics, p.grid.channels, p.grid.channel<V>(), p.epsilon);
    for_rows<V, RESIDUAL ? 2 : 4, BLOCK>(
        p.grid,
        [&](u64 at) {
            InputAndResidual<V> loaded;
            loaded.input = load_pack<V>(p.input + at);
            if (RESIDUAL) loaded.residual = load_pack<V>(p.residual + at);
            return loaded;
        },
        [&](u64 at, const InputAndResidual<V>& loaded) {
            Lanes<V> values = lanes_of(loaded.input), added = {};
            if (RESIDUAL) added = lanes_of(loaded.residual);
            unroll<V>([&](u32 lane) {
                const float value = factors.normalised(values[lane], lane);
                values[lane] = activated<V>(RESIDUAL ? value + added[lane] : value, p.slope);
            });
            store_lanes(p.output + at, values);
        });
}

// output = act(normalised input + residual) over [rows][channels]. For `statistics` and `epsilon` see factors_of.
//
// Grid: a ColumnGrid. Bound by memory: in fp16 4 bytes per value, or 6 with a residual; for 128×56×56×64 103 MB, which
// takes an H200 at least 21 + 1.3 µs.
KERNEL(norm_forward, NormForwardParams, BLOCK, 4) { normalise<1, false>(p); }
KERNEL(norm_forward_vec, NormForwardParams, BLOCK, 4) { normalise<VEC, false>(p); }
KERNEL(norm_forward_residual, NormForwardParams, BLOCK, 4) { normalise<1, true>(p); }
KERNEL(norm_forward_residual_vec, NormForwardParams, BLOCK, 4) { normalise<VEC, true>(p); }

struct NormSumsParams : Params<5, 10, 104> {
    const real *input, *output;  // `output` is null in the kernels without a residual.
    const float *weight, *bias, *saved;
    real* d_output;
    float* d_weight;
    ColumnPass d_bias;
    float slope;
};

template <u32 V>
struct InputAndGradient {
    Pack<V, real> input, output, d_output;
};

template <u32 V, bool RESIDUAL>
static __device__ __forceinline__ void gradient_sums(const NormSumsParams& p, SumsScratch& scratch) {
    const u32 channels = p.d_bias.grid.channels, own = p.d_bias.grid.channel<V>();
    const Factors<V> factors = factors_of<V>(p.weight, p.bias, p.saved, channels, own, OWN);
    column_sums<2, V, 2>(
        p.d_bias, scratch,
        [&](u64 at) {
            InputAndGradient<V> loaded;
            loaded.input = read_pack<V>(p.input + at);
            loaded.d_output = load_pack<V>(p.d_output + at);
            if (RESIDUAL) loaded.output = read_pack<V>(p.output + at);
            return loaded;
        },
        [&](u64 at, const InputAndGradient<V>& loaded, Lanes<2 * V>& sums) {
            Pack<V, real> gradients;
            unroll<V>([&](u32 lane) {
                const float input = load(loaded.input.lane[lane]);
                const float d_output = load(loaded.d_output.lane[lane]);
                const float gradient = RESIDUAL ? masked_by_output<V>(load(loaded.output.lane[lane]), d_output, p.slope)
                                                : masked<V>(factors.normalised(input, lane), d_output, p.slope);
                sums[lane] += gradient;
                sums[V + lane] += gradient * (input - factors.mean[lane]);
                store(&gradients.lane[lane], gradient);
            });
            if (RESIDUAL) store_pack(p.d_output + at, gradients);
        },
        [&](u32 channel, const float (&totals)[2]) {
            p.d_bias.sums[channel] = totals[0];
            p.d_weight[channel] = totals[1] * p.saved[channels + channel];
        });
}

// Computes d_bias and d_weight from d_output · act'. With a residual, act' is computed from `output`, and the product
// overwrites d_output, which then is the residual's gradient.
//
// Grid: a ColumnGrid. Bound by memory: in fp16 4 bytes per value, or 8 with a residual; for 128×56×56×64 103 MB, which
// takes an H200 at least 21 + 1.3 µs.
KERNEL(norm_backward_sums, NormSumsParams, SUMS_BLOCK, 2) {
    __shared__ SumsScratch scratch;
    gradient_sums<1, false>(p, scratch);
}
KERNEL(norm_backward_sums_vec, NormSumsParams, SUMS_BLOCK, 2) {
    __shared__ SumsScratch scratch;
    gradient_sums<VEC, false>(p, scratch);
}
KERNEL(norm_backward_sums_residual, NormSumsParams, SUMS_BLOCK, 2) {
    __shared__ SumsScratch scratch;
    gradient_sums<1, true>(p, scratch);
}
KERNEL(norm_backward_sums_residual_vec, NormSumsParams, SUMS_BLOCK, 2) {
    __shared__ SumsScratch scratch;
    gradient_sums<VEC, true>(p, scratch);
}

struct NormInputParams : Params<7, 8, 96> {
    const real *input, *d_output;
    const float *weight, *bias, *statistics, *d_weight, *d_bias;  // The sums are null with running statistics.
    real* d_input;                                                // May be d_output.
    ColumnGrid grid;
    float epsilon, share, slope;
};

template <u32 V>
static __device__ __forceinline__ void input_gradients(const NormInputParams& p) {
    const u32 channels = p.grid.channels, own = p.grid.channel<V>();
    if (own >= channels) return;
    const Factors<V> factors = factors_of<V>(p.weight, p.bias, p.statistics, channels, own, p.epsilon);
    // What the means of the gradient and of its product with the input take away, as a function of x − mean.
    const auto term = [&](float scale, float sum) { return -scale * sum * p.share; };
    Lanes<V> constant = {}, linear = {};
    if (p.d_bias) {
        constant = map_lanes(term, factors.scale, read_lanes<V>(p.d_bias + own));
        linear = map_lanes([](float inverse, float term) { return inverse * term; },
                           read_lanes<V>(p.statistics + channels + own),
                           map_lanes(term, factors.scale, read_lanes<V>(p.d_weight + own)));
    }
    for_rows<V, 2, BLOCK>(
        p.grid,
        [&](u64 at) {
            InputAndGradient<V> loaded;
            loaded.input = read_pack<V>(p.input + at);
            loaded.d_output = load_pack<V>(p.d_output + at);
            return loaded;
        },
        [&](u64 at, const InputAndGradient<V>& loaded) {
            const Lanes<V> inputs = lanes_of(loaded.input);
            Lanes<V> gradients = lanes_of(loaded.d_output);
            unroll<V>([&](u32 lane) {
                const float gradient = masked<V>(factors.normalised(inputs[lane], lane), gradients[lane], p.slope);
                const float common = fmaf(linear[lane], inputs[lane] - factors.mean[lane], constant[lane]);
                gradients[lane] = fmaf(factors.scale[lane], gradient, common);
            });
            store_lanes(p.d_input + at, gradients);
        });
}

// d_input = scale · (g − mean(g) − x̂ · mean(g · x̂)), where g = d_output · act' and x̂ = (x − mean) · inverse deviation.
// The means follow from the sums d_bias and d_weight; `share` is 1 / rows. With running statistics both sums are null, and
// d_input = scale · g. For `statistics` and `epsilon` see factors_of.
//
// Grid: a ColumnGrid. Bound by memory: in fp16 6 bytes per value, for 128×56×56×64 154 MB, which takes an H200 at least
// 32 + 1.3 µs.
KERNEL(norm_backward_input, NormInputParams, BLOCK, 3) { input_gradients<1>(p); }
KERNEL(norm_backward_input_vec, NormInputParams, BLOCK, 3) { input_gradients<VEC>(p); }
