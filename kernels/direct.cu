// A first layer's convolution, directly: with one input channel a window is but a few numbers, too few for a matrix
// product. A window is square with a side of 3 or 5, and there are at most 32 output channels.
#include "reduce.cuh"

constexpr u32 MOST_CHANNELS = 32;

struct Geometry {
    u32 height, width, out_height, out_width, stride, padding;
};

// A pixel of the output: its sample, and where its window begins in the input, negative within the padding.
struct Window {
    u64 sample;
    int y, x;
};

static __device__ __forceinline__ Window window_of(u64 pixel, const Geometry& op) {
    Window window;
    window.x = (int)(take_digit(pixel, op.out_width) * op.stride) - (int)op.padding;
    window.y = (int)(take_digit(pixel, op.out_height) * op.stride) - (int)op.padding;
    window.sample = pixel;
    return window;
}

// The input under tap (ky, kx) of a window; padding is zero.
static __device__ __forceinline__ float tap(const real* __restrict__ input, const Window& at, u32 ky, u32 kx,
                                            const Geometry& op) {
    const u32 y = (u32)(at.y + (int)ky), x = (u32)(at.x + (int)kx);  // Negative ones become large.
    if (y >= op.height || x >= op.width) return 0.0f;
    return load(input[(at.sample * op.height + y) * op.width + x]);
}

// output = act(convolution + bias), VEC channels of a pixel to a thread. `weights` is [tap][MOST_CHANNELS], shared.
template <u32 K>
static __device__ __forceinline__ void forward(const real* __restrict__ input, const real* __restrict__ weight,
                                               const float* __restrict__ bias, real* __restrict__ output, u64 pixels,
                                               u32 channels, float slope, const Geometry& op, float* weights) {
    constexpr u32 TAPS = K * K;
    for (u32 i = threadIdx.x; i < TAPS * MOST_CHANNELS; i += BLOCK) {
        const u32 channel = i % MOST_CHANNELS;
        weights[i] = channel < channels ? load(weight[channel * TAPS + i / MOST_CHANNELS]) : 0.0f;
    }
    __syncthreads();
    const u32 vectors = (channels + VEC - 1) / VEC;
    GRID_STRIDE(i, pixels * vectors) {
        u64 pixel = i;
        const u32 channel = take_digit(pixel, vectors) * VEC;
        const Window at = window_of(pixel, op);
        float sums[VEC];
#pragma unroll
        for (u32 lane = 0; lane < VEC; ++lane) {
            sums[lane] = bias && channel + lane < channels ? bias[channel + lane] : 0.0f;
        }
#pragma unroll
        for (u32 t = 0; t < TAPS; ++t) {
            const float value = tap(input, at, t / K, t % K, op);
#pragma unroll
            for (u32 lane = 0; lane < VEC; ++lane) sums[lane] += value * weights[t * MOST_CHANNELS + channel + lane];
        }
#pragma unroll
        for (u32 lane = 0; lane < VEC; ++lane) sums[lane] = activate(sums[lane], slope);
        real* target = output + pixel * channels + channel;
        if (channels % VEC == 0) {
            store_lanes(target, sums);
            continue;
        }
#pragma unroll
        for (u32 lane = 0; lane < VEC; ++lane) {
            if (channel + lane < channels) store(target + lane, sums[lane]);
        }
    }
}

// One thread per VEC channels of a pixel; `bias` may be null.
KERNEL(direct_forward_3)(const real* __restrict__ input, const real* __restrict__ weight,
                         const float* __restrict__ bias, real* __restrict__ output, u64 pixels, u32 channels,
                         float slope, u32 height, u32 width, u32 out_height, u32 out_width, u32 stride, u32 padding) {
    __shared__ float weights[9 * MOST_CHANNELS];
    const Geometry op = {height, width, out_height, out_width, stride, padding};
    forward<3>(input, weight, bias, output, pixels, channels, slope, op, weights);
}

KERNEL(direct_forward_5)(const real* __restrict__ input, const real* __restrict__ weight,
                         const float* __restrict__ bias, real* __restrict__ output, u64 pixels, u32 channels,
                         float slope, u32 height, u32 width, u32 out_height, u32 out_width, u32 stride, u32 padding) {
    __shared__ float weights[25 * MOST_CHANNELS];
    const Geometry op = {height, width, out_height, out_width, stride, padding};
    forward<5>(input, weight, bias, output, pixels, channels, slope, op, weights);
}

// N gradients of a pixel from `channel` on, zeros past the last channel; one access where N divides `channels`.
template <u32 N>
static __device__ __forceinline__ void load_channels(float (&values)[N], const real* from, u32 channel, u32 channels) {
    if (channels % N == 0) {
        struct __align__(sizeof(real) * N) Several {
            real lane[N];
        };
        const Several several = *reinterpret_cast<const Several*>(from + channel);
#pragma unroll
        for (u32 lane = 0; lane < N; ++lane) values[lane] = load(several.lane[lane]);
        return;
    }
#pragma unroll
    for (u32 lane = 0; lane < N; ++lane) {
        values[lane] = channel + lane < channels ? load(from[channel + lane]) : 0.0f;
    }
}

// The sums of the partial sums [gridDim.x][quads] by the last block, every quad by several threads that take blocks in
// turn. `parts` is BLOCK shared quads.
static __device__ __forceinline__ void sum_blocks(const float4* partial, float* d_weight, u32 len, u32 quads,
                                                  float4* parts) {
    const u32 lanes = BLOCK / quads, quad = threadIdx.x % quads, lane = threadIdx.x / quads;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (lane < lanes) {
#pragma unroll 8
        for (u32 block = lane; block < gridDim.x; block += lanes) {
            const float4 term = partial[(u64)block * quads + quad];
            sum.x += term.x, sum.y += term.y, sum.z += term.z, sum.w += term.w;
        }
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= quads) return;
    for (u32 other = 1; other < lanes; ++other) {
        const float4 term = parts[other * quads + quad];
        sum.x += term.x, sum.y += term.y, sum.z += term.z, sum.w += term.w;
    }
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
        if (quad * 4 + i < len) d_weight[quad * 4 + i] = values[i];
    }
}

// d_weight[channel][tap] = Σ_pixels d_output[pixel][channel] · input[window's tap]: a thread sums N channels of its
// pixels, a warp's threads of the same channels are added by halves, then warps and blocks in their order. `quad_parts`
// is shared: [BLOCK / WARP][MOST_CHANNELS · TAPS] floats, and at least BLOCK quads.
template <u32 K, u32 N>
static __device__ __forceinline__ void backward_weight(const real* __restrict__ input,
                                                       const real* __restrict__ d_output, float* d_weight,
                                                       float* partial, u32* arrived, u64 pixels, u32 channels,
                                                       u32 width, u32 pixels_per_block, const Geometry& op,
                                                       float4* quad_parts, u32& flag) {
    constexpr u32 TAPS = K * K;
    float* parts = reinterpret_cast<float*>(quad_parts);
    const u64 first = (u64)blockIdx.x * pixels_per_block;
    const u64 end = first + pixels_per_block < pixels ? first + pixels_per_block : pixels;
    const u32 channel = threadIdx.x % width * N;
    float sums[N][TAPS];
#pragma unroll
    for (u32 i = 0; i < N * TAPS; ++i) sums[i / TAPS][i % TAPS] = 0.0f;
    for (u64 pixel = first + threadIdx.x / width; pixel < end; pixel += BLOCK / width) {
        float gradients[N];
        load_channels<N>(gradients, d_output + pixel * channels, channel < channels ? channel : 0, channels);
        const Window at = window_of(pixel, op);
#pragma unroll
        for (u32 t = 0; t < TAPS; ++t) {
            const float value = tap(input, at, t / K, t % K, op);
#pragma unroll
            for (u32 lane = 0; lane < N; ++lane) sums[lane][t] += gradients[lane] * value;
        }
    }
    const u32 len = channels * TAPS, quads = (len + 3) / 4;
#pragma unroll
    for (u32 i = 0; i < N * TAPS; ++i) {
        float sum = sums[i / TAPS][i % TAPS];
        for (u32 distance = WARP / 2; distance >= width; distance /= 2) {
            sum += __shfl_xor_sync(ALL_LANES, sum, distance);
        }
        // A lane beyond the last channel would write past the warp's part.
        const u32 at = channel * TAPS + i;
        if (threadIdx.x % WARP < width && at < len) parts[threadIdx.x / WARP * len + at] = sum;
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < quads * 4; i += BLOCK) {
        float sum = 0.0f;
        for (u32 warp = 0; warp < BLOCK / WARP && i < len; ++warp) sum += parts[warp * len + i];
        partial[(u64)blockIdx.x * quads * 4 + i] = sum;
    }
    if (!arrives_last(arrived, gridDim.x, flag)) return;
    sum_blocks(reinterpret_cast<const float4*>(partial), d_weight, len, quads, quad_parts);
}

// Grid: ⌈pixels / pixels_per_block⌉ blocks; `lanes` is the power of two that covers a pixel's channels by
// fours, or one by one where the window is larger.
KERNEL(direct_backward_weight_3)(const real* __restrict__ input, const real* __restrict__ d_output, float* d_weight,
                                 float* partial, u32* arrived, u64 pixels, u32 channels, u32 lanes,
                                 u32 pixels_per_block, u32 height, u32 width, u32 out_height, u32 out_width,
                                 u32 stride, u32 padding) {
    __shared__ float4 parts[BLOCK / WARP * MOST_CHANNELS * 9 / 4];
    __shared__ u32 flag;
    const Geometry op = {height, width, out_height, out_width, stride, padding};
    backward_weight<3, 4>(input, d_output, d_weight, partial, arrived, pixels, channels, lanes, pixels_per_block, op, parts,
                       flag);
}

KERNEL(direct_backward_weight_5)(const real* __restrict__ input, const real* __restrict__ d_output, float* d_weight,
                                 float* partial, u32* arrived, u64 pixels, u32 channels, u32 lanes,
                                 u32 pixels_per_block, u32 height, u32 width, u32 out_height, u32 out_width,
                                 u32 stride, u32 padding) {
    __shared__ float4 parts[BLOCK / WARP * MOST_CHANNELS * 25 / 4];
    __shared__ u32 flag;
    const Geometry op = {height, width, out_height, out_width, stride, padding};
    backward_weight<5, 1>(input, d_output, d_weight, partial, arrived, pixels, channels, lanes, pixels_per_block, op, parts,
                       flag);
}
