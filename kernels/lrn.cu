// Local response normalisation across channels: y = x · d^−β with d[c] = k + α/size · Σ x² over `size` channels
// around c.
#include "geometry.cuh"

struct LrnParams : Params<2, 3, 56> {
    const real *input, *d_output;  // d_output is used in the backward pass only.
    real* output;                  // In the backward pass, d_input.
    u64 count;
    u32 channels, size;
    float alpha, beta, k;
};

// The existing channels from `channel - before` to `channel + after`.
static __device__ __forceinline__ Span around(u32 channel, u32 before, u32 after, u32 channels) {
    return Span{channel < before ? 0 : channel - before, min(channel + after + 1, channels)};
}

// d of one channel; `pixel` points to the pixel's first channel. The sum is over ascending channels.
static __device__ __forceinline__ float denominator(const real* pixel, u32 channel, const LrnParams& p) {
    const Span window = around(channel, p.size / 2, (p.size - 1) / 2, p.channels);
    float sum = 0.0f;
    for (u32 c = window.begin; c < window.end; ++c) {
        const float value = read(pixel + c);
        sum += value * value;
    }
    return p.k + p.alpha / (float)p.size * sum;
}

// Both kernels: one thread per value of [pixels][channels].
KERNEL(lrn_forward, LrnParams) {
    for_channels<1>(p.count, p.channels, [&](u64 at, u64 row, u32 channel) {
        const float d = denominator(p.input + row * p.channels, channel, p);
        store(p.output + at, read(p.input + at) * powf(d, -p.beta));
    });
}

// d_x = d_y · d^−β − 2αβ/size · x · Σ d_y′ · x′ · d′^−(β+1) over the channels whose windows contain this one.
KERNEL(lrn_backward, LrnParams) {
    for_channels<1>(p.count, p.channels, [&](u64 at, u64 row, u32 channel) {
        const real *pixel = p.input + row * p.channels, *gradients = p.d_output + row * p.channels;
        const Span over = around(channel, (p.size - 1) / 2, p.size / 2, p.channels);
        float own = 0.0f, sum = 0.0f;
        for (u32 c = over.begin; c < over.end; ++c) {
            const float d = denominator(pixel, c, p);
            const float scaled = read(gradients + c) * powf(d, -p.beta);
            if (c == channel) own = scaled;
            sum += scaled * read(pixel + c) / d;
        }
        store(p.output + at, own - 2.0f * p.alpha * p.beta / (float)p.size * read(pixel + channel) * sum);
    });
}
