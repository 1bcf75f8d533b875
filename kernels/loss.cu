// Softmax cross-entropy over a batch with its gradient, and the metrics, which stay on the device until the epoch ends.
//
// One block processes the whole batch, so that the sums over samples have a fixed order without a second launch.
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
        return capacity ? reinterpret_cast<StepResult*>(this + 1) + step % capacity : nullptr;
    }
};
static_assert(sizeof(StepLog) == 8, "the layout is shared with Rust");

struct LossParams : Params<3, 7, 80> {
    const real* logits;
    const u32* labels;
    const float* loss_scale;  // Null means 1.
    real* d_logits;           // May be the logits; null in evaluation.
    float* d_bias;            // May be null.
    Metrics* metrics;
    StepLog* step_log;  // Null in evaluation.
    u32 rows, classes;
    float smoothing, weight;
    u32 auxiliary;
};

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

// One sample, processed by `lanes` threads: a single thread or a warp. `lane` is the calling thread's index among them.
struct Row {
    const real* logits;
    real* d_logits;
    u32 classes, lane, lanes, label;
    float scale, smoothing;
};

static __device__ __forceinline__ Best row_best(const Row& row) {
    Best best = {__int_as_float(0xff800000), row.classes};
    for (u32 c = row.lane; c < row.classes; c += row.lanes) best = better(best, Best{load(row.logits[c]), c});
    for (u32 distance = row.lanes / 2; distance > 0; distance /= 2) {
        Best other;
        other.value = __shfl_xor_sync(ALL_LANES, best.value, distance);
        other.index = __shfl_xor_sync(ALL_LANES, best.index, distance);
        best = better(best, other);
    }
    return best;
}

// The sample's loss, log Σ exp(x − max) − (x[label] − max), and whether its largest logit is the label's. An invalid
// label gives NaN rather than a read outside the row.
static __device__ __forceinline__ float row_loss(const Row& row, bool& correct) {
    const Best best = row_best(row);
    float sum = 0.0f;
    for (u32 c = row.lane; c < row.classes; c += row.lanes) sum += expf(load(row.logits[c]) - best.value);
    sum = warp_sum(sum, WARP / row.lanes);
    const bool is_class = row.label < row.classes;
    const float target = is_class ? load(row.logits[row.label]) : __int_as_float(0x7fc00000);
    // Not log(sum) + max − target, because cancellation would lose a confident network's small loss.
    float shifted_target = target - best.value;
    if (row.smoothing > 0.0f) {
        float all = 0.0f;
        for (u32 c = row.lane; c < row.classes; c += row.lanes) all += load(row.logits[c]) - best.value;
        const float mean = warp_sum(all, WARP / row.lanes) / (float)row.classes;
        shifted_target = fmaf(row.smoothing, mean, (1.0f - row.smoothing) * shifted_target);
    }
    const float loss = logf(sum) - shifted_target;
    const float spread = row.smoothing / (float)row.classes;
    if (row.lanes > 1) __syncwarp();  // d_logits may be the logits, so all must be read before any is written.
    for (u32 c = row.lane; row.d_logits && c < row.classes; c += row.lanes) {
        const float probability = expf(load(row.logits[c]) - best.value) / sum;
        const float label = c == row.label ? 1.0f - row.smoothing : 0.0f;
        store(row.d_logits + c, (probability - spread - label) * row.scale);
    }
    correct = best.index == row.label;
    return loss;
}

// Sums losses and correct predictions over the block by a tree reduction and adds them to the metrics. An auxiliary
// classifier only adds its loss to the step of the main classifier before it.
static __device__ __forceinline__ void add_to_metrics(const LossParams& p, double (&losses)[BLOCK],
                                                      u32 (&corrects)[BLOCK]) {
    for (u32 distance = BLOCK / 2; distance > 0; distance /= 2) {
        __syncthreads();
        if (threadIdx.x >= distance) continue;
        losses[threadIdx.x] += losses[threadIdx.x + distance];
        corrects[threadIdx.x] += corrects[threadIdx.x + distance];
    }
    if (threadIdx.x != 0) return;
    Metrics* const metrics = p.metrics;
    const double loss = p.auxiliary ? p.weight * losses[0] : losses[0];
    const float mean = (float)(loss / p.rows);
    const u64 step = metrics->steps - (p.auxiliary ? 1 : 0);
    StepResult* result = p.step_log ? p.step_log->at(step) : nullptr;
    if (!is_finite(mean) && metrics->first_bad_step < 0) metrics->first_bad_step = (long long)step;
    metrics->loss_sum += loss;
    if (p.auxiliary) {
        if (result) result->loss += mean;
        return;
    }
    if (result) *result = StepResult{mean, (float)corrects[0] / (float)p.rows};
    metrics->correct += corrects[0];
    metrics->count += p.rows;
    metrics->steps += 1;
}

// d_bias[class] = Σ_rows d_logits, which this block has written. `parts` is BLOCK shared floats.
static __device__ __forceinline__ void sum_columns(const real* d_logits, float* d_bias, u32 rows, u32 classes,
                                                   float* parts) {
    __syncthreads();
    for (u32 first = 0; first < classes; first += BLOCK) {
        const u32 width = min(classes - first, BLOCK);
        const bool inside = threadIdx.x / width < BLOCK / width;
        const float sum = column_sum(d_logits + first, rows, classes, width, inside, parts);
        if (threadIdx.x < width) d_bias[first + threadIdx.x] = sum;
    }
}

// d_logits = (softmax(logits) − target) · weight · loss_scale / rows over [rows][classes], where target =
// (1 − smoothing) · onehot(label) + smoothing / classes, as in torch.nn.CrossEntropyLoss. `d_bias` receives the column
// sums of d_logits. Each sample has one thread, or one warp if there are more than WARP classes. Grid: one block.
KERNEL(softmax_cross_entropy, LossParams) {
    __shared__ double losses[BLOCK];
    __shared__ u32 corrects[BLOCK];
    __shared__ float parts[BLOCK];
    const u32 classes = p.classes, lanes = classes <= WARP ? 1 : WARP;
    const float scale = p.weight * (p.loss_scale ? *p.loss_scale : 1.0f) / (float)p.rows;
    const u32 lane = threadIdx.x % lanes;
    double loss = 0.0;
    u32 correct = 0;
    for (u32 row = threadIdx.x / lanes; row < p.rows; row += BLOCK / lanes) {
        const u64 first = (u64)row * classes;
        real* const d_logits = p.d_logits ? p.d_logits + first : nullptr;
        const Row values{p.logits + first, d_logits, classes, lane, lanes, __ldg(p.labels + row), scale, p.smoothing};
        bool is_correct;
        const float row_value = row_loss(values, is_correct);
        if (lane != 0) continue;
        loss += row_value;
        correct += is_correct ? 1 : 0;
    }
    if (p.d_bias) sum_columns(p.d_logits, p.d_bias, p.rows, classes, parts);
    losses[threadIdx.x] = loss;
    corrects[threadIdx.x] = correct;
    add_to_metrics(p, losses, corrects);
}
