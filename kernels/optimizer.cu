// SGD over the flat parameters, and the dynamic loss scale that stays on the device. Everything here is fp32.
#include "reduce.cuh"

constexpr u32 GROWTH_INTERVAL = 2000;
constexpr float LARGEST_SCALE = 65536.0f * 256.0f;

struct OverflowParams {
    const float* gradients;
    int* overflow;
    u64 count;
    static constexpr u32 READS = 1, POINTERS = 2;
};
static_assert(sizeof(OverflowParams) == 24, "the layout is shared with Rust");

// Raises `overflow` where a gradient is not finite. The update lowers it. One thread per 16 bytes.
KERNEL(check_overflow)(const __grid_constant__ OverflowParams p) {
    const float* __restrict__ gradients = p.gradients;
    const u64 count = p.count;
    const u64 quads = count / 4;
    bool finite = true;
    GRID_STRIDE(i, quads) {
        const float4 four = reinterpret_cast<const float4*>(gradients)[i];
        // A sum is finite only where all its terms are; where it is not, the terms decide.
        if (is_finite(four.x + four.y + four.z + four.w)) continue;
        finite = finite && is_finite(four.x) && is_finite(four.y) && is_finite(four.z) && is_finite(four.w);
    }
    GRID_STRIDE(i, count - quads * 4) finite = finite && is_finite(gradients[quads * 4 + i]);
    // Volatile, because several threads may meet here.
    if (!finite) *static_cast<volatile int*>(p.overflow) = 1;
}

struct NormParams {
    const float *gradients, *loss_scale;  // The second null is 1.
    float *partial, *norm;                // A float for every block, and one.
    u32* arrived;
    u64 count;
    static constexpr u32 READS = 2, POINTERS = 5;
};
static_assert(sizeof(NormParams) == 48, "the layout is shared with Rust");

// norm = √Σ (gradient / loss_scale)². A thread's squares are summed in their order, then halved again and again in a warp,
// then warps and blocks in their order.
KERNEL(gradient_norm)(const __grid_constant__ NormParams p) {
    __shared__ float sums[BLOCK / WARP];
    __shared__ u32 flag;
    const float* __restrict__ gradients = p.gradients;
    const float inverse_scale = p.loss_scale ? 1.0f / *p.loss_scale : 1.0f;
    const u64 count = p.count, quads = count / 4;
    float sum = 0.0f;
    GRID_STRIDE(i, quads) {
        const float4 g = reinterpret_cast<const float4*>(gradients)[i];
        const float x = g.x * inverse_scale, y = g.y * inverse_scale, z = g.z * inverse_scale, w = g.w * inverse_scale;
        sum += (x * x + y * y) + (z * z + w * w);
    }
    GRID_STRIDE(i, count - quads * 4) {
        const float x = gradients[quads * 4 + i] * inverse_scale;
        sum += x * x;
    }
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) p.partial[blockIdx.x] = sum;
    if (!arrives_last(p.arrived, gridDim.x, flag)) return;
    float total = 0.0f;
    for (u32 block = threadIdx.x; block < gridDim.x; block += BLOCK) total += p.partial[block];
    total = block_sum(total, sums);
    if (threadIdx.x == 0) *p.norm = sqrtf(total);
}

// What gradients of that norm are multiplied by; NaN stays.
static __device__ __forceinline__ float clip_factor(float clip_norm, float norm) {
    const float factor = clip_norm / (norm + 1e-6f);
    return factor > 1.0f ? 1.0f : factor;
}

struct SgdParams {
    const float *gradients, *norm;  // `norm` null is no clipping.
    float* weights;
    real* weights_real;  // With fp16 storage the rounded copy that the products read; may be null.
    float *buffer, *average;  // Momentum and the weights' average; null for none.
    u64* rates;  // The index of this step's rate, that of the last one, which holds on, and then the rates as floats.
    float* loss_scale;  // Null is 1, and no overflow.
    u32* good_steps;
    u64* skipped_steps;
    int* overflow;
    u32* arrived;
    u64 count, frozen;
    float momentum, weight_decay, clip_norm, decay, rest;  // The average = decay · average + rest · weight.
    u32 nesterov;
    static constexpr u32 READS = 2, POINTERS = 12;
};
static_assert(sizeof(SgdParams) == 136, "the layout is shared with Rust");

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

struct Rule {
    float rate, factor, momentum, weight_decay, decay, rest;
    bool with_momentum, nesterov;
};

// The new weight; `velocity` is the momentum buffer's value.
static __device__ __forceinline__ float updated(float weight, float gradient, float& velocity, const Rule& rule) {
    gradient = gradient * rule.factor + rule.weight_decay * weight;
    if (rule.with_momentum) {
        velocity = rule.momentum * velocity + gradient;
        gradient = rule.nesterov ? gradient + rule.momentum * velocity : velocity;
    }
    return weight - rule.rate * gradient;
}

// The average's next value.
static __device__ __forceinline__ float averaged(float average, float weight, const Rule& rule) {
    return rule.decay * average + rule.rest * weight;
}

// Four parameters at once, as 16 bytes.
static __device__ __forceinline__ void update_four(float* __restrict__ weights, real* __restrict__ weights_real,
                                                   const float* __restrict__ gradients, float* __restrict__ buffer,
                                                   float* __restrict__ average, u64 i, const Rule& rule) {
    const float4 w = reinterpret_cast<const float4*>(weights)[i], g = reinterpret_cast<const float4*>(gradients)[i];
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f), result;
    if (rule.with_momentum) v = reinterpret_cast<const float4*>(buffer)[i];
    result.x = updated(w.x, g.x, v.x, rule);
    result.y = updated(w.y, g.y, v.y, rule);
    result.z = updated(w.z, g.z, v.z, rule);
    result.w = updated(w.w, g.w, v.w, rule);
    if (rule.with_momentum) reinterpret_cast<float4*>(buffer)[i] = v;
    reinterpret_cast<float4*>(weights)[i] = result;
    if (average) {
        float4 a = reinterpret_cast<const float4*>(average)[i];
        a.x = averaged(a.x, result.x, rule);
        a.y = averaged(a.y, result.y, rule);
        a.z = averaged(a.z, result.z, rule);
        a.w = averaged(a.w, result.w, rule);
        reinterpret_cast<float4*>(average)[i] = a;
    }
    if (sizeof(real) == sizeof(float) || !weights_real) return;
    union {
        uint2 bytes;
        real lane[8 / sizeof(real)];
    } rounded;
    const float lanes[4] = {result.x, result.y, result.z, result.w};
#pragma unroll
    for (u32 lane = 0; lane < 8 / sizeof(real); ++lane) store(&rounded.lane[lane], lanes[lane]);
    reinterpret_cast<uint2*>(weights_real)[i] = rounded.bytes;
}

// PyTorch's SGD:
//   g = gradient / scale · factor + weight_decay · w;  buffer = momentum · buffer + g;
//   g = nesterov ? g + momentum · buffer : buffer;  w −= learning_rate · g.
// The last block counts the rate on. The first `frozen` parameters stay as they are, with all that belongs to them. A raised
// `overflow` skips the update, and the last block then updates the scale. One thread per four parameters.
KERNEL(sgd)(const __grid_constant__ SgdParams p) {
    float *__restrict__ weights = p.weights, *__restrict__ buffer = p.buffer, *__restrict__ average = p.average;
    real* __restrict__ weights_real = p.weights_real;
    const float* __restrict__ gradients = p.gradients;
    const u64 count = p.count, frozen = p.frozen;
    __shared__ u32 flag;
    const float inverse_scale = p.loss_scale ? 1.0f / *p.loss_scale : 1.0f;  // A power of two: exact.
    // Not marked as unchanging: the last block counts on.
    const u64 next = p.rates[0], last = p.rates[1];
    const float rate = reinterpret_cast<const float*>(p.rates + 2)[next < last ? next : last];
    const float factor = p.norm ? inverse_scale * clip_factor(p.clip_norm, *p.norm) : inverse_scale;
    const Rule rule = {rate,    factor, p.momentum,        p.weight_decay,
                       p.decay, p.rest, buffer != nullptr, p.nesterov != 0};
    if (!p.overflow || *p.overflow == 0) {
        // Whole fours of those that move, and what is before and behind them one by one.
        const u64 first = (frozen + 3) / 4, quads = count / 4 > first ? count / 4 - first : 0;
        GRID_STRIDE(i, quads) update_four(weights, weights_real, gradients, buffer, average, first + i, rule);
        const u64 head = (first * 4 < count ? first * 4 : count) - frozen, tail = (first + quads) * 4;
        GRID_STRIDE(single, head + (count > tail ? count - tail : 0)) {
            const u64 i = single < head ? frozen + single : tail + (single - head);
            float velocity = buffer ? buffer[i] : 0.0f;
            const float result = updated(weights[i], gradients[i], velocity, rule);
            if (buffer) buffer[i] = velocity;
            weights[i] = result;
            if (average) average[i] = averaged(average[i], result, rule);
            if (sizeof(real) < sizeof(float) && weights_real) store(weights_real + i, result);
        }
    }
    if (!arrives_last(p.arrived, gridDim.x, flag) || threadIdx.x != 0) return;
    // Every block has read the rate, the scale and the flag.
    p.rates[0] = next + 1;
    if (p.loss_scale) update_loss_scale(p);
}

struct SwapParams {
    float* weights;
    real* weights_real;  // As above.
    float* average;
    u64 count;
    static constexpr u32 READS = 0, POINTERS = 3;
};
static_assert(sizeof(SwapParams) == 32, "the layout is shared with Rust");

// Exchanges parameters and average. One thread per parameter.
KERNEL(swap_average)(const __grid_constant__ SwapParams p) {
    float *__restrict__ weights = p.weights, *__restrict__ average = p.average;
    real* __restrict__ weights_real = p.weights_real;
    GRID_STRIDE(i, p.count) {
        const float weight = average[i];
        average[i] = weights[i];
        weights[i] = weight;
        if (sizeof(real) < sizeof(float) && weights_real) store(weights_real + i, weight);
    }
}
