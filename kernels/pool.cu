// Max and average pooling over NHWC, square windows. Backward is a gather: every input element sums the windows that
// cover it, rows then columns ascending, so the sums need no atomics and never change.
//
// Max pooling takes the bias and activation of the layer before it along: forward it pools act(input + bias), backward it
// takes the gradients through the activation and sums the bias gradient.
#include "reduce.cuh"

struct Pooling {
    u32 height, width, channels, out_height, out_width, kernel, stride, padding;
};

template <u32 V>
static __device__ __forceinline__ void store_indices(u32* to, const u32 (&values)[V]) {
    if (V == 1) {
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
    if (V == 1) {
        values[0] = *from;
        return;
    }
#pragma unroll
    for (u32 lane = 0; lane + 3 < V; lane += 4) {
        const uint4 four = *reinterpret_cast<const uint4*>(from + lane);
        values[lane] = four.x, values[lane + 1] = four.y, values[lane + 2] = four.z, values[lane + 3] = four.w;
    }
}

template <u32 V>
static __device__ __forceinline__ void maxima(const real* __restrict__ input, const float* __restrict__ bias,
                                              real* __restrict__ output, u32* __restrict__ argmax, u64 count,
                                              float slope, const Pooling& op) {
    GRID_STRIDE(i, count / V) {
        u64 sample = i;
        const u32 channel = take_digit(sample, op.channels / V) * V;
        const Span cols = inputs_under(take_digit(sample, op.out_width), op.width, op.kernel, op.stride, op.padding);
        const Span rows = inputs_under(take_digit(sample, op.out_height), op.height, op.kernel, op.stride, op.padding);
        float best[V], added[V];
        u32 where[V];
#pragma unroll
        for (u32 lane = 0; lane < V; ++lane) {
            best[lane] = __int_as_float(0xff800000);  // −∞
            where[lane] = rows.begin * op.width + cols.begin;
            added[lane] = bias ? bias[channel + lane] : -0.0f;  // −0 is what changes no number, +0 included.
        }
        for (u32 y = rows.begin; y < rows.end; ++y) {
            for (u32 x = cols.begin; x < cols.end; ++x) {
                float values[V];
                load_lanes(values, input + ((sample * op.height + y) * op.width + x) * op.channels + channel);
#pragma unroll
                for (u32 lane = 0; lane < V; ++lane) {
                    const float value = activate(values[lane] + added[lane], slope);
                    if (value > best[lane] || value != value) {
                        best[lane] = value;
                        where[lane] = y * op.width + x;
                    }
                }
            }
        }
        store_lanes(output + i * V, best);
        if (argmax) store_indices(argmax + i * V, where);
    }
}

// output = the maxima of act(input + bias), bias null for none. `argmax` (null in evaluation) receives y·width + x of
// the first maximum in scan order; padding never wins, and a NaN does, as in PyTorch. One thread per output.
KERNEL(max_pool_forward)(const real* __restrict__ input, const float* __restrict__ bias, real* __restrict__ output,
                         u32* __restrict__ argmax, u64 count, float slope, u32 height, u32 width, u32 channels,
                         u32 out_height, u32 out_width, u32 kernel, u32 stride, u32 padding) {
    const Pooling op = {height, width, channels, out_height, out_width, kernel, stride, padding};
    maxima<1>(input, bias, output, argmax, count, slope, op);
}

// The same where `channels` is a multiple of VEC: one thread per 16 bytes.
KERNEL(max_pool_forward_vec)(const real* __restrict__ input, const float* __restrict__ bias, real* __restrict__ output,
                             u32* __restrict__ argmax, u64 count, float slope, u32 height, u32 width, u32 channels,
                             u32 out_height, u32 out_width, u32 kernel, u32 stride, u32 padding) {
    const Pooling op = {height, width, channels, out_height, out_width, kernel, stride, padding};
    maxima<VEC>(input, bias, output, argmax, count, slope, op);
}

// V gradients of outputs, each through the activation told by the output itself (`pooled` null: none).
template <u32 V>
static __device__ __forceinline__ void masked_gradients(float (&gradients)[V], const real* d_output,
                                                        const real* pooled, u64 at, float slope) {
    load_lanes(gradients, d_output + at);
    if (!pooled) return;
    float values[V];
    load_lanes(values, pooled + at);
#pragma unroll
    for (u32 lane = 0; lane < V; ++lane) gradients[lane] = activate_backward(values[lane], gradients[lane], slope);
}

// Every input gathers from the windows that cover it.
template <u32 V>
static __device__ __forceinline__ void gather_gradients(const real* d_output, const u32* argmax, const real* pooled,
                                                        real* d_input, float slope, const Pooling& op,
                                                        const ColumnPass& pass, float* parts, u32& flag) {
    column_pass<V>(pass, parts, flag, [&](u64 row, u32 channel, float (&sums)[V]) {
        u64 sample = row;
        const u32 x = take_digit(sample, op.width);
        const u32 y = take_digit(sample, op.height);
        const Span rows = outputs_over(y, op.out_height, op.kernel, op.stride, op.padding);
        const Span cols = outputs_over(x, op.out_width, op.kernel, op.stride, op.padding);
        const u32 here = y * op.width + x;
#pragma unroll
        for (u32 lane = 0; lane < V; ++lane) sums[lane] = 0.0f;
#pragma unroll 1
        for (u32 out_y = rows.begin; out_y < rows.end; ++out_y) {
#pragma unroll 1
            for (u32 out_x = cols.begin; out_x < cols.end; ++out_x) {
                const u64 out = ((sample * op.out_height + out_y) * op.out_width + out_x) * op.channels + channel;
                float gradients[V];
                u32 where[V];
                masked_gradients(gradients, d_output, pooled, out, slope);
                load_indices(where, argmax + out);
#pragma unroll
                for (u32 lane = 0; lane < V; ++lane) sums[lane] += where[lane] == here ? gradients[lane] : 0.0f;
            }
        }
        store_lanes(d_input + row * op.channels + channel, sums);
    });
}

// d_input from d_output; with `pooled`, the output, through the activation before the pooling; with `d_bias` also the
// column sums of d_input. Rows are the input's pixels. For grid and scratch see ColumnPass.
KERNEL(max_pool_backward)(const real* __restrict__ d_output, const u32* __restrict__ argmax,
                          const real* __restrict__ pooled, real* __restrict__ d_input, float* d_bias, float* partial,
                          u32* arrived, u64 rows, u32 lanes, u32 rows_per_block, float slope, u32 height, u32 width,
                          u32 channels, u32 out_height, u32 out_width, u32 kernel, u32 stride, u32 padding) {
    __shared__ float parts[BLOCK];
    __shared__ u32 flag;
    const Pooling op = {height, width, channels, out_height, out_width, kernel, stride, padding};
    const ColumnPass pass = {rows, channels, lanes, rows_per_block, d_bias, partial, arrived};
    gather_gradients<1>(d_output, argmax, pooled, d_input, slope, op, pass, parts, flag);
}

// The same where `channels` is a multiple of VEC.
KERNEL(max_pool_backward_vec)(const real* __restrict__ d_output, const u32* __restrict__ argmax,
                              const real* __restrict__ pooled, real* __restrict__ d_input, float* d_bias,
                              float* partial, u32* arrived, u64 rows, u32 lanes, u32 rows_per_block, float slope,
                              u32 height, u32 width, u32 channels, u32 out_height, u32 out_width, u32 kernel,
                              u32 stride, u32 padding) {
    __shared__ float parts[BLOCK * VEC];
    __shared__ u32 flag;
    const Pooling op = {height, width, channels, out_height, out_width, kernel, stride, padding};
    const ColumnPass pass = {rows, channels, lanes, rows_per_block, d_bias, partial, arrived};
    gather_gradients<VEC>(d_output, argmax, pooled, d_input, slope, op, pass, parts, flag);
}

// The same where windows tile the input without a gap: every window is read once and written whole. Rows are the
// output's pixels.
KERNEL(max_pool_backward_tiles_vec)(const real* __restrict__ d_output, const u32* __restrict__ argmax,
                                    const real* __restrict__ pooled, real* __restrict__ d_input, float* d_bias,
                                    float* partial, u32* arrived, u64 rows, u32 lanes, u32 rows_per_block, float slope,
                                    u32 height, u32 width, u32 channels, u32 out_height, u32 out_width, u32 kernel,
                                    u32 stride, u32 padding) {
    __shared__ float parts[BLOCK * VEC];
    __shared__ u32 flag;
    const ColumnPass pass = {rows, channels, lanes, rows_per_block, d_bias, partial, arrived};
    column_pass<VEC>(pass, parts, flag, [&](u64 row, u32 channel, float (&gradients)[VEC]) {
        const u64 at = row * channels + channel;
        masked_gradients(gradients, d_output, pooled, at, slope);
        u32 where[VEC];
        load_indices(where, argmax + at);
        u64 sample = row;
        const u32 first_x = take_digit(sample, out_width) * stride - padding;
        const u32 first_y = take_digit(sample, out_height) * stride - padding;
        for (u32 y = first_y; y < first_y + kernel; ++y) {
            for (u32 x = first_x; x < first_x + kernel; ++x) {
                float values[VEC];
#pragma unroll
                for (u32 lane = 0; lane < VEC; ++lane) {
                    values[lane] = where[lane] == y * width + x ? gradients[lane] : 0.0f;
                }
                store_lanes(d_input + ((sample * height + y) * width + x) * channels + channel, values);
            }
        }
    });
}

// Values that the mean of a window divides by along one axis: padding counts as zeros (PyTorch's count_include_pad=True),
// what a last window covers beyond it does not count.
static __device__ __forceinline__ float divisor(u32 out, u32 size, u32 kernel, u32 stride, u32 padding) {
    const u32 left = size + 2 * padding - out * stride;
    return (float)(kernel < left ? kernel : left);
}

KERNEL(avg_pool_forward)(const real* __restrict__ input, real* __restrict__ output, u64 count, u32 height, u32 width,
                         u32 channels, u32 out_height, u32 out_width, u32 kernel, u32 stride, u32 padding) {
    GRID_STRIDE(i, count) {
        u64 sample = i;
        const u32 channel = take_digit(sample, channels);
        const u32 out_x = take_digit(sample, out_width), out_y = take_digit(sample, out_height);
        const Span cols = inputs_under(out_x, width, kernel, stride, padding);
        const Span rows = inputs_under(out_y, height, kernel, stride, padding);
        float sum = 0.0f;
        for (u32 y = rows.begin; y < rows.end; ++y) {
            for (u32 x = cols.begin; x < cols.end; ++x) {
                sum += load(input[((sample * height + y) * width + x) * channels + channel]);
            }
        }
        store(output + i, sum / (divisor(out_y, height, kernel, stride, padding) *
                                 divisor(out_x, width, kernel, stride, padding)));
    }
}

// `count` is the number of input elements.
KERNEL(avg_pool_backward)(const real* __restrict__ d_output, real* __restrict__ d_input, u64 count, u32 height,
                          u32 width, u32 channels, u32 out_height, u32 out_width, u32 kernel, u32 stride,
                          u32 padding) {
    GRID_STRIDE(i, count) {
        u64 sample = i;
        const u32 channel = take_digit(sample, channels);
        const u32 x = take_digit(sample, width);
        const u32 y = take_digit(sample, height);
        const Span rows = outputs_over(y, out_height, kernel, stride, padding);
        const Span cols = outputs_over(x, out_width, kernel, stride, padding);
        float sum = 0.0f;
#pragma unroll 1
        for (u32 out_y = rows.begin; out_y < rows.end; ++out_y) {
            const float tall = divisor(out_y, height, kernel, stride, padding);
#pragma unroll 1
            for (u32 out_x = cols.begin; out_x < cols.end; ++out_x) {
                sum += load(d_output[((sample * out_height + out_y) * out_width + out_x) * channels + channel]) /
                       (tall * divisor(out_x, width, kernel, stride, padding));
            }
        }
        store(d_input + i, sum);
    }
}

// Adaptive pooling: output `at` of `outputs` averages the inputs ⌊at·inputs/outputs⌋ .. ⌈(at+1)·inputs/outputs⌉. With
// inputs and outputs exchanged, the outputs that an input belongs to. The launcher sees to it that products fit 32 bits:
// 64-bit divisions are calls, whose saved registers spill.
static __device__ __forceinline__ Span adaptive(u32 at, u32 inputs, u32 outputs) {
    return Span{at * inputs / outputs, ((at + 1) * inputs + outputs - 1) / outputs};
}

KERNEL(adaptive_avg_pool_forward)(const real* __restrict__ input, real* __restrict__ output, u64 count, u32 height,
                                  u32 width, u32 channels, u32 out_height, u32 out_width) {
    GRID_STRIDE(i, count) {
        u64 sample = i;
        const u32 channel = take_digit(sample, channels);
        const Span cols = adaptive(take_digit(sample, out_width), width, out_width);
        const Span rows = adaptive(take_digit(sample, out_height), height, out_height);
        float sum = 0.0f;
        for (u32 y = rows.begin; y < rows.end; ++y) {
            for (u32 x = cols.begin; x < cols.end; ++x) {
                sum += load(input[((sample * height + y) * width + x) * channels + channel]);
            }
        }
        store(output + i, sum / ((float)(rows.end - rows.begin) * (float)(cols.end - cols.begin)));
    }
}

// `count` is the number of input elements.
KERNEL(adaptive_avg_pool_backward)(const real* __restrict__ d_output, real* __restrict__ d_input, u64 count,
                                   u32 height, u32 width, u32 channels, u32 out_height, u32 out_width) {
    GRID_STRIDE(i, count) {
        u64 sample = i;
        const u32 channel = take_digit(sample, channels);
        const Span cols = adaptive(take_digit(sample, width), out_width, width);
        const Span rows = adaptive(take_digit(sample, height), out_height, height);
        float sum = 0.0f;
#pragma unroll 1
        for (u32 out_y = rows.begin; out_y < rows.end; ++out_y) {
            const Span tall = adaptive(out_y, height, out_height);
#pragma unroll 1
            for (u32 out_x = cols.begin; out_x < cols.end; ++out_x) {
                const Span wide = adaptive(out_x, width, out_width);
                sum += load(d_output[((sample * out_height + out_y) * out_width + out_x) * channels + channel]) /
                       ((float)(tall.end - tall.begin) * (float)(wide.end - wide.begin));
            }
        }
        store(d_input + i, sum);
    }
}
