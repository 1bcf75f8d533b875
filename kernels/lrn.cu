// Local response normalisation across channels: y = x · d^−β, d[c] = k + α/size · Σ x² over `size` channels about c.
#include "common.cuh"

struct LrnParams {
    const real *input, *d_output;  // The second backward only.
    real* output;                  // Backward, the input's gradient.
    u64 count;
    u32 channels, size;
    float alpha, beta, k;
    u32 unused;
    static constexpr u32 READS = 2, POINTERS = 3;
};
static_assert(sizeof(LrnParams) == 56, "the layout is shared with Rust");

// d of one channel of the pixel whose first channel is `pixel`; the sum ascends.
static __device__ __forceinline__ float denominator(const real* pixel, u32 channel, const LrnParams& p) {
    const u32 before = p.size / 2, after = (p.size - 1) / 2;
    const u32 begin = channel < before ? 0 : channel - before;
    const u32 end = channel + after < p.channels ? channel + after + 1 : p.channels;
    float sum = 0.0f;
    for (u32 c = begin; c < end; ++c) {
        const float value = load(pixel[c]);
        sum += value * value;
    }
    return p.k + p.alpha / (float)p.size * sum;
}

// One thread per value of [pixels][channels], as below.
KERNEL(lrn_forward)(const __grid_constant__ LrnParams p) {
    const real* __restrict__ input = p.input;
    real* __restrict__ output = p.output;
    GRID_STRIDE(i, p.count) {
        u64 row = i;
        const u32 channel = take_digit(row, p.channels);
        const float d = denominator(input + row * p.channels, channel, p);
        store(output + i, load(input[i]) * powf(d, -p.beta));
    }
}

// d_x = d_y · d^−β − 2αβ/size · x · Σ d_y′ · x′ · d′^−(β+1) over the channels whose windows hold this one.
KERNEL(lrn_backward)(const __grid_constant__ LrnParams p) {
    const real *__restrict__ input = p.input, *__restrict__ d_output = p.d_output;
    real* __restrict__ d_input = p.output;
    const u32 before = (p.size - 1) / 2, after = p.size / 2;
    GRID_STRIDE(i, p.count) {
        u64 row = i;
        const u32 channel = take_digit(row, p.channels);
        const real* pixel = input + row * p.channels;
        const real* gradients = d_output + row * p.channels;
        const u32 begin = channel < before ? 0 : channel - before;
        const u32 end = channel + after < p.channels ? channel + after + 1 : p.channels;
        float own = 0.0f, sum = 0.0f;
        for (u32 c = begin; c < end; ++c) {
            const float d = denominator(pixel, c, p);
            const float scaled = load(gradients[c]) * powf(d, -p.beta);
            if (c == channel) own = scaled;
            sum += scaled * load(pixel[c]) / d;
        }
        store(d_input + i, own - 2.0f * p.alpha * p.beta / (float)p.size * load(pixel[channel]) * sum);
    }
}
