// SGD over the flat parameters, gradient clipping, weight averaging, and the dynamic loss scale, which stays on the
// device. Arithmetic is fp32.
#include "reduce.cuh"

constexpr u32 GROWTH_INTERVAL = 2000;
constexpr float MAX_LOSS_SCALE = 65536.0f * 256.0f;

struct OverflowParams : Params<1, 2, 24> {
    const float* gradients;
    int* overflow;
    u64 count;
};

// Sets `overflow` if a gradient is not finite; the update resets it. One thread per 16 bytes.
KERNEL(check_overflow, OverflowParams) {
    const u64 quads = p.count / 4;
    bool finite = true;
    GRID_STRIDE(i, quads) {
        const Lanes<4> g = read_lanes<4>(p.gradients + 4 * i);
        // A finite sum proves that its terms are finite. A sum that is not may have overflowed, so the terms are
        // checked.
        if (is_finite(g[0] + g[1] + g[2] + g[3])) continue;
        finite = finite && is_finite(g[0]) && is_finite(g[1]) && is_finite(g[2]) && is_finite(g[3]);
    }
    GRID_STRIDE(i, p.count - quads * 4) finite = finite && is_finite(read(p.gradients + quads * 4 + i));
    // Volatile, because several threads may write this at the same time.
    if (!finite) *static_cast<volatile int*>(p.overflow) = 1;
}

struct NormParams : Params<2, 5, 48> {
    const float *gradients, *loss_scale;  // A null `loss_scale` means 1.
    float *partial, *norm;                // `partial` has one float per block.
    u32* block_counters;
    u64 count;
};

// norm = √Σ (gradient / loss_scale)². The order of the sum is fixed: each thread's squares, a butterfly reduction over
// the warp, then warps and blocks in order.
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
    if (!is_last_block(p.block_counters, gridDim.x, flag)) return;
    float total = 0.0f;
    for (u32 block = threadIdx.x; block < gridDim.x; block += BLOCK) total += p.partial[block];
    total = block_sum(total, sums);
    if (threadIdx.x == 0) *p.norm = sqrtf(total);
}

struct SgdParams : Params<2, 12, 136> {
    const float *gradients, *norm;  // A null `norm` disables clipping.
    float* weights;
    real* weights_real;       // With fp16 storage, the rounded copy that matrix products read; may be null.
    float *buffer, *average;  // Momentum and the average of the weights; each may be null.
    u64* rates;  // The index of this step's rate, the index of the last rate (which stays in use), then the floats.
    float* loss_scale;  // Null for a fixed scale of 1.
    u32* good_steps;
    u64* skipped_steps;
    int* overflow;
    u32* block_counters;
    u64 count, frozen;
    float momentum, weight_decay, clip_norm, decay, rest;  // The average = decay · average + rest · weight.
    u32 nesterov;
};

// On overflow, halves the scale (never below 1), counts the skipped step and resets the flag for the next step. After
// 2000 consecutive good steps, doubles the scale.
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
    if (*p.loss_scale < MAX_LOSS_SCALE) *p.loss_scale *= 2.0f;
}

// With fp16 storage, stores the rounded copy of the N weights starting at `i`.
template <u32 N>
static __device__ __forceinline__ void store_rounded(real* weights_real, u64 i, const Lanes<N>& weights) {
    if (sizeof(real) < sizeof(float) && weights_real) store_lanes(weights_real + i, weights);
}

// Updates the N parameters starting at `i` with the step's learning rate and gradient factor.
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

// SGD as torch.optim.SGD computes it:
//   g = gradient · factor + weight_decay · w;  buffer = momentum · buffer + g;
//   g = nesterov ? g + momentum · buffer : buffer;  w −= learning_rate · g,
// where `factor` combines 1 / loss_scale with clipping as in torch.nn.utils.clip_grad_norm_. The first `frozen`
// parameters, their momentum and their average do not change. If `overflow` is set, the update is skipped. The last
// block advances to the next learning rate and updates the loss scale. One thread per four parameters.
KERNEL(sgd, SgdParams) {
    __shared__ u32 flag;
    const u64 count = p.count, frozen = p.frozen;
    const float inverse_scale = p.loss_scale ? 1.0f / *p.loss_scale : 1.0f;  // A power of two: exact.
    // Ordinary loads, not the non-coherent path, because the last block writes rates[0].
    const u64 next = p.rates[0], last = p.rates[1];
    const float rate = reinterpret_cast<const float*>(p.rates + 2)[next < last ? next : last];
    const float clip = p.norm ? p.clip_norm / (read(p.norm) + 1e-6f) : 1.0f;
    const float factor = clip > 1.0f ? inverse_scale : inverse_scale * clip;  // Propagates NaN.
    if (!p.overflow || *p.overflow == 0) {
        // Aligned groups of four trainable parameters, then the remainder before and after them one by one.
        const u64 first = (frozen + 3) / 4, quads = count / 4 > first ? count / 4 - first : 0;
        GRID_STRIDE(i, quads) update<4>(p, 4 * (first + i), rate, factor);
        const u64 head = (first * 4 < count ? first * 4 : count) - frozen, tail = (first + quads) * 4;
        GRID_STRIDE(single, head + (count > tail ? count - tail : 0)) {
            update<1>(p, single < head ? frozen + single : tail + (single - head), rate, factor);
        }
    }
    if (!is_last_block(p.block_counters, gridDim.x, flag) || threadIdx.x != 0) return;
    // Every block has read the rate, the scale and the overflow flag by now.
    p.rates[0] = next + 1;
    if (p.loss_scale) update_loss_scale(p);
}

struct SwapParams : Params<0, 3, 32> {
    float* weights;
    real* weights_real;  // As in SgdParams.
    float* average;
    u64 count;
};

// Swaps the parameters with their average. One thread per parameter.
KERNEL(swap_average, SwapParams) {
    GRID_STRIDE(i, p.count) {
        const Lanes<1> average = load_lanes<1>(p.average + i);
        p.average[i] = p.weights[i];
        store_lanes(p.weights + i, average);
        store_rounded(p.weights_real, i, average);
    }
}
