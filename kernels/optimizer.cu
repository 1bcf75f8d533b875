// SGD over the flat parameters, and the dynamic loss scale that stays on the device. Everything here is fp32.
#include "reduce.cuh"

constexpr u32 GROWTH_INTERVAL = 2000;
constexpr float LARGEST_SCALE = 65536.0f * 256.0f;

struct OverflowParams : Params<1, 2, 24> {
    const float* gradients;
    int* overflow;
    u64 count;
};

// Raises `overflow` where a gradient is not finite. The update lowers it. One thread per 16 bytes.
KERNEL(check_overflow, OverflowParams) {
    const u64 quads = p.count / 4;
    bool finite = true;
    GRID_STRIDE(i, quads) {
        const Lanes<4> g = read_lanes<4>(p.gradients + 4 * i);
        // A sum is finite only where all its terms are; where it is not, the terms decide.
        if (is_finite(g[0] + g[1] + g[2] + g[3])) continue;
        finite = finite && is_finite(g[0]) && is_finite(g[1]) && is_finite(g[2]) && is_finite(g[3]);
    }
    GRID_STRIDE(i, p.count - quads * 4) finite = finite && is_finite(read(p.gradients + quads * 4 + i));
    // Volatile, because several threads may meet here.
    if (!finite) *static_cast<volatile int*>(p.overflow) = 1;
}

struct NormParams : Params<2, 5, 48> {
    const float *gradients, *loss_scale;  // The second null is 1.
    float *partial, *norm;                // A float for every block, and one.
    u32* block_counters;
    u64 count;
};

// norm = √Σ (gradient / loss_scale)². A thread's squares are summed in their order, then halved again and again in a warp,
// then warps and blocks in their order.
KERNEL(gradient_norm, NormParams) {
    __shared__ float sums[BLOCK / WARP];
    __shared__ u32 flag;
    const float inverse_scale = p.loss_scale ? 1.0f / read(p.loss_scale) : 1.0f;
    const u64 quads = p.count / 4;
    float sum = 0.0f;
    GRID_STRIDE(i, quads) {
        const auto scaled = [&](float gradient) { return gradient * inverse_scale; };
        const Lanes<4> g = map_lanes(scaled, read_lanes<4>(p.gradients + 4 * i));
        sum += fmaf(g[0], g[0], g[1] * g[1]) + fmaf(g[2], g[2], g[3] * g[3]);
    }
    GRID_STRIDE(i, p.count - quads * 4) {
        const float x = read(p.gradients + quads * 4 + i) * inverse_scale;
        sum += x * x;
    }
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) p.partial[blockIdx.x] = sum;
    if (!arrives_last(p.block_counters, gridDim.x, flag)) return;
    float total = 0.0f;
    for (u32 block = threadIdx.x; block < gridDim.x; block += BLOCK) total += p.partial[block];
    total = block_sum(total, sums);
    if (threadIdx.x == 0) *p.norm = sqrtf(total);
}

struct SgdParams : Params<2, 12, 136> {
    const float *gradients, *norm;  // `norm` null is no clipping.
    float* weights;
    real* weights_real;  // With fp16 storage the rounded copy that the products read; may be null.
    float *buffer, *average;  // Momentum and the weights' average; null for none.
    u64* rates;  // The index of this step's rate, that of the last one, which holds on, and then the rates as floats.
    float* loss_scale;  // Null is 1, and no overflow.
    u32* good_steps;
    u64* skipped_steps;
    int* overflow;
    u32* block_counters;
    u64 count, frozen;
    float momentum, weight_decay, clip_norm, decay, rest;  // The average = decay · average + rest · weight.
    u32 nesterov;
};

// Halves the scale on overflow (never below 1) and counts the skipped step, doubles it after 2000 good steps in a row,
// and lowers the flag for the next step.
static __device__ __forceinline__ void update_loss_scale(const SgdParams& p) {
    if (*p.overflow) {
        *p.loss_scale = *p.loss_scale > 2.0f ? *p.loss_scale / 2.0f : 1.0f;
        *p.good_steps = 0;
        *p.skipped_steps += 1;
        *p.overflow = 0;
        return;
    }
    *p.good_steps += 1;
    if (*p.good_steps < GROWTH_INTERVAL) return;
    *p.good_steps = 0;
    if (*p.loss_scale < LARGEST_SCALE) *p.loss_scale *= 2.0f;
}

// With fp16 storage, the rounded copy of the N weights from `i` on.
template <u32 N>
static __device__ __forceinline__ void store_rounded(real* weights_real, u64 i, const Lanes<N>& weights) {
    if (sizeof(real) < sizeof(float) && weights_real) store_lanes(weights_real + i, weights);
}

// Updates the N parameters from number `i` on; `rate` and `factor` are those of the step.
template <u32 N>
static __device__ __forceinline__ void update(const SgdParams& p, u64 i, float rate, float factor) {
    Lanes<N> weights = load_lanes<N>(p.weights + i), velocities = {};
    const Lanes<N> gradients = read_lanes<N>(p.gradients + i);
    if (p.buffer) velocities = load_lanes<N>(p.buffer + i);
    unroll<N>([&](u32 lane) {
        float gradient = fmaf(p.weight_decay, weights[lane], gradients[lane] * factor);
        if (p.buffer) {
            float& velocity = velocities[lane];
            velocity = p.momentum * velocity + gradient;
            gradient = p.nesterov ? gradient + p.momentum * velocity : velocity;
        }
        weights[lane] -= rate * gradient;
    });
    if (p.buffer) store_lanes(p.buffer + i, velocities);
    store_lanes(p.weights + i, weights);
    store_rounded(p.weights_real, i, weights);
    if (!p.average) return;
    Lanes<N> average = load_lanes<N>(p.average + i);
    unroll<N>([&](u32 lane) { average[lane] = fmaf(p.rest, weights[lane], p.decay * average[lane]); });
    store_lanes(p.average + i, average);
}

// PyTorch's SGD:
//   g = gradient / scale · factor + weight_decay · w;  buffer = momentum · buffer + g;
//   g = nesterov ? g + momentum · buffer : buffer;  w −= learning_rate · g.
// The last block counts the rate on. The first `frozen` parameters stay as they are, with all that belongs to them. A raised
// `overflow` skips the update, and the last block then updates the scale. One thread per four parameters.
KERNEL(sgd, SgdParams) {
    __shared__ u32 flag;
    const u64 count = p.count, frozen = p.frozen;
    const float inverse_scale = p.loss_scale ? 1.0f / *p.loss_scale : 1.0f;  // A power of two: exact.
    // Not marked as unchanging: the last block counts on.
    const u64 next = p.rates[0], last = p.rates[1];
    const float rate = reinterpret_cast<const float*>(p.rates + 2)[next < last ? next : last];
    const float clip = p.norm ? p.clip_norm / (read(p.norm) + 1e-6f) : 1.0f;
    const float factor = clip > 1.0f ? inverse_scale : inverse_scale * clip;  // NaN stays.
    if (!p.overflow || *p.overflow == 0) {
        // Whole fours of those that move, and what is before and behind them one by one.
        const u64 first = (frozen + 3) / 4, quads = count / 4 > first ? count / 4 - first : 0;
        GRID_STRIDE(i, quads) update<4>(p, 4 * (first + i), rate, factor);
        const u64 head = (first * 4 < count ? first * 4 : count) - frozen, tail = (first + quads) * 4;
        GRID_STRIDE(single, head + (count > tail ? count - tail : 0)) {
            update<1>(p, single < head ? frozen + single : tail + (single - head), rate, factor);
        }
    }
    if (!arrives_last(p.block_counters, gridDim.x, flag) || threadIdx.x != 0) return;
    // Every block has read the rate, the scale and the flag.
    p.rates[0] = next + 1;
    if (p.loss_scale) update_loss_scale(p);
}

struct SwapParams : Params<0, 3, 32> {
    float* weights;
    real* weights_real;  // As above.
    float* average;
    u64 count;
};

// Exchanges parameters and average. One thread per parameter.
KERNEL(swap_average, SwapParams) {
    GRID_STRIDE(i, p.count) {
        const Lanes<1> average = load_lanes<1>(p.average + i);
        p.average[i] = p.weights[i];
        store_lanes(p.weights + i, average);
        store_rounded(p.weights_real, i, average);
    }
}
