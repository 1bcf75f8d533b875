// Direct convolution of one input channel, as in a first layer, whose windows have too few values for a GEMM. Kernel
// sizes are 3 and 5, and there are at most 32 output channels.
#include "geometry.cuh"
#include "reduce.cuh"

constexpr u32 MOST_CHANNELS = 32;

// The window of an output pixel: its sample and its first input pixel. Coordinates before the input wrap around as in
// Geometry::input_coord.
struct Window {
    u64 sample;
    u32 y, x;
};

static __device__ __forceinline__ Window window_of(u64 pixel, const Geometry& op) {
    Window window;
    window.x = op.input_coord(divmod(pixel, op.out_width), 0);
    window.y = op.input_coord(divmod(pixel, op.out_height), 0);
    window.sample = pixel;
    return window;
}

// The input at tap (ky, kx) of a window; zero in the padding.
static __device__ __forceinline__ float tap(const real* input, const Window& at, u32 ky, u32 kx, const Geometry& op) {
    const u32 y = at.y + ky, x = at.x + kx;
    return op.contains(y, x) ? read(input + (at.sample * op.height + y) * op.width + x) : 0.0f;
}

struct DirectForwardParams : Params<3, 4, 88> {
    const real *input, *weight;
    const float* bias;  // May be null.
    real* output;
    u64 pixels;  // Output pixels of the batch.
    Geometry op;
    float slope;
};

// output = act(convolution + bias). One thread per VEC channels of a pixel. `weights` is shared, [taps][MOST_CHANNELS].
template <u32 K>
static __device__ __forceinline__ void forward(const DirectForwardParams& p, float* weights) {
    const Geometry& op = p.op;
    const u32 channels = op.out_channels;
    constexpr u32 TAPS = K * K;
    for (u32 i = threadIdx.x; i < TAPS * MOST_CHANNELS; i += BLOCK) {
        const u32 channel = i % MOST_CHANNELS;
        weights[i] = channel < channels ? read(p.weight + channel * TAPS + i / MOST_CHANNELS) : 0.0f;
    }
    __syncthreads();
    const u32 vectors = (channels + VEC - 1) / VEC;
    GRID_STRIDE(i, p.pixels * vectors) {
        u64 pixel = i;
        const u32 channel = divmod(pixel, vectors) * VEC;
        const Window at = window_of(pixel, op);
        Lanes<VEC> sums;
        unroll<VEC>(
            [&](u32 lane) { sums[lane] = p.bias && channel + lane < channels ? read(p.bias + channel + lane) : 0.0f; });
        unroll<TAPS>([&](u32 t) {
            const float value = tap(p.input, at, t / K, t % K, op);
            unroll<VEC>([&](u32 lane) { sums[lane] += value * weights[t * MOST_CHANNELS + channel + lane]; });
        });
        unroll<VEC>([&](u32 lane) { sums[lane] = activate(sums[lane], p.slope); });
        real* const target = p.output + pixel * channels + channel;
        if (channels % VEC == 0) {
            store_lanes(target, sums);
        } else {
            unroll<VEC>([&](u32 lane) {
                if (channel + lane < channels) store(target + lane, sums[lane]);
            });
        }
    }
}

KERNEL(direct_forward_3, DirectForwardParams) {
    __shared__ float weights[9 * MOST_CHANNELS];
    forward<3>(p, weights);
}
KERNEL(direct_forward_5, DirectForwardParams) {
    __shared__ float weights[25 * MOST_CHANNELS];
    forward<5>(p, weights);
}

// N gradients of a pixel starting at `channel`, zeros past the last channel; one vector access if N divides `channels`.
template <u32 N>
static __device__ __forceinline__ Lanes<N> read_channels(const real* from, u32 channel, u32 channels) {
    if (channels % N == 0) return read_lanes<N>(from + channel);
    Lanes<N> values;
    unroll<N>([&](u32 lane) { values[lane] = channel + lane < channels ? read(from + channel + lane) : 0.0f; });
    return values;
}

struct DirectWeightParams : Params<2, 5, 104> {
    const real *input, *d_output;
    float *d_weight, *partial;
    u32* block_counters;
    u64 pixels;  // Output pixels of the batch.
    Geometry op;
    u32 width, pixels_per_block;
};

// d_weight[channel][tap] = Σ_pixels d_output[pixel][channel] · input[tap of the window]. Each thread sums N channels of
// its pixels, then a butterfly reduction adds the warp's threads with the same channels, then warps and blocks are
// added in order. `quad_parts` is shared, [BLOCK / WARP][MOST_CHANNELS · TAPS] floats, and at least BLOCK float4s.
template <u32 K, u32 N>
static __device__ __forceinline__ void backward_weight(const DirectWeightParams& p, float4* quad_parts, u32& flag) {
    const Geometry& op = p.op;
    const u32 channels = op.out_channels, width = p.width;
    constexpr u32 TAPS = K * K;
    float* const parts = reinterpret_cast<float*>(quad_parts);
    const u64 first = (u64)blockIdx.x * p.pixels_per_block;
    const u64 end = first + p.pixels_per_block < p.pixels ? first + p.pixels_per_block : p.pixels;
    const u32 channel = threadIdx.x % width * N;
    float sums[N * TAPS] = {};
    for (u64 pixel = first + threadIdx.x / width; pixel < end; pixel += BLOCK / width) {
        const real* const d_output = p.d_output + pixel * channels;
        const Lanes<N> gradients = read_channels<N>(d_output, channel < channels ? channel : 0, channels);
        const Window at = window_of(pixel, op);
        unroll<TAPS>([&](u32 t) {
            const float value = tap(p.input, at, t / K, t % K, op);
            unroll<N>([&](u32 lane) { sums[lane * TAPS + t] += gradients[lane] * value; });
        });
    }
    const u32 len = channels * TAPS, quads = (len + 3) / 4;
    unroll<N * TAPS>([&](u32 i) {
        const float sum = warp_sum(sums[i], width);
        // A lane beyond the last channel would write past the warp's partial sums.
        const u32 at = channel * TAPS + i;
        if (threadIdx.x % WARP < width && at < len) parts[threadIdx.x / WARP * len + at] = sum;
    });
    __syncthreads();
    float* const partial = p.partial + (u64)blockIdx.x * quads * 4;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < quads * 4; i += BLOCK)
        partial[i] = i < len ? sum_of_rows(parts, BLOCK / WARP, len, i) : 0.0f;
    if (!is_last_block(p.block_counters, gridDim.x, flag)) return;
    const float4* const partials = reinterpret_cast<const float4*>(p.partial);
    const bool inside = threadIdx.x / quads < BLOCK / quads;
    const float4 sum = column_sum(partials, gridDim.x, quads, quads, inside, quad_parts);
    if (threadIdx.x >= quads) return;
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
    unroll<4>([&](u32 i) {
        if (threadIdx.x * 4 + i < len) p.d_weight[threadIdx.x * 4 + i] = values[i];
    });
}

// Grid: ⌈pixels / pixels_per_block⌉ blocks. `width` is the number of threads per pixel: the power of two that covers
// all channels, at four channels per thread for 3×3 windows and one for 5×5.
KERNEL(direct_backward_weight_3, DirectWeightParams) {
    __shared__ float4 parts[BLOCK / WARP * MOST_CHANNELS * 9 / 4];
    __shared__ u32 flag;
    backward_weight<3, 4>(p, parts, flag);
}
KERNEL(direct_backward_weight_5, DirectWeightParams) {
    __shared__ float4 parts[BLOCK / WARP * MOST_CHANNELS * 25 / 4];
    __shared__ u32 flag;
    backward_weight<5, 1>(p, parts, flag);
}
