// Bias: added together with the activation in one pass over the output; its gradient is the column sum of what the
// activation's backward pass leaves, in one pass too.
#include "reduce.cuh"

// output[i] = act(input[i] + bias[i mod channels]); output may be input.
KERNEL(bias_activation_forward)(const real* input, const float* __restrict__ bias, real* output, u64 count,
                                u32 channels, float slope) {
    GRID_STRIDE(i, count) {
        u64 rest = i;
        const u32 channel = take_digit(rest, channels);
        store(output + i, activate(load(input[i]) + bias[channel], slope));
    }
}

// The same where `channels` is a multiple of VEC: one thread per 16 bytes.
KERNEL(bias_activation_forward_vec)(const real* input, const float* __restrict__ bias, real* output, u64 count,
                                    u32 channels, float slope) {
    GRID_STRIDE(i, count / VEC) {
        u64 rest = i;
        const u32 first = take_digit(rest, channels / VEC) * VEC;
        float values[VEC];
        load_some(values, input, i * VEC, count);
#pragma unroll
        for (u32 lane = 0; lane < VEC; ++lane) values[lane] = activate(values[lane] + bias[first + lane], slope);
        store_some(output, values, i * VEC, count);
    }
}

template <u32 V>
static __device__ __forceinline__ void activation_and_sums(const real* output, real* d_output, float slope,
                                                           const ColumnPass& pass, float* parts, u32& flag) {
    column_pass<V>(pass, parts, flag, [&](u64 row, u32 channel, float (&gradients)[V]) {
        const u64 at = row * pass.channels + channel;
        load_lanes(gradients, d_output + at);
        if (slope == 1.0f) return;
        float values[V];
        load_lanes(values, output + at);
#pragma unroll
        for (u32 lane = 0; lane < V; ++lane) {
            gradients[lane] = activate_backward(values[lane], gradients[lane], slope);
        }
        store_lanes(d_output + at, gradients);
    });
}

// d_output *= act'(output), then d_bias[channel] = its column sums; over [rows][channels]. For grid and scratch see
// ColumnPass.
KERNEL(bias_activation_backward)(const real* __restrict__ output, real* d_output, float* d_bias, float* partial,
                                 u32* arrived, u64 rows, u32 channels, u32 width, u32 rows_per_block, float slope) {
    __shared__ float parts[BLOCK];
    __shared__ u32 flag;
    const ColumnPass pass = {rows, channels, width, rows_per_block, d_bias, partial, arrived};
    activation_and_sums<1>(output, d_output, slope, pass, parts, flag);
}

// The same where `channels` is a multiple of VEC.
KERNEL(bias_activation_backward_vec)(const real* __restrict__ output, real* d_output, float* d_bias, float* partial,
                                     u32* arrived, u64 rows, u32 channels, u32 width, u32 rows_per_block,
                                     float slope) {
    __shared__ float parts[BLOCK * VEC];
    __shared__ u32 flag;
    const ColumnPass pass = {rows, channels, width, rows_per_block, d_bias, partial, arrived};
    activation_and_sums<VEC>(output, d_output, slope, pass, parts, flag);
}
