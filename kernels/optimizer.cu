// SGD, Adam and Muon over the flat parameters in groups, gradient clipping, weight averaging, and the dynamic loss scale, which
// stays on the device. Arithmetic is fp32.
#include "reduce.cuh"

constexpr u32 GROWTH_INTERVAL = 2000;
constexpr float MAX_LOSS_SCALE = 65536.0f * 256.0f;

// Calls `visit` for the gradients, four at a time and with the index of the first, with IN_FLIGHT loads of 16 bytes in
// flight. The last call may have fewer than four, followed by zeros.
constexpr u32 IN_FLIGHT = 4;

template <class Visit>
static __device__ __forceinline__ void for_gradients(const float* gradients, u64 count, Visit visit) {
    const u64 quads = count / 4, stride = (u64)gridDim.x * BLOCK, first = (u64)blockIdx.x * BLOCK + threadIdx.x;
    for (u64 i = first; i < quads; i += IN_FLIGHT * stride) {
        Lanes<4> loaded[IN_FLIGHT];
        unroll<IN_FLIGHT>([&](u32 each) {
            const u64 at = i + each * stride;
            loaded[each] = at < quads ? read_lanes<4>(gradients + 4 * at) : Lanes<4>{};
        });
        unroll<IN_FLIGHT>([&](u32 each) { visit(4 * (i + each * stride), loaded[each]); });
    }
    if (first < count % 4) visit(4 * quads + first, Lanes<4>{read(gradients + 4 * quads + first)});
}

static __device__ __forceinline__ bool all_finite(const Lanes<4>& g) {
    // A finite sum proves that its terms are finite. A sum that is not may have overflowed, so the terms are checked.
    if (is_finite(g[0] + g[1] + g[2] + g[3])) return true;
    return is_finite(g[0]) && is_finite(g[1]) && is_finite(g[2]) && is_finite(g[3]);
}

// Volatile, because several threads may write this at the same time.
static __device__ __forceinline__ void set_overflow(int* overflow) { *static_cast<volatile int*>(overflow) = 1; }

struct OverflowParams : Params<1, 2, 32> {
    const float* gradients;
    int* overflow;
    u64 begin, count;  // The gradients before `begin` do not count.
};

// Gradients from index `at` on, with zeros before `begin`.
static __device__ __forceinline__ Lanes<4> since(u64 begin, u64 at, const Lanes<4>& gradients) {
    Lanes<4> counted;
    unroll<4>([&](u32 lane) { counted[lane] = at + lane < begin ? 0.0f : gradients[lane]; });
    return counted;
}

// Sets `overflow` if a gradient is not finite; the update resets it.
//
// Grid: any; IN_FLIGHT · BLOCK quads per block leave no thread without one. Bound by memory: 4 bytes per gradient, for
// 2.33 million of them 9.3 MB, which takes an H200 at least 1.9 + 1.3 µs.
KERNEL(check_overflow, OverflowParams) {
    bool finite = true;
    for_gradients(p.gradients, p.count, [&](u64 at, const Lanes<4>& gradients) {
        finite = finite && all_finite(since(p.begin, at, gradients));
    });
    if (!finite) set_overflow(p.overflow);
}

struct NormParams : Params<2, 6, 64> {
    const float *gradients, *loss_scale;  // A null `loss_scale` means 1.
    float *partial, *norm;                // `partial` has one float per block.
    int* overflow;                        // Null without a loss scale.
    u32* block_counters;
    u64 begin, count;  // The gradients before `begin` do not count.
};

// norm = √Σ (gradient / loss_scale)², and what check_overflow does, in the same pass. The order of the sum is fixed: each
// thread's squares, a butterfly reduction over the warp, then warps and blocks in order.
//
// Grid and bound: as check_overflow.
KERNEL(gradient_norm, NormParams) {
    __shared__ float sums[BLOCK / WARP];
    __shared__ u32 flag;
    const float inverse_scale = p.loss_scale ? 1.0f / read(p.loss_scale) : 1.0f;
    float sum = 0.0f;
    bool finite = true;
    for_gradients(p.gradients, p.count, [&](u64 at, const Lanes<4>& gradients) {
        const Lanes<4> counted = since(p.begin, at, gradients);
        const Lanes<4> g = map_lanes([&](float gradient) { return gradient * inverse_scale; }, counted);
        sum += fmaf(g[0], g[0], g[1] * g[1]) + fmaf(g[2], g[2], g[3] * g[3]);
        finite = finite && all_finite(counted);
    });
    if (p.overflow && !finite) set_overflow(p.overflow);
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) p.partial[blockIdx.x] = sum;
    if (!is_last_block(p.block_counters, gridDim.x, flag)) return;
    float total = 0.0f;
    for (u32 block = threadIdx.x; block < gridDim.x; block += BLOCK) total += p.partial[block];
    total = block_sum(total, sums);
    if (threadIdx.x == 0) *p.norm = sqrtf(total);
}

// The first parameter of the calling thread and how many it processes: four that are aligned, one of those before and
// after them, or none. There is one thread per four of the `count` parameters from `begin` on, and up to six more.
struct Work {
    u64 at;
    u32 count;
};
static __device__ __forceinline__ Work work_of(u64 index, u64 begin, u64 count) {
    const u64 first = (begin + 3) / 4, quads = count / 4 > first ? count / 4 - first : 0;
    if (index < quads) return Work{4 * (first + index), 4};
    const u64 head = (first * 4 < count ? first * 4 : count) - begin, tail = (first + quads) * 4;
    const u64 single = index - quads, singles = head + (count > tail ? count - tail : 0);
    return Work{single < head ? begin + single : tail + (single - head), single < singles ? 1u : 0u};
}

// A range of parameters that are updated in the same way: up to `end`, from the end of the group before.
struct Group {
    u64 end;  // The largest u64 for the last group.
    float rate_scale, weight_decay;
};
constexpr u32 MAX_GROUPS = 8;

struct UpdateParams : Params<2, 14, 312> {
    const float *gradients, *norm;  // A null `norm` disables clipping.
    float* weights;
    real* weights_real;      // With 16-bit storage, the rounded copy that matrix products read; may be null.
    float *buffer, *second;  // Momentum or Adam's first moment, and Adam's second moment; each may be null.
    float* average;          // The average of the weights; may be null.
    u64* rates;  // The index of this step's rate, the index of the last rate (which stays in use), then the floats.
    float* loss_scale;  // Null for a fixed scale of 1.
    u32* good_steps;
    u64* skipped_steps;
    int* overflow;
    u64* updates;  // How many updates were made before this one.
    u32* block_counters;
    u64 begin, count;  // The parameters before `begin` are frozen.
    double betas[2];   // Of Adam.
    Group groups[MAX_GROUPS];
    float momentum, epsilon, clip_norm, decay, rest;  // The average = decay · average + rest · weight.
    u32 frozen;                                       // Bit i is set if group i is frozen.
    u32 matrices;                                     // Bit i is set if Muon updates group i.
    u32 nesterov;                                     // Of SGD.
    u32 decoupled;                                    // Of Adam: AdamW's weight decay.
    u32 warms_up;                                     // Whether the average's decay is at most (1 + t) / (10 + t).
};

// On overflow, halves the scale (never below 1), counts the skipped step and resets the flag for the next step. After
// 2000 consecutive good steps, doubles the scale.
static __device__ __forceinline__ void update_loss_scale(const UpdateParams& p) {
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

// With 16-bit storage, stores the rounded copy of the N weights starting at `i`.
template <u32 N>
static __device__ __forceinline__ void store_rounded(real* weights_real, u64 i, const Lanes<N>& weights) {
    if (sizeof(real) < sizeof(float) && weights_real) store_lanes(weights_real + i, weights);
}

// The first N lanes, and N lanes as the first of four.
template <u32 N>
static __device__ __forceinline__ Lanes<N> first_of(const Lanes<4>& four) {
    Lanes<N> lanes;
    unroll<N>([&](u32 lane) { lanes[lane] = four[lane]; });
    return lanes;
}
template <u32 N>
static __device__ __forceinline__ void load_first(Lanes<4>& four, const float* from) {
    const Lanes<N> lanes = load_lanes<N>(from);
    unroll<N>([&](u32 lane) { four[lane] = lanes[lane]; });
}

// Up to four parameters with their gradients, optimiser state and average.
struct Parameters {
    Lanes<4> weights, gradients, velocities, squares, averages;
};

template <u32 N>
static __device__ __forceinline__ void load_parameters(const UpdateParams& p, u64 at, Parameters& values) {
    load_first<N>(values.weights, p.weights + at);
    load_first<N>(values.gradients, p.gradients + at);
    if (p.buffer) load_first<N>(values.velocities, p.buffer + at);
    if (p.second) load_first<N>(values.squares, p.second + at);
    if (p.average) load_first<N>(values.averages, p.average + at);
}

template <u32 N>
static __device__ __forceinline__ void store_parameters(const UpdateParams& p, u64 at, const Parameters& values) {
    const Lanes<N> weights = first_of<N>(values.weights);
    store_lanes(p.weights + at, weights);
    store_rounded(p.weights_real, at, weights);
    if (p.buffer) store_lanes(p.buffer + at, first_of<N>(values.velocities));
    if (p.second) store_lanes(p.second + at, first_of<N>(values.squares));
    if (p.average) store_lanes(p.average + at, first_of<N>(values.averages));
}

// What all parameters of a step share. `factor` multiplies the gradients; the corrections are Adam's for bias: 1 / (1 −
// β₁ᵗ) and 1 / √(1 − β₂ᵗ) in update t, counted from 1.
struct StepState {
    float rate, factor, first_correction, root_correction;
    float decay, rest;
    bool skipped;
};

// Each rule's update of one parameter of a group from its gradient, which is already multiplied by `factor`. `rate` and
// `weight_decay` are those of the group.
struct Sgd {
    static constexpr bool HAS_CORRECTIONS = false;

    static __device__ __forceinline__ void update(const UpdateParams& p, const StepState&, u32, float rate,
                                                  float weight_decay, float scaled, float& weight, float& velocity,
                                                  float&) {
        float gradient = fmaf(weight_decay, weight, scaled);
        if (p.buffer) {
            velocity = p.momentum * velocity + gradient;
            gradient = p.nesterov ? gradient + p.momentum * velocity : velocity;
        }
        weight -= rate * gradient;
    }
};

struct Muon {
    static constexpr bool HAS_CORRECTIONS = false;

    static __device__ __forceinline__ void update(const UpdateParams& p, const StepState& step, u32 group, float rate,
                                                  float weight_decay, float scaled, float& weight, float& velocity,
                                                  float& square) {
        if (p.matrices >> group & 1) {
            weight -= rate * fmaf(weight_decay, weight, scaled);
        } else {
            Sgd::update(p, step, group, rate, weight_decay, scaled, weight, velocity, square);
        }
    }
};

struct Adam {
    static constexpr bool HAS_CORRECTIONS = true;

    static __device__ __forceinline__ void update(const UpdateParams& p, const StepState& step, u32, float rate,
                                                  float weight_decay, float scaled, float& weight, float& first,
                                                  float& second) {
        const float first_rest = (float)(1.0 - p.betas[0]), second_rest = (float)(1.0 - p.betas[1]);
        const float gradient = p.decoupled ? scaled : fmaf(weight_decay, weight, scaled);
        first = fmaf(first_rest, gradient - first, first);
        second = fmaf((float)p.betas[1], second, second_rest * (gradient * gradient));
        if (p.decoupled) weight = fmaf(-(rate * weight_decay), weight, weight);
        const float size = rate * step.first_correction;
        weight -= size * first / fmaf(sqrtf(second), step.root_correction, p.epsilon);
    }
};

template <class Rule>
static __device__ __forceinline__ void update(const UpdateParams& p, const StepState& step, u64 at, u32 group,
                                              Parameters& values) {
    unroll<4>([&](u32 lane) {
        while (p.groups[group].end <= at + lane) ++group;
        if (p.frozen >> group & 1) return;
        const Group& its = p.groups[group];
        float& weight = values.weights[lane];
        Rule::update(p, step, group, step.rate * its.rate_scale, its.weight_decay, values.gradients[lane] * step.factor,
                     weight, values.velocities[lane], values.squares[lane]);
        values.averages[lane] = fmaf(step.rest, weight, step.decay * values.averages[lane]);
    });
}

// base to the power of `exponent`, as the host computes it.
static __device__ __forceinline__ double power(double base, u64 exponent) {
    double result = 1.0;
    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1) result *= base;
        base *= base;
    }
    return result;
}

// Reads what the last block will change, so not by the non-coherent path. All loads are issued before the arithmetic,
// because the whole block waits for this.
template <class Rule>
static __device__ __forceinline__ StepState read_step(const UpdateParams& p, u64 next, u64 updates) {
    const u64 last = p.rates[1];
    const float loss_scale = p.loss_scale ? *p.loss_scale : 1.0f, norm = p.norm ? read(p.norm) : 0.0f;
    const bool skipped = p.overflow && *p.overflow != 0;
    const float rate = reinterpret_cast<const float*>(p.rates + 2)[next < last ? next : last];
    const float inverse_scale = 1.0f / loss_scale;  // A power of two: exact.
    const float clip = p.norm ? p.clip_norm / (norm + 1e-6f) : 1.0f;
    const float factor = clip > 1.0f ? inverse_scale : inverse_scale * clip;  // Propagates NaN.
    StepState step = {rate, factor, 1.0f, 1.0f, p.decay, p.rest, skipped};
    if (p.warms_up) {
        const double most = (1.0 + (double)updates) / (10.0 + (double)updates);
        if (most < p.decay) {
            step.decay = (float)most;
            step.rest = (float)(1.0 - most);
        }
    }
    if (Rule::HAS_CORRECTIONS) {
        step.first_correction = (float)(1.0 / (1.0 - power(p.betas[0], updates + 1)));
        step.root_correction = (float)(1.0 / sqrt(1.0 - power(p.betas[1], updates + 1)));
    }
    return step;
}

// Threads per block. Large blocks mean fewer atomics on the one counter.
constexpr u32 UPDATE_BLOCK = 512;

// One update of all parameters by a rule. The last block advances to the next learning rate, counts the update and
// updates the loss scale. If `overflow` is set, no parameter, state or average changes, and the update is not counted.
template <class Rule>
static __device__ __forceinline__ void update_all(const UpdateParams& p) {
    __shared__ StepState shared_step;
    Work work = work_of((u64)blockIdx.x * UPDATE_BLOCK + threadIdx.x, p.begin, p.count);
    u32 group = 0;
    while (p.groups[group].end <= work.at) ++group;
    if ((p.frozen >> group & 1) && work.at + work.count <= p.groups[group].end) work.count = 0;
    Parameters values = {};
    if (work.count == 4) {
        load_parameters<4>(p, work.at, values);
    } else if (work.count == 1) {
        load_parameters<1>(p, work.at, values);
    }
    u64 next = 0, updates = 0;
    u32 announced = 0;
    if (threadIdx.x == 0) {
        next = p.rates[0];
        updates = *p.updates;
        shared_step = read_step<Rule>(p, next, updates);
    }
    __syncthreads();
    if (threadIdx.x == 0) announced = announce(p.block_counters);
    const StepState step = shared_step;
    if (!step.skipped) {
        update<Rule>(p, step, work.at, group, values);
        if (work.count == 4) {
            store_parameters<4>(p, work.at, values);
        } else if (work.count == 1) {
            store_parameters<1>(p, work.at, values);
        }
    }
    if (threadIdx.x != 0 || !is_last_announced(p.block_counters, announced, gridDim.x)) return;
    p.rates[0] = next + 1;
    if (!step.skipped) *p.updates = updates + 1;
    if (p.loss_scale) update_loss_scale(p);
}

// SGD as torch.optim.SGD computes it:
//   g = gradient · factor + weight_decay · w;  buffer = momentum · buffer + g;
//   g = nesterov ? g + momentum · buffer : buffer;  w −= learning_rate · g,
// where `factor` combines 1 / loss_scale with clipping as in torch.nn.utils.clip_grad_norm_, and learning rate and weight
// decay are those of the parameter's group. Frozen parameters, their momentum and their average do not change.
//
// Grid: a thread per Work of [begin, count), so that the launch ends without blocks that have more to do than others.
// A thread's loads are issued before anything waits. Bound by memory: in fp16 without momentum 14 bytes per parameter,
// for 2.33 million of them 32.6 MB, which takes an H200 at least 6.8 + 1.3 µs, or less if its L2 cache still has them.
KERNEL(sgd, UpdateParams, UPDATE_BLOCK, 2) { update_all<Sgd>(p); }

// Adam and AdamW as torch.optim computes them, in update t, counted from 1, with `factor` and groups as in sgd:
//   g = gradient · factor, and unless decoupled + weight_decay · w;
//   m = β₁ · m + (1 − β₁) · g;  v = β₂ · v + (1 − β₂) · g²;  if decoupled, w −= learning_rate · weight_decay · w;
//   w −= learning_rate / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + epsilon).
//
// Grid as sgd. Bound by memory: in fp16 30 bytes per parameter, for 2.33 million of them 69.8 MB, which takes an H200
// at least 14.5 + 1.3 µs.
KERNEL(adam, UpdateParams, UPDATE_BLOCK, 2) { update_all<Adam>(p); }

// Muon: parameters of matrices, whose gradients are directions, take the step w −= learning_rate · (direction +
// weight_decay · w); all others those of sgd. Grid and bound: as sgd.
KERNEL(muon, UpdateParams, UPDATE_BLOCK, 2) { update_all<Muon>(p); }

struct SwapParams : Params<0, 3, 32> {
    float* weights;
    real* weights_real;  // As in UpdateParams.
    float* average;
    u64 count;
};

template <u32 N>
static __device__ __forceinline__ void swap(const SwapParams& p, u64 at) {
    const Lanes<N> average = load_lanes<N>(p.average + at);
    store_lanes(p.average + at, load_lanes<N>(p.weights + at));
    store_lanes(p.weights + at, average);
    store_rounded(p.weights_real, at, average);
}

// Swaps the parameters with their average. Grid: a thread per Work of [0, count).
KERNEL(swap_average, SwapParams) {
    const Work work = work_of((u64)blockIdx.x * BLOCK + threadIdx.x, 0, p.count);
    if (work.count == 4) {
        swap<4>(p, work.at);
    } else if (work.count == 1) {
        swap<1>(p, work.at);
    }
}
