// Max and average pooling over NHWC, square windows. Backward is a gather: every input element sums the windows that
// cover it, rows then columns ascending, so the sums need no atomics and never change.
//
// Max pooling takes the bias and activation of the layer before it along: forward it pools act(input + bias), backward it
// takes the gradients through the activation and sums the bias gradient.
#include "geometry.cuh"
#include "reduce.cuh"

template <u32 V>
static __device__ __forceinline__ void store_indices(u32* to, const u32 (&values)[V]) {
    if constexpr (V == 1) {
        *to = values[0];
        return;
    }
#pragma unroll
    for (u32 lane = 0; lane + 3 < V; lane += 4) {
        *reinterpret_cast<uint4*>(to + lane) =
            make_uint4(values[lane], values[lane + 1], values[lane + 2], values[lane + 3]);
    }
}

template <u32 V>
static __device__ __forceinline__ void load_indices(u32 (&values)[V], const u32* from) {
    if constexpr (V == 1) {
        values[0] = __ldg(from);
        return;
    }
#pragma unroll
    for (u32 lane = 0; lane + 3 < V; lane += 4) {
        const uint4 four = __ldg(reinterpret_cast<const uint4*>(from + lane));
        values[lane] = four.x, values[lane + 1] = four.y, values[lane + 2] = four.z, values[lane + 3] = four.w;
    }
}

struct MaxPoolParams {
    const real* input;
    const float* bias;  // Null for none.
    real* output;
    u32* argmax;  // Null in evaluation.
    u64 count;
    Geometry op;
    float slope;
    static constexpr u32 READS = 2, POINTERS = 4;
};
static_assert(sizeof(MaxPoolParams) == 88, "the layout is shared with Rust");

template <u32 V>
static __device__ __forceinline__ void maxima(const MaxPoolParams& p) {
    const Geometry& op = p.op;
    GRID_STRIDE(i, p.count / V) {
        const Position at = op.output_position<V>(i);
        const Span rows = op.rows_under(at.y), cols = op.cols_under(at.x);
        float best[V], added[V];
        u32 where[V];
#pragma unroll
        for (u32 lane = 0; lane < V; ++lane) {
            best[lane] = __int_as_float(0xff800000);  // −∞
            where[lane] = rows.begin * op.width + cols.begin;
            added[lane] = p.bias ? read(p.bias + at.channel + lane) : -0.0f;  // −0 is what changes no number, +0 included.
        }
        for (u32 y = rows.begin; y < rows.end; ++y) {
            for (u32 x = cols.begin; x < cols.end; ++x) {
                float values[V];
                read_lanes(values, p.input + op.input_at(at.sample, y, x) + at.channel);
#pragma unroll
                for (u32 lane = 0; lane < V; ++lane) {
                    const float value = activate(values[lane] + added[lane], p.slope);
                    if (value > best[lane] || value != value) {
                        best[lane] = value;
                        where[lane] = y * op.width + x;
                    }
                }
            }
        }
        store_lanes(p.output + i * V, best);
        if (p.argmax) store_indices(p.argmax + i * V, where);
    }
}

// output = the maxima of act(input + bias). `argmax` receives y·width + x of the first maximum in scan order; padding never
// wins, and a NaN does, as in PyTorch. One thread per output.
KERNEL(max_pool_forward)(const __grid_constant__ MaxPoolParams p) { maxima<1>(p); }

// The same where `channels` is a multiple of VEC: one thread per 16 bytes.
KERNEL(max_pool_forward_vec)(const __grid_constant__ MaxPoolParams p) { maxima<VEC>(p); }

struct MaxPoolBackwardParams {
    const real* d_output;
    const u32* argmax;
    const real* pooled;  // The output, for the activation before the pooling; null for none.
    real* d_input;
    float *d_bias, *partial;  // The column sums of d_input; null for none.
    u32* arrived;
    ColumnGrid grid;
    Geometry op;
    float slope;
    static constexpr u32 READS = 3, POINTERS = 7;
};
static_assert(sizeof(MaxPoolBackwardParams) == 128, "the layout is shared with Rust");

// Gradients of the V outputs from `at` on, back through the activation, whose derivative follows from the output.
template <u32 V>
static __device__ __forceinline__ void masked_gradients(float (&gradients)[V], const MaxPoolBackwardParams& p, u64 at) {
    read_lanes(gradients, p.d_output + at);
    if (!p.pooled) return;
    float values[V];
    read_lanes(values, p.pooled + at);
#pragma unroll
    for (u32 lane = 0; lane < V; ++lane) gradients[lane] = activate_backward(values[lane], gradients[lane], p.slope);
}

// Every input gathers from the windows that cover it.
template <u32 V>
static __device__ __forceinline__ void gather_gradients(const MaxPoolBackwardParams& p, float* parts, u32& flag) {
    const Geometry& op = p.op;
    column_pass<V>({p.grid, p.d_bias, p.partial, p.arrived}, parts, flag, [&](u64 row, u32 channel, float (&sums)[V]) {
        u64 sample = row;
        const u32 x = take_digit(sample, op.width);
        const u32 y = take_digit(sample, op.height);
        const Span rows = op.rows_over(y), cols = op.cols_over(x);
        const u32 here = y * op.width + x;
#pragma unroll
        for (u32 lane = 0; lane < V; ++lane) sums[lane] = 0.0f;
#pragma unroll 1
        for (u32 out_y = rows.begin; out_y < rows.end; ++out_y) {
#pragma unroll 1
            for (u32 out_x = cols.begin; out_x < cols.end; ++out_x) {
                const u64 out = op.output_at(sample, out_y, out_x) + channel;
                float gradients[V];
                u32 where[V];
                masked_gradients(gradients, p, out);
                load_indices(where, p.argmax + out);
#pragma unroll
                for (u32 lane = 0; lane < V; ++lane) sums[lane] += where[lane] == here ? gradients[lane] : 0.0f;
            }
        }
        store_lanes(p.d_input + row * op.channels + channel, sums);
    });
}

// d_input = Σ d_output of the windows whose maximum an input is, and with `d_bias` its column sums. Rows are the input's
// pixels. For grid and scratch see ColumnGrid.
KERNEL(max_pool_backward)(const __grid_constant__ MaxPoolBackwardParams p) {
    __shared__ float parts[BLOCK];
    __shared__ u32 flag;
    gather_gradients<1>(p, parts, flag);
}

// The same where `channels` is a multiple of VEC.
KERNEL(max_pool_backward_vec)(const __grid_constant__ MaxPoolBackwardParams p) {
    __shared__ float parts[BLOCK * VEC];
    __shared__ u32 flag;
    gather_gradients<VEC>(p, parts, flag);
}

// The same where windows tile the input without a gap: every window is read once and written whole. Rows are the
// output's pixels.
KERNEL(max_pool_backward_tiles_vec)(const __grid_constant__ MaxPoolBackwardParams p) {
    __shared__ float parts[BLOCK * VEC];
    __shared__ u32 flag;
    const Geometry& op = p.op;
    const ColumnPass pass = {p.grid, p.d_bias, p.partial, p.arrived};
    column_pass<VEC>(pass, parts, flag, [&](u64 row, u32 channel, float (&gradients)[VEC]) {
        const u64 at = row * op.channels + channel;
        masked_gradients(gradients, p, at);
        u32 where[VEC];
        load_indices(where, p.argmax + at);
        u64 sample = row;
        const u32 first_x = take_digit(sample, op.out_width) * op.stride - op.padding;
        const u32 first_y = take_digit(sample, op.out_height) * op.stride - op.padding;
        for (u32 y = first_y; y < first_y + op.kernel; ++y) {
            for (u32 x = first_x; x < first_x + op.kernel; ++x) {
                float values[VEC];
#pragma unroll
                for (u32 lane = 0; lane < VEC; ++lane) {
                    values[lane] = where[lane] == y * op.width + x ? gradients[lane] : 0.0f;
                }
                store_lanes(p.d_input + op.input_at(sample, y, x) + channel, values);
            }
        }
    });
}

struct AvgPoolParams {
    const real* source;
    real* target;
    u64 count;  // Of the values that are written.
    Geometry op;
    u32 unused;
    static constexpr u32 READS = 1, POINTERS = 2;
};
static_assert(sizeof(AvgPoolParams) == 72, "the layout is shared with Rust");

// Values that the mean of a window divides by along one axis: padding counts as zeros (PyTorch's count_include_pad=True),
// what a last window covers beyond it does not count.
static __device__ __forceinline__ float divisor(u32 out, u32 size, const Geometry& op) {
    const u32 left = size + 2 * op.padding - out * op.stride;
    return (float)(op.kernel < left ? op.kernel : left);
}

// Adaptive pooling: output `at` of `outputs` averages the inputs ⌊at·inputs/outputs⌋ .. ⌈(at+1)·inputs/outputs⌉. With
// inputs and outputs exchanged, the outputs that an input belongs to. The launcher sees to it that products fit 32 bits:
// 64-bit divisions are calls, whose saved registers spill.
static __device__ __forceinline__ Span adaptive(u32 at, u32 inputs, u32 outputs) {
    return Span{at * inputs / outputs, ((at + 1) * inputs + outputs - 1) / outputs};
}

// The mean's window along one axis: the inputs under an output, the outputs over an input, and what it divides by.
template <bool ADAPTIVE>
struct Axis {
    u32 size, outputs;
    const Geometry& op;

    __device__ __forceinline__ Span under(u32 out) const {
        return ADAPTIVE ? adaptive(out, size, outputs) : op.under(out, size);
    }
    __device__ __forceinline__ Span over(u32 at) const {
        return ADAPTIVE ? adaptive(at, outputs, size) : op.over(at, outputs);
    }
    __device__ __forceinline__ float count(u32 out) const {
        if (!ADAPTIVE) return divisor(out, size, op);
        const Span span = adaptive(out, size, outputs);
        return (float)(span.end - span.begin);
    }
};

template <bool ADAPTIVE>
static __device__ __forceinline__ void means(const AvgPoolParams& p) {
    const Geometry& op = p.op;
    const Axis<ADAPTIVE> down{op.height, op.out_height, op}, across{op.width, op.out_width, op};
    GRID_STRIDE(i, p.count) {
        const Position at = op.output_position(i);
        const Span rows = down.under(at.y), cols = across.under(at.x);
        float sum = 0.0f;
        for (u32 y = rows.begin; y < rows.end; ++y) {
            for (u32 x = cols.begin; x < cols.end; ++x) sum += read(p.source + op.input_at(at.sample, y, x) + at.channel);
        }
        store(p.target + i, sum / (down.count(at.y) * across.count(at.x)));
    }
}

template <bool ADAPTIVE>
static __device__ __forceinline__ void mean_gradients(const AvgPoolParams& p) {
    const Geometry& op = p.op;
    const Axis<ADAPTIVE> down{op.height, op.out_height, op}, across{op.width, op.out_width, op};
    GRID_STRIDE(i, p.count) {
        const Position at = op.input_position(i);
        const Span rows = down.over(at.y), cols = across.over(at.x);
        float sum = 0.0f;
#pragma unroll 1
        for (u32 out_y = rows.begin; out_y < rows.end; ++out_y) {
            const float tall = down.count(out_y);
#pragma unroll 1
            for (u32 out_x = cols.begin; out_x < cols.end; ++out_x) {
                sum += read(p.source + op.output_at(at.sample, out_y, out_x) + at.channel) / (tall * across.count(out_x));
            }
        }
        store(p.target + i, sum);
    }
}

// output = the mean of each window. One thread per output.
KERNEL(avg_pool_forward)(const __grid_constant__ AvgPoolParams p) { means<false>(p); }
KERNEL(adaptive_avg_pool_forward)(const __grid_constant__ AvgPoolParams p) { means<true>(p); }

// d_input = Σ d_output / values of the window, over the windows that hold an input. One thread per input.
KERNEL(avg_pool_backward)(const __grid_constant__ AvgPoolParams p) { mean_gradients<false>(p); }
KERNEL(adaptive_avg_pool_backward)(const __grid_constant__ AvgPoolParams p) { mean_gradients<true>(p); }
