// Max and average pooling of NHWC images with square windows. The backward pass is a gather: each input sums over the
// windows that cover it in a fixed order, rows then columns ascending, so it is deterministic and needs no atomics.
//
// Max pooling is fused with the bias and activation of the layer before it: the forward pass pools act(input + bias),
// and the backward pass goes back through the activation and sums the bias gradient.
#include "geometry.cuh"
#include "reduce.cuh"

struct MaxPoolParams : Params<2, 4, 88> {
    const real* input;
    const float* bias;  // May be null.
    real* output;
    u32* argmax;  // Null in evaluation.
    u64 count;
    Geometry op;
    float slope;
};

template <u32 V>
static __device__ __forceinline__ void maxima(const MaxPoolParams& p) {
    const Geometry& op = p.op;
    GRID_STRIDE(i, p.count / V) {
        const Position at = op.output_position<V>(i);
        const Span rows = op.window(at.y, op.height), cols = op.window(at.x, op.width);
        Lanes<V> best, added;
        Pack<V, u32> where;
        unroll<V>([&](u32 lane) {
            best[lane] = __int_as_float(0xff800000);  // −∞
            where.lane[lane] = rows.begin * op.width + cols.begin;
            added[lane] = p.bias ? read(p.bias + at.channel + lane) : -0.0f;  // Adding −0 changes no value.
        });
        for (u32 y = rows.begin; y < rows.end; ++y) {
            for (u32 x = cols.begin; x < cols.end; ++x) {
                const Lanes<V> values = read_lanes<V>(p.input + op.input_at(at.sample, y, x) + at.channel);
                unroll<V>([&](u32 lane) {
                    const float value = activate(values[lane] + added[lane], p.slope);
                    if (value > best[lane] || value != value) {
                        best[lane] = value;
                        where.lane[lane] = y * op.width + x;
                    }
                });
            }
        }
        store_lanes(p.output + i * V, best);
        if (p.argmax) store_pack(p.argmax + i * V, where);
    }
}

// output = max over each window of act(input + bias). `argmax` receives y·width + x of the first maximum in scan order.
// As in PyTorch, padding is never the maximum and a NaN always is. One thread per output.
KERNEL(max_pool_forward, MaxPoolParams) { maxima<1>(p); }
KERNEL(max_pool_forward_vec, MaxPoolParams) { maxima<VEC>(p); }

struct MaxPoolBackwardParams : Params<3, 7, 120> {
    const real* d_output;
    const u32* argmax;
    const real* pooled;  // The forward output, for the activation's derivative; null without an activation.
    real* d_input;
    ColumnPass d_bias;  // Column sums of d_input.
    Geometry op;
    float slope;
};

// What the gradients of V outputs follow from.
template <u32 V>
struct PooledGradients {
    Pack<V, real> d_output, pooled;
    Pack<V, u32> where;

    __device__ __forceinline__ PooledGradients() {}
    __device__ __forceinline__ PooledGradients(const MaxPoolBackwardParams& p, u64 at)
        : d_output(read_pack<V>(p.d_output + at)), where(read_pack<V>(p.argmax + at)) {
        if (p.pooled) pooled = read_pack<V>(p.pooled + at);
    }

    // d_output multiplied by the activation's derivative.
    __device__ __forceinline__ Lanes<V> masked(const MaxPoolBackwardParams& p) const {
        const Lanes<V> gradients = lanes_of(d_output);
        if (!p.pooled) return gradients;
        const auto gradient = [&](float output, float d_output) {
            return activate_backward(output, d_output, p.slope);
        };
        return map_lanes(gradient, lanes_of(pooled), gradients);
    }

    // The gradients that input pixel `here` receives.
    __device__ __forceinline__ Lanes<V> at(u32 here, const Lanes<V>& gradients) const {
        Lanes<V> values;
        unroll<V>([&](u32 lane) { values[lane] = where.lane[lane] == here ? gradients[lane] : 0.0f; });
        return values;
    }
};

struct Nothing {};

// Each input gathers the gradients of the windows that cover it.
template <u32 V>
static __device__ __forceinline__ void gather_gradients(const MaxPoolBackwardParams& p,
                                                        ColumnScratch<1, BLOCK>& scratch) {
    const Geometry& op = p.op;
    column_pass<V, 1>(
        p.d_bias, scratch, [](u64) { return Nothing{}; },
        [&](u64 at, Nothing, Lanes<V>& totals) {
            u64 sample = at;
            const u32 channel = divmod(sample, op.channels);
            const u32 x = divmod(sample, op.width), y = divmod(sample, op.height);
            const Span rows = op.outputs_over(y, op.out_height), cols = op.outputs_over(x, op.out_width);
            const u32 here = y * op.width + x;
            Lanes<V> sums = {};
#pragma unroll 1
            for (u32 out_y = rows.begin; out_y < rows.end; ++out_y) {
#pragma unroll 1
                for (u32 out_x = cols.begin; out_x < cols.end; ++out_x) {
                    const PooledGradients<V> of(p, op.output_at(sample, out_y, out_x) + channel);
                    add(sums, of.at(here, of.masked(p)));
                }
            }
            store_lanes(p.d_input + at, sums);
            add(totals, sums);
        });
}

// d_input = Σ d_output of the windows whose maximum the input is; `d_bias` receives its column sums.
//
// Grid: a ColumnGrid over the input's pixels. Bound by memory: in fp16 2 bytes per input, and 6 per output or 8 with an
// activation.
KERNEL(max_pool_backward, MaxPoolBackwardParams) {
    __shared__ ColumnScratch<1, BLOCK> scratch;
    gather_gradients<1>(p, scratch);
}
KERNEL(max_pool_backward_vec, MaxPoolBackwardParams, BLOCK, 3) {
    __shared__ ColumnScratch<1, BLOCK> scratch;
    gather_gradients<VEC>(p, scratch);
}

// max_pool_backward for windows that tile the input exactly: a thread reads 16 bytes of an output's channels and writes
// those of its whole window. KERNEL_SIZE is the window's, or 0 for any.
template <u32 KERNEL_SIZE>
static __device__ __forceinline__ void write_window(const Geometry& op, const PooledGradients<VEC>& of,
                                                    const Lanes<VEC>& gradients, real* d_input, u32 first) {
    const u32 size = KERNEL_SIZE ? KERNEL_SIZE : op.kernel;
#pragma unroll KERNEL_SIZE ? KERNEL_SIZE : 1
    for (u32 y = 0; y < size; ++y) {
#pragma unroll KERNEL_SIZE ? KERNEL_SIZE : 1
        for (u32 x = 0; x < size; ++x) {
            const u32 here = first + y * op.width + x;
            store_lanes(d_input + (u64)here * op.channels, of.at(here, gradients));
        }
    }
}

// Grid: a ColumnGrid over the output's pixels. Bound by memory: in fp16 16 bytes per output with an activation; for
// 64×12×12×64 outputs of a 2×2 window 9.4 MB, which takes an H200 at least 2.0 + 1.3 µs.
KERNEL(max_pool_backward_tiles_vec, MaxPoolBackwardParams, BLOCK, 3) {
    __shared__ ColumnScratch<1, BLOCK> scratch;
    const Geometry& op = p.op;
    column_pass<VEC, 1>(
        p.d_bias, scratch, [&](u64 at) { return PooledGradients<VEC>(p, at); },
        [&](u64 at, const PooledGradients<VEC>& of, Lanes<VEC>& totals) {
            const Lanes<VEC> gradients = of.masked(p);
            u64 sample = at;
            const u32 channel = divmod(sample, op.channels);
            const u32 x = divmod(sample, op.out_width) * op.kernel, y = divmod(sample, op.out_height) * op.kernel;
            real* const d_input = p.d_input + op.input_at(sample, 0, 0) + channel;
            const u32 first = y * op.width + x;
            if (op.kernel == 2) {
                write_window<2>(op, of, gradients, d_input, first);
            } else {
                write_window<0>(op, of, gradients, d_input, first);
            }
            add(totals, gradients);
        });
}

struct AvgPoolParams : Params<1, 2, 72> {
    const real* source;
    real* target;
    u64 count;  // Values in `target`.
    Geometry op;
};

// Adaptive pooling: output `at` of `outputs` averages the inputs ⌊at·inputs/outputs⌋ .. ⌈(at+1)·inputs/outputs⌉. With
// `inputs` and `outputs` exchanged, the result is the outputs that an input contributes to. The launcher ensures that
// the products fit 32 bits, because 64-bit divisions are function calls, which spill registers.
static __device__ __forceinline__ Span adaptive(u32 at, u32 inputs, u32 outputs) {
    return Span{at * inputs / outputs, ((at + 1) * inputs + outputs - 1) / outputs};
}

// The windows of average pooling along one axis: the inputs of an output, the outputs that an input contributes to, and
// the factor of the divisor. Padding counts as zeros (PyTorch's count_include_pad=True); positions beyond the padding
// do not count.
template <bool ADAPTIVE>
struct Axis {
    u32 size, outputs;
    const Geometry& op;

    __device__ __forceinline__ Span window(u32 out) const {
        return ADAPTIVE ? adaptive(out, size, outputs) : op.window(out, size);
    }
    __device__ __forceinline__ Span outputs_over(u32 at) const {
        return ADAPTIVE ? adaptive(at, outputs, size) : op.outputs_over(at, outputs);
    }
    __device__ __forceinline__ float count(u32 out) const {
        const Span span = adaptive(out, size, outputs);
        return (float)(ADAPTIVE ? span.end - span.begin : min(op.kernel, size + 2 * op.padding - out * op.stride));
    }
};

template <bool ADAPTIVE, u32 V>
static __device__ __forceinline__ void means(const AvgPoolParams& p) {
    const Geometry& op = p.op;
    const Axis<ADAPTIVE> down{op.height, op.out_height, op}, across{op.width, op.out_width, op};
    GRID_STRIDE(i, p.count / V) {
        const Position at = op.output_position<V>(i);
        const Span rows = down.window(at.y), cols = across.window(at.x);
        // Rows then columns ascending, in one loop, so that loads of several rows are in flight.
        const u32 wide = cols.end - cols.begin, taps = (rows.end - rows.begin) * wide;
        const real* from = p.source + op.input_at(at.sample, rows.begin, cols.begin) + at.channel;
        Lanes<V> sums = {};
        u32 x = 0;
#pragma unroll 8
        for (u32 tap = 0; tap < taps; ++tap) {
            add(sums, read_lanes<V>(from));
            const bool row_ends = ++x == wide;
            from += (row_ends ? op.width - wide + 1 : 1) * op.channels;
            x = row_ends ? 0 : x;
        }
        const float count = down.count(at.y) * across.count(at.x);
        unroll<V>([&](u32 lane) { sums[lane] /= count; });
        store_lanes(p.target + i * V, sums);
    }
}

template <bool ADAPTIVE, u32 V>
static __device__ __forceinline__ void mean_gradients(const AvgPoolParams& p) {
    const Geometry& op = p.op;
    const Axis<ADAPTIVE> down{op.height, op.out_height, op}, across{op.width, op.out_width, op};
    GRID_STRIDE(i, p.count / V) {
        const Position at = op.input_position<V>(i);
        const Span rows = down.outputs_over(at.y), cols = across.outputs_over(at.x);
        Lanes<V> sums = {};
#pragma unroll 1
        for (u32 out_y = rows.begin; out_y < rows.end; ++out_y) {
            const float tall = down.count(out_y);
#pragma unroll 1
            for (u32 out_x = cols.begin; out_x < cols.end; ++out_x) {
                const Lanes<V> values = read_lanes<V>(p.source + op.output_at(at.sample, out_y, out_x) + at.channel);
                const float count = tall * across.count(out_x);
                unroll<V>([&](u32 lane) { sums[lane] += values[lane] / count; });
            }
        }
        store_lanes(p.target + i * V, sums);
    }
}

// output = the mean of each window. One thread per output, or per 16 bytes of outputs. Bound by memory: 2 bytes per input
// and output in fp16.
KERNEL(avg_pool_forward, AvgPoolParams) { means<false, 1>(p); }
KERNEL(avg_pool_forward_vec, AvgPoolParams) { means<false, VEC>(p); }
KERNEL(adaptive_avg_pool_forward, AvgPoolParams) { means<true, 1>(p); }
KERNEL(adaptive_avg_pool_forward_vec, AvgPoolParams) { means<true, VEC>(p); }

// d_input = Σ d_output / (values per window) over the windows that cover the input. One thread per input, or per 16 bytes
// of inputs. Bound by memory, as the forward pass.
KERNEL(avg_pool_backward, AvgPoolParams) { mean_gradients<false, 1>(p); }
KERNEL(avg_pool_backward_vec, AvgPoolParams) { mean_gradients<false, VEC>(p); }
KERNEL(adaptive_avg_pool_backward, AvgPoolParams) { mean_gradients<true, 1>(p); }
KERNEL(adaptive_avg_pool_backward_vec, AvgPoolParams) { mean_gradients<true, VEC>(p); }
