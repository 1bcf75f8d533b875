// Bias: added together with the activation in one pass over the output; its gradient is a column sum.
#include "common.cuh"

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

constexpr u32 ROW_LANES = BLOCK / WARP;

// Column sums of `rows` × `channels` values over the rows [first_row, end_row): a warp reads neighbouring columns, the
// block's warps take rows in turn, and their sums are added in the warps' order. True for the threads that hold one.
template <class T>
static __device__ __forceinline__ bool column_sum(float& sum, float (&parts)[ROW_LANES][WARP], const T* values,
                                                  u64 first_row, u64 end_row, u32 channels) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 channel = blockIdx.x * WARP + lane;
    float part = 0.0f;
    if (channel < channels) {
        for (u64 row = first_row + warp; row < end_row; row += ROW_LANES) {
            part += load(values[row * channels + channel]);
        }
    }
    parts[warp][lane] = part;
    __syncthreads();
    if (warp != 0 || channel >= channels) return false;
    sum = parts[0][lane];
#pragma unroll
    for (u32 other = 1; other < ROW_LANES; ++other) sum += parts[other][lane];
    return true;
}

// partial[blockIdx.y][channel] = the sum of `d_output` over that block's `rows_per_block` rows.
// Grid: ⌈channels / 32⌉ × ⌈rows / rows_per_block⌉.
KERNEL(bias_gradient_partial)(const real* __restrict__ d_output, float* __restrict__ partial, u64 rows, u32 channels,
                              u32 rows_per_block) {
    __shared__ float parts[ROW_LANES][WARP];
    const u64 first = (u64)blockIdx.y * rows_per_block;
    const u64 end = first + rows_per_block < rows ? first + rows_per_block : rows;
    float sum;
    if (column_sum(sum, parts, d_output, first, end, channels)) {
        partial[(u64)blockIdx.y * channels + blockIdx.x * WARP + threadIdx.x] = sum;
    }
}

// d_bias[channel] = the sum of the `partial_count` partial sums. Grid: ⌈channels / 32⌉.
KERNEL(bias_gradient)(const float* __restrict__ partial, float* __restrict__ d_bias, u32 partial_count, u32 channels) {
    __shared__ float parts[ROW_LANES][WARP];
    float sum;
    if (column_sum(sum, parts, partial, 0, partial_count, channels)) d_bias[blockIdx.x * WARP + threadIdx.x] = sum;
}
