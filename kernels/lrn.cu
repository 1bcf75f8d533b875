// Local response normalisation across channels: y = x · d^−β, d[c] = k + α/size · Σ x² over `size` channels about c.
#include "geometry.cuh"

struct LrnParams : Params<2, 3, 56> {
    const real *input, *d_output;  // The second backward only.
    real* output;                  // Backward, the input's gradient.
    u64 count;
    u32 channels, size;
    float alpha, beta, k;
};

// The channels from so many before one to so many after it.
static __device__ __forceinline__ Span around(u32 channel, u32 before, u32 after, u32 channels) {
    return Span{channel < before ? 0 : channel - before, min(channel + after + 1, channels)};
}

// d of one channel of the pixel whose first channel is `pixel`; the sum ascends.
static __device__ __forceinline__ float denominator(const real* pixel, u32 channel, const LrnParams& p) {
    const Span window = around(channel, p.size / 2, (p.size - 1) / 2, p.channels);
    float sum = 0.0f;
    for (u32 c = window.begin; c < window.end; ++c) {
        const float value = read(pixel + c);
        sum += value * value;
    }
    return p.k + p.alpha / (float)p.size * sum;
}

// One thread per value of [pixels][channels], as below.
KERNEL(lrn_forward, LrnParams) {
    for_channels<1>(p.count, p.channels, [&](u64 at, u64 row, u32 channel) {
        const float d = denominator(p.input + row * p.channels, channel, p);
        store(p.output + at, read(p.input + at) * powf(d, -p.beta));
    });
}

// d_x = d_y · d^−β − 2αβ/size · x · Σ d_y′ · x′ · d′^−(β+1) over the channels whose windows hold this one.
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
