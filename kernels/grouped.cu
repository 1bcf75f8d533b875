// Convolutions of several groups, or with gaps between the kernel's values, read where they lie: no columns, no library.
//
// Layouts are those of conv.cu; weights are [out_channels][kernel][kernel][channels / groups].
#include "common.cuh"

struct Grouped {
    u32 height, width, channels, out_height, out_width, out_channels, kernel, stride, padding, groups, dilation;

    __device__ __forceinline__ u32 ins() const { return channels / groups; }
    __device__ __forceinline__ u32 outs() const { return out_channels / groups; }

    // The input under output (y, x) and the kernel's value (ky, kx), at the first channel of a group; null in the padding.
    __device__ __forceinline__ const real* input(const real* input, u64 sample, u32 y, u32 x, u32 ky, u32 kx,
                                                 u32 group) const {
        // Above and left of the input the subtraction wraps to a number beyond it.
        const u32 in_y = y * stride + ky * dilation - padding, in_x = x * stride + kx * dilation - padding;
        if (in_y >= height || in_x >= width) return nullptr;
        return input + ((sample * height + in_y) * width + in_x) * channels + group * ins();
    }
};

// output = act(convolution + bias), bias null for none. One thread per output.
KERNEL(grouped_forward)(const real* __restrict__ input, const real* __restrict__ weight,
                        const float* __restrict__ bias, real* __restrict__ output, u64 count, float slope, u32 height,
                        u32 width, u32 channels, u32 out_height, u32 out_width, u32 out_channels, u32 kernel,
                        u32 stride, u32 padding, u32 groups, u32 dilation) {
    const Grouped op = {height, width, channels, out_height, out_width, out_channels,
                        kernel, stride, padding, groups, dilation};
    GRID_STRIDE(i, count) {
        u64 sample = i;
        const u32 channel = take_digit(sample, out_channels);
        const u32 x = take_digit(sample, out_width), y = take_digit(sample, out_height);
        const u32 group = channel / op.outs();
        const real* weights = weight + (u64)channel * kernel * kernel * op.ins();
        float sum = bias ? bias[channel] : 0.0f;
        for (u32 place = 0; place < kernel * kernel; ++place, weights += op.ins()) {
            const real* from = op.input(input, sample, y, x, place / kernel, place % kernel, group);
            if (!from) continue;
            for (u32 c = 0; c < op.ins(); ++c) sum += load(from[c]) * load(weights[c]);
        }
        store(output + i, activate(sum, slope));
    }
}

// One thread per input: it gathers from the outputs whose windows cover it.
KERNEL(grouped_backward_input)(const real* __restrict__ d_output, const real* __restrict__ weight,
                               real* __restrict__ d_input, u64 count, u32 height, u32 width, u32 channels,
                               u32 out_height, u32 out_width, u32 out_channels, u32 kernel, u32 stride, u32 padding,
                               u32 groups, u32 dilation) {
    const u32 ins = channels / groups, outs = out_channels / groups;
    GRID_STRIDE(i, count) {
        u64 sample = i;
        const u32 channel = take_digit(sample, channels);
        const u32 x = take_digit(sample, width), y = take_digit(sample, height);
        const u32 first = channel / ins * outs;
        float sum = 0.0f;
        for (u32 place = 0; place < kernel * kernel; ++place) {
            const u32 ky = place / kernel * dilation, kx = place % kernel * dilation;
            if (y + padding < ky || x + padding < kx) continue;
            const u32 over_y = y + padding - ky, over_x = x + padding - kx;
            const u32 out_y = over_y / stride, out_x = over_x / stride;
            if (out_y * stride != over_y || out_x * stride != over_x) continue;
            if (out_y >= out_height || out_x >= out_width) continue;
            const real* gradients = d_output + ((sample * out_height + out_y) * out_width + out_x) * out_channels + first;
            const real* weights = weight + ((u64)first * kernel * kernel + place) * ins + channel % ins;
            for (u32 o = 0; o < outs; ++o) sum += load(gradients[o]) * load(weights[(u64)o * kernel * kernel * ins]);
        }
        store(d_input + i, sum);
    }
}

// A block for each weight in turn: its threads take pixels in turn, and their sums are halved again and again.
KERNEL(grouped_backward_weight)(const real* __restrict__ input, const real* __restrict__ d_output,
                                float* __restrict__ d_weight, u64 count, u64 pixels, u32 height, u32 width,
                                u32 channels, u32 out_height, u32 out_width, u32 out_channels, u32 kernel, u32 stride,
                                u32 padding, u32 groups, u32 dilation) {
    __shared__ float parts[BLOCK];
    const Grouped op = {height, width, channels, out_height, out_width, out_channels,
                        kernel, stride, padding, groups, dilation};
    for (u64 i = blockIdx.x; i < count; i += gridDim.x) {
        u64 rest = i;
        const u32 c = take_digit(rest, op.ins());
        const u32 kx = take_digit(rest, kernel), ky = take_digit(rest, kernel);
        const u32 channel = (u32)rest;
        float sum = 0.0f;
        for (u64 pixel = threadIdx.x; pixel < pixels; pixel += BLOCK) {
            u64 sample = pixel;
            const u32 x = take_digit(sample, out_width), y = take_digit(sample, out_height);
            const real* from = op.input(input, sample, y, x, ky, kx, channel / op.outs());
            if (from) sum += load(from[c]) * load(d_output[pixel * out_channels + channel]);
        }
        parts[threadIdx.x] = sum;
        for (u32 half_way = BLOCK / 2; half_way > 0; half_way /= 2) {
            __syncthreads();
            if (threadIdx.x < half_way) parts[threadIdx.x] += parts[threadIdx.x + half_way];
        }
        if (threadIdx.x == 0) d_weight[i] = parts[0];
        __syncthreads();
    }
}
