// Grouped and dilated convolution, computed directly from the tensors.
//
// Images are NHWC; weights are [out_channels][kernel][kernel][channels / groups].
#include "geometry.cuh"

static __device__ __forceinline__ u32 in_per_group(const Geometry& op) { return op.channels / op.groups; }
static __device__ __forceinline__ u32 out_per_group(const Geometry& op) { return op.out_channels / op.groups; }

// The input at tap (ky, kx) of the window of output (y, x), at a group's first channel; null in the padding.
static __device__ __forceinline__ const real* input_under(const real* input, u64 sample, u32 y, u32 x, u32 ky, u32 kx,
                                                          u32 group, const Geometry& op) {
    const u32 in_y = op.input_coord(y, ky), in_x = op.input_coord(x, kx);
    return op.contains(in_y, in_x) ? input + op.input_at(sample, in_y, in_x) + group * in_per_group(op) : nullptr;
}

struct GroupedForwardParams : Params<3, 4, 88> {
    const real *input, *weight;
    const float* bias;  // May be null.
    real* output;
    u64 count;
    Geometry op;
    float slope;
};

// output = act(convolution + bias). One thread per output.
KERNEL(grouped_forward, GroupedForwardParams) {
    const Geometry& op = p.op;
    GRID_STRIDE(i, p.count) {
        const Position at = op.output_position(i);
        const u32 group = at.channel / out_per_group(op);
        const real* weights = p.weight + (u64)at.channel * op.kernel * op.kernel * in_per_group(op);
        float sum = p.bias ? read(p.bias + at.channel) : 0.0f;
        for (u32 tap = 0; tap < op.kernel * op.kernel; ++tap, weights += in_per_group(op)) {
            const real* from = input_under(p.input, at.sample, at.y, at.x, tap / op.kernel, tap % op.kernel, group, op);
            if (!from) continue;
#pragma unroll 4
            for (u32 c = 0; c < in_per_group(op); ++c) sum += read(from + c) * read(weights + c);
        }
        store(p.output + i, activate(sum, p.slope));
    }
}

struct GroupedInputParams : Params<2, 3, 80> {
    const real *d_output, *weight;
    real* d_input;
    u64 count;
    Geometry op;
};

// d_input = Σ d_output · weight over the outputs whose windows cover the input. One thread per input.
KERNEL(grouped_backward_input, GroupedInputParams) {
    const Geometry& op = p.op;
    const u32 in_per_group = ::in_per_group(op), out_per_group = ::out_per_group(op), window = op.kernel * op.kernel;
    GRID_STRIDE(i, p.count) {
        const Position at = op.input_position(i);
        const u32 first = at.channel / in_per_group * out_per_group;
        float sum = 0.0f;
        for (u32 tap = 0; tap < window; ++tap) {
            const u32 ky = tap / op.kernel * op.dilation, kx = tap % op.kernel * op.dilation;
            if (at.y + op.padding < ky || at.x + op.padding < kx) continue;
            const u32 over_y = at.y + op.padding - ky, over_x = at.x + op.padding - kx;
            const u32 out_y = over_y / op.stride, out_x = over_x / op.stride;
            if (out_y * op.stride != over_y || out_x * op.stride != over_x) continue;
            if (out_y >= op.out_height || out_x >= op.out_width) continue;
            const real* gradients = p.d_output + op.output_at(at.sample, out_y, out_x) + first;
            const real* weights = p.weight + ((u64)first * window + tap) * in_per_group + at.channel % in_per_group;
#pragma unroll 4
            for (u32 o = 0; o < out_per_group; ++o)
                sum += read(gradients + o) * read(weights + (u64)o * window * in_per_group);
        }
        store(p.d_input + i, sum);
    }
}

struct GroupedWeightParams : Params<2, 3, 88> {
    const real *input, *d_output;
    float* d_weight;
    u64 count, pixels;  // The number of weights, and of output pixels of the batch.
    Geometry op;
};

// d_weight = Σ_pixels d_output · input. Blocks loop over weights and a block's threads over pixels; a tree reduction
// adds the threads' sums.
KERNEL(grouped_backward_weight, GroupedWeightParams) {
    __shared__ float parts[BLOCK];
    const Geometry& op = p.op;
    for (u64 i = blockIdx.x; i < p.count; i += gridDim.x) {
        u64 rest = i;
        const u32 c = divmod(rest, in_per_group(op));
        const u32 kx = divmod(rest, op.kernel), ky = divmod(rest, op.kernel);
        const u32 channel = (u32)rest;
        float sum = 0.0f;
        for (u64 pixel = threadIdx.x; pixel < p.pixels; pixel += BLOCK) {
            u64 sample = pixel;
            const u32 x = divmod(sample, op.out_width), y = divmod(sample, op.out_height);
            const real* from = input_under(p.input, sample, y, x, ky, kx, channel / out_per_group(op), op);
            if (from) sum += read(from + c) * read(p.d_output + pixel * op.out_channels + channel);
        }
        parts[threadIdx.x] = sum;
        for (u32 distance = BLOCK / 2; distance > 0; distance /= 2) {
            __syncthreads();
            if (threadIdx.x < distance) parts[threadIdx.x] += parts[threadIdx.x + distance];
        }
        if (threadIdx.x == 0) p.d_weight[i] = parts[0];
        __syncthreads();
    }
}
