// A first layer's convolution, directly: with one input channel a window is but a few numbers, too few for a matrix
// product. A window is square with a side of 3 or 5, and there are at most 32 output channels.
#include "geometry.cuh"
#include "reduce.cuh"

constexpr u32 MOST_CHANNELS = 32;

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
static __device__ __forceinline__ float tap(const real* input, const Window& at, u32 ky, u32 kx,
                                            const Geometry& op) {
    const u32 y = (u32)(at.y + (int)ky), x = (u32)(at.x + (int)kx);  // Negative ones become large.
    if (y >= op.height || x >= op.width) return 0.0f;
    return read(input + (at.sample * op.height + y) * op.width + x);
}

struct DirectForwardParams {
    const real *input, *weight;
    const float* bias;  // May be null.
    real* output;
    u64 pixels;  // Of the output.
    Geometry op;
    float slope;
    static constexpr u32 READS = 3, POINTERS = 4;
};
static_assert(sizeof(DirectForwardParams) == 88, "the layout is shared with Rust");

// output = act(convolution + bias), VEC channels of a pixel to a thread. `weights` is [tap][MOST_CHANNELS], shared.
template <u32 K>
static __device__ __forceinline__ void forward(const DirectForwardParams& p, float* weights) {
    const real *__restrict__ input = p.input, *__restrict__ weight = p.weight;
    const float* __restrict__ bias = p.bias;
    real* __restrict__ output = p.output;
    const Geometry& op = p.op;
    const u32 channels = op.out_channels;
    constexpr u32 TAPS = K * K;
    for (u32 i = threadIdx.x; i < TAPS * MOST_CHANNELS; i += BLOCK) {
        const u32 channel = i % MOST_CHANNELS;
        weights[i] = channel < channels ? load(weight[channel * TAPS + i / MOST_CHANNELS]) : 0.0f;
    }
    __syncthreads();
    const u32 vectors = (channels + VEC - 1) / VEC;
    GRID_STRIDE(i, p.pixels * vectors) {
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
        for (u32 lane = 0; lane < VEC; ++lane) sums[lane] = activate(sums[lane], p.slope);
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

KERNEL(direct_forward_3)(const __grid_constant__ DirectForwardParams p) {
    __shared__ float weights[9 * MOST_CHANNELS];
    forward<3>(p, weights);
}

KERNEL(direct_forward_5)(const __grid_constant__ DirectForwardParams p) {
    __shared__ float weights[25 * MOST_CHANNELS];
    forward<5>(p, weights);
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
        values[lane] = channel + lane < channels ? read(from + channel + lane) : 0.0f;
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

struct DirectWeightParams {
    const real *input, *d_output;
    float *d_weight, *partial;
    u32* arrived;
    u64 pixels;  // Of the output.
    Geometry op;
    u32 width, pixels_per_block, unused;
    static constexpr u32 READS = 2, POINTERS = 5;
};
static_assert(sizeof(DirectWeightParams) == 104, "the layout is shared with Rust");

// d_weight[channel][tap] = Σ_pixels d_output[pixel][channel] · input[window's tap]: a thread sums N channels of its
// pixels, a warp's threads of the same channels are added by halves, then warps and blocks in their order. `quad_parts`
// is shared: [BLOCK / WARP][MOST_CHANNELS · TAPS] floats, and at least BLOCK quads.
template <u32 K, u32 N>
static __device__ __forceinline__ void backward_weight(const DirectWeightParams& p, float4* quad_parts, u32& flag) {
    const Geometry& op = p.op;
    const u32 channels = op.out_channels, width = p.width;
    float* const partial = p.partial;
    constexpr u32 TAPS = K * K;
    float* parts = reinterpret_cast<float*>(quad_parts);
    const u64 first = (u64)blockIdx.x * p.pixels_per_block;
    const u64 end = first + p.pixels_per_block < p.pixels ? first + p.pixels_per_block : p.pixels;
    const u32 channel = threadIdx.x % width * N;
    float sums[N][TAPS];
#pragma unroll
    for (u32 i = 0; i < N * TAPS; ++i) sums[i / TAPS][i % TAPS] = 0.0f;
    for (u64 pixel = first + threadIdx.x / width; pixel < end; pixel += BLOCK / width) {
        float gradients[N];
        load_channels<N>(gradients, p.d_output + pixel * channels, channel < channels ? channel : 0, channels);
        const Window at = window_of(pixel, op);
#pragma unroll
        for (u32 t = 0; t < TAPS; ++t) {
            const float value = tap(p.input, at, t / K, t % K, op);
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
    if (!arrives_last(p.arrived, gridDim.x, flag)) return;
    sum_blocks(reinterpret_cast<const float4*>(partial), p.d_weight, len, quads, quad_parts);
}

// Grid: ⌈pixels / pixels_per_block⌉ blocks; `width` is the power of two that covers a pixel's channels by fours, or one by
// one where the window is larger.
KERNEL(direct_backward_weight_3)(const __grid_constant__ DirectWeightParams p) {
    __shared__ float4 parts[BLOCK / WARP * MOST_CHANNELS * 9 / 4];
    __shared__ u32 flag;
    backward_weight<3, 4>(p, parts, flag);
}

KERNEL(direct_backward_weight_5)(const __grid_constant__ DirectWeightParams p) {
    __shared__ float4 parts[BLOCK / WARP * MOST_CHANNELS * 25 / 4];
    __shared__ u32 flag;
    backward_weight<5, 1>(p, parts, flag);
}
