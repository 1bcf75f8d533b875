// Local response normalisation across channels: y = x · d^−β, d[c] = k + α/size · Σ x² over `size` channels about c.
#include "common.cuh"

struct Lrn {
    u32 channels, size;
    float alpha, beta, k;
};

// d of one channel of the pixel whose first channel is `pixel`; the sum ascends.
static __device__ __forceinline__ float denominator(const real* pixel, u32 channel, const Lrn& op) {
    const u32 before = op.size / 2, after = (op.size - 1) / 2;
    const u32 begin = channel < before ? 0 : channel - before;
    const u32 end = channel + after < op.channels ? channel + after + 1 : op.channels;
    float sum = 0.0f;
    for (u32 c = begin; c < end; ++c) {
        const float value = load(pixel[c]);
        sum += value * value;
    }
    return op.k + op.alpha / (float)op.size * sum;
}

KERNEL(lrn_forward)(const real* __restrict__ input, real* __restrict__ output, u64 count, u32 channels, u32 size,
                    float alpha, float beta, float k) {
    const Lrn op = {channels, size, alpha, beta, k};
    GRID_STRIDE(i, count) {
        u64 row = i;
        const u32 channel = take_digit(row, channels);
        const float d = denominator(input + row * channels, channel, op);
        store(output + i, load(input[i]) * powf(d, -beta));
    }
}

// d_x = d_y · d^−β − 2αβ/size · x · Σ d_y′ · x′ · d′^−(β+1) over the channels whose windows hold this one.
KERNEL(lrn_backward)(const real* __restrict__ input, const real* __restrict__ d_output, real* __restrict__ d_input,
                     u64 count, u32 channels, u32 size, float alpha, float beta, float k) {
    const Lrn op = {channels, size, alpha, beta, k};
    const u32 before = (size - 1) / 2, after = size / 2;
    GRID_STRIDE(i, count) {
        u64 row = i;
        const u32 channel = take_digit(row, channels);
        const real* pixel = input + row * channels;
        const real* gradients = d_output + row * channels;
        const u32 begin = channel < before ? 0 : channel - before;
        const u32 end = channel + after < channels ? channel + after + 1 : channels;
        float own = 0.0f, sum = 0.0f;
        for (u32 c = begin; c < end; ++c) {
            const float d = denominator(pixel, c, op);
            const float scaled = load(gradients[c]) * powf(d, -beta);
            if (c == channel) own = scaled;
            sum += scaled * load(pixel[c]) / d;
        }
        store(d_input + i, own - 2.0f * alpha * beta / (float)size * load(pixel[channel]) * sum);
    }
}
