// Softmax cross-entropy over a batch with its gradient, and the metrics, which stay on the device until the epoch ends.
//
// A small batch takes one block. Of several blocks, the last to finish adds the sums over samples in a fixed order.
#include "mix.cuh"
#include "reduce.cuh"

struct Metrics {
    double loss_sum;
    u64 correct;
    u64 count;
    u64 steps;
    long long first_bad_step;  // The first step with a loss that is not finite, or −1.
};
static_assert(sizeof(Metrics) == 40, "the layout is shared with Rust");

struct StepResult {
    float loss;
    float accuracy;
};
static_assert(sizeof(StepResult) == 8, "the layout is shared with Rust");

// Header of a ring buffer of the results of the latest `capacity` steps, which follows it in memory.
struct StepLog {
    u64 capacity;  // 0 keeps no results.
    __device__ __forceinline__ StepResult* at(u64 step) {
        return capacity ? reinterpret_cast<StepResult*>(this + 1) + divmod(step, (u32)capacity) : nullptr;
    }
};
static_assert(sizeof(StepLog) == 8, "the layout is shared with Rust");

// The sum of the losses and the number of correct predictions of some samples.
struct Totals {
    double loss;
    u32 correct;
};
static_assert(sizeof(Totals) == 16, "the size is shared with Rust");

struct LossParams : Params<5, 11, 112> {
    const real* logits;
    const u32* labels;
    const float* loss_scale;     // Null means 1.
    const float* class_weights;  // Null means that all are 1.
    const Mixes* mixes;          // Null if the batch was not mixed.
    real* d_logits;              // May be the logits; null in evaluation.
    float* d_bias;               // May be null.
    Metrics* metrics;
    StepLog* step_log;  // Null in evaluation.
    Totals* partial;    // One per block.
    u32* block_counters;
    u32 rows, classes;
    u32 lanes;  // Threads per row: a power of two up to WARP, or all threads of a block.
    float smoothing, weight;
    u32 auxiliary;
};

// Threads of the largest block.
constexpr u32 MOST_THREADS = 1024;
constexpr u32 MOST_WARPS = MOST_THREADS / WARP;

// A running maximum: the largest value and its first index. A NaN counts as the largest, as in torch.argmax.
struct Best {
    float value;
    u32 index;
};

static __device__ __forceinline__ Best better(Best a, Best b) {
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan != b_nan) return a_nan ? a : b;
    if (a.value > b.value) return a;
    if (b.value > a.value) return b;
    return a.index <= b.index ? a : b;
}

struct LossScratch {
    Totals totals[MOST_WARPS];
    Best bests[MOST_WARPS];
    float sums[MOST_WARPS];
    float columns[MOST_THREADS];
    u32 flag;
};

// The target of a sample before smoothing: its label and, in a mixed batch, that of its partner, with probabilities.
struct Target {
    u32 label, partner;
    float own, other;
    const float* class_weights;

    __device__ __forceinline__ float weight(u32 c) const { return class_weights ? read(class_weights + c) : 1.0f; }
    // The weighted probability of a class.
    __device__ __forceinline__ float at(u32 c) const {
        const float probability = (c == label ? own : 0.0f) + (c == partner ? other : 0.0f);
        return probability == 0.0f ? 0.0f : probability * weight(c);
    }
};

// One sample, processed by `lanes` threads; `lane` is the calling thread's index among them. The threads that have no
// sample take part in the reductions with a row of no classes.
struct Row {
    const real* logits;
    real* d_logits;
    u32 classes, lane, lanes;
    Target target;
    float scale, smoothing;
};

// Calls `visit(class, logits)` for the calling thread's classes, V at a time, with UNROLL loads in flight. Every pass
// reads the row again: after the first pass the L1 cache has it, and a row of any length needs no registers.
template <u32 V, u32 UNROLL, class Visit>
static __device__ __forceinline__ void for_classes(const Row& row, Visit visit) {
#pragma unroll UNROLL
    for (u32 c = row.lane * V; c < row.classes; c += row.lanes * V) visit(c, load_lanes<V>(row.logits + c));
}

// Reduces `value` over a row's `lanes` threads, or over all threads of a block of that many: by a butterfly within each
// warp, then by a butterfly over the warps' results in every warp. `combine(value, distance)` combines a value with that
// of the lane at this distance; `nothing` is its neutral element. `parts` is shared; consecutive calls may use the same.
template <class T, class Combine>
static __device__ __forceinline__ T reduce_lanes(T value, u32 lanes, const T& nothing, T* parts, Combine combine) {
    const auto butterfly = [&](T start) {
#pragma unroll
        for (u32 distance = WARP / 2; distance > 0; distance /= 2) {
            if (distance < lanes) start = combine(start, distance);
        }
        return start;
    };
    value = butterfly(value);
    if (lanes <= WARP) return value;
    __syncthreads();
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = value;
    __syncthreads();
    return butterfly(threadIdx.x % WARP < lanes / WARP ? parts[threadIdx.x % WARP] : nothing);
}

static __device__ __forceinline__ float row_sum(float value, u32 lanes, LossScratch& scratch) {
    return reduce_lanes(value, lanes, 0.0f, scratch.sums,
                        [](float mine, u32 distance) { return mine + __shfl_xor_sync(ALL_LANES, mine, distance); });
}

template <u32 V>
static __device__ __forceinline__ Best row_best(const Row& row, LossScratch& scratch) {
    const Best nothing = {__int_as_float(0xff800000), row.classes};
    Best best = nothing;
    for_classes<V, V == 1 ? 4 : 2>(row, [&](u32 c, const Lanes<V>& logits) {
        unroll<V>([&](u32 lane) { best = better(best, Best{logits[lane], c + lane}); });
    });
    return reduce_lanes(best, row.lanes, nothing, scratch.bests, [](Best mine, u32 distance) {
        Best other;
        other.value = __shfl_xor_sync(ALL_LANES, mine.value, distance);
        other.index = __shfl_xor_sync(ALL_LANES, mine.index, distance);
        return better(mine, other);
    });
}

// Σ target · (x − max) before smoothing, and the sum of the target. An invalid label gives NaN rather than a read outside
// the row.
static __device__ __forceinline__ float target_logit(const Row& row, float max, float& mass) {
    const Target& target = row.target;
    mass = 1.0f;
    if (target.label >= row.classes || target.partner >= row.classes) return __int_as_float(0x7fc00000);
    const float label = load(row.logits[target.label]) - max;
    if (target.other == 0.0f && !target.class_weights) return label;
    const float own = target.own * target.weight(target.label);
    const float other = target.other * target.weight(target.partner);
    if (target.class_weights) mass = own + other;
    // A probability of zero takes no part, even of a logit that is not finite.
    const float partner = target.other == 0.0f ? 0.0f : other * (load(row.logits[target.partner]) - max);
    return target.own == 0.0f ? partner : fmaf(own, label, partner);
}

// The sample's loss, Σ target · (log Σ exp(x − max) − (x − max)), and whether its largest logit is the label's. All threads
// of the block must call it.
template <u32 V>
static __device__ __forceinline__ float row_loss(const Row& row, LossScratch& scratch, bool& correct) {
    const Best best = row_best<V>(row, scratch);
    // Not log(sum) + max − target, because cancellation would lose a confident network's small loss.
    float mass, shifted_target = target_logit(row, best.value, mass);
    if (row.smoothing > 0.0f) {
        float all = 0.0f, weights = 0.0f;
        for_classes<V, 1>(row, [&](u32 c, const Lanes<V>& logits) {
            unroll<V>([&](u32 lane) {
                const float weight = row.target.weight(c + lane);
                weights += weight;
                all += weight * (logits[lane] - best.value);
            });
        });
        const float mean = row_sum(all, row.lanes, scratch) / (float)row.classes;
        shifted_target = fmaf(row.smoothing, mean, (1.0f - row.smoothing) * shifted_target);
        if (row.target.class_weights) {
            const float mean_weight = row_sum(weights, row.lanes, scratch) / (float)row.classes;
            mass = fmaf(row.smoothing, mean_weight, (1.0f - row.smoothing) * mass);
        }
    }
    float sum = 0.0f;
    for_classes<V, 1>(row, [&](u32, const Lanes<V>& logits) {
        unroll<V>([&](u32 lane) { sum += expf(logits[lane] - best.value); });
    });
    sum = row_sum(sum, row.lanes, scratch);
    // d_logits may be the logits: all threads have read the label's logit by now, and otherwise read their own only.
    if (row.lanes <= WARP) __syncwarp();
    const float inverse = 1.0f / sum, spread = row.smoothing / (float)row.classes;
    if (row.d_logits) {
        for_classes<V, 1>(row, [&](u32 c, Lanes<V> logits) {
            unroll<V>([&](u32 lane) {
                const float label = row.target.at(c + lane) * (1.0f - row.smoothing);
                const float spread_weight = spread * row.target.weight(c + lane);
                logits[lane] = (mass * (expf(logits[lane] - best.value) * inverse) - spread_weight - label) * row.scale;
            });
            store_lanes(row.d_logits + c, logits);
        });
    }
    correct = best.index == row.target.label;
    return mass * logf(sum) - shifted_target;
}

static __device__ __forceinline__ Totals sum_of(Totals a, Totals b) {
    return Totals{a.loss + b.loss, a.correct + b.correct};
}

static __device__ __forceinline__ Totals block_totals(const Totals& mine, LossScratch& scratch) {
    return reduce_lanes(mine, blockDim.x, Totals{}, scratch.totals, [](const Totals& mine, u32 distance) {
        return sum_of(mine, Totals{__shfl_xor_sync(ALL_LANES, mine.loss, distance),
                                   __shfl_xor_sync(ALL_LANES, mine.correct, distance)});
    });
}

// What the mean loss divides by: the number of samples or, in a weighted batch that was not mixed, the weights of their
// labels. All threads of the block must call it.
static __device__ __forceinline__ float batch_divisor(const LossParams& p, LossScratch& scratch) {
    if (!p.class_weights || p.mixes) return (float)p.rows;
    float sum = 0.0f;
#pragma unroll 1
    for (u32 row = threadIdx.x; row < p.rows; row += blockDim.x) {
        const u32 label = __ldg(p.labels + row);
        if (label < p.classes) sum += read(p.class_weights + label);  // The loss of another is NaN.
    }
    return row_sum(sum, blockDim.x, scratch);
}

// Adds the batch's sums to the metrics, in one thread. An auxiliary classifier only adds its loss to the step of the
// main classifier before it.
static __device__ __forceinline__ void add_to_metrics(const LossParams& p, const Totals& totals, float divisor) {
    Metrics* const metrics = p.metrics;
    const double weighted = p.auxiliary ? p.weight * totals.loss : totals.loss;
    const double loss = weighted * ((double)p.rows / divisor);
    const float mean = (float)(loss / p.rows);
    const u64 step = metrics->steps - (p.auxiliary ? 1 : 0);
    StepResult* result = p.step_log ? p.step_log->at(step) : nullptr;
    if (!is_finite(mean) && metrics->first_bad_step < 0) metrics->first_bad_step = (long long)step;
    metrics->loss_sum += loss;
    if (p.auxiliary) {
        if (result) result->loss += mean;
        return;
    }
    if (result) *result = StepResult{mean, (float)totals.correct / (float)p.rows};
    metrics->correct += totals.correct;
    metrics->count += p.rows;
    metrics->steps += 1;
}

// d_bias[class] = Σ_rows d_logits. If other blocks wrote any, this is the last block.
static __device__ __forceinline__ void sum_columns(const LossParams& p, LossScratch& scratch) {
    const u32 threads = blockDim.x;
    __syncthreads();  // All of the block's own gradients are written.
#pragma unroll 1
    for (u32 first = 0; first < p.classes; first += threads) {
        const u32 width = min(p.classes - first, threads);
        const bool inside = threadIdx.x / width < threads / width;
        const float sum = column_sum(p.d_logits + first, p.rows, p.classes, width, inside, scratch.columns, threads);
        if (threadIdx.x < width) p.d_bias[first + threadIdx.x] = sum;
    }
}

template <u32 V>
static __device__ __forceinline__ void cross_entropy(const LossParams& p, LossScratch& scratch) {
    const u32 lanes = p.lanes, rows_per_block = blockDim.x / lanes, lane = threadIdx.x % lanes;
    const float divisor = batch_divisor(p, scratch);
    const float scale = p.weight * (p.loss_scale ? *p.loss_scale : 1.0f) / divisor;
    float own = 1.0f, other = 0.0f;
    if (p.mixes) {
        const Mix& mix = p.mixes->at(p.mixes->next - 1);
        own = mix.own, other = mix.other;
    }
    Totals totals = {};
    for (u32 first = blockIdx.x * rows_per_block; first < p.rows; first += gridDim.x * rows_per_block) {
        const u32 index = first + threadIdx.x / lanes;
        const bool inside = index < p.rows;
        const u64 at = inside ? (u64)index * p.classes : 0;
        real* const d_logits = inside && p.d_logits ? p.d_logits + at : nullptr;
        const u32 label = inside ? __ldg(p.labels + index) : 0;
        const u32 partner = inside && p.mixes ? __ldg(p.labels + mix_partner(index, p.rows)) : label;
        const Target target{label, partner, own, other, p.class_weights};
        const Row row{p.logits + at, d_logits, inside ? p.classes : 0, lane, lanes, target, scale, p.smoothing};
        bool correct;
        const float loss = row_loss<V>(row, scratch, correct);
        if (inside && lane == 0) totals = sum_of(totals, Totals{loss, correct ? 1u : 0u});
    }
    totals = block_totals(totals, scratch);
    if (gridDim.x > 1) {
        if (threadIdx.x == 0) p.partial[blockIdx.x] = totals;
        if (!is_last_block(p.block_counters, gridDim.x, scratch.flag)) return;
        totals = {};
#pragma unroll 1
        for (u32 block = threadIdx.x; block < gridDim.x; block += blockDim.x) totals = sum_of(totals, p.partial[block]);
        totals = block_totals(totals, scratch);
    }
    if (p.d_bias) sum_columns(p, scratch);
    if (threadIdx.x == 0) add_to_metrics(p, totals, divisor);
}

// d_logits = (Σ target · softmax(logits) − target) · weight · loss_scale / divisor over [rows][classes], where target =
// class weight · ((1 − smoothing) · onehot(label) + smoothing / classes), and in a mixed batch the label's share is divided
// among two labels, as in torch.nn.CrossEntropyLoss. `d_bias` receives the column sums of d_logits.
//
// Grid: any number of blocks, of blockDim.x / lanes rows at a time; src/cuda/lower/loss.rs chooses both. Bound by
// latency: a row is read, reduced twice and written. 128×1000 in fp16 moves 0.5 MB, which takes an H200 at least 1.4 µs.
KERNEL(softmax_cross_entropy, LossParams, MOST_THREADS, 1) {
    __shared__ LossScratch scratch;
    cross_entropy<1>(p, scratch);
}
KERNEL(softmax_cross_entropy_vec, LossParams, MOST_THREADS, 1) {
    __shared__ LossScratch scratch;
    cross_entropy<VEC>(p, scratch);
}
