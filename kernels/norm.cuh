// Batch normalisation of a channel: its terms, and what follows from its statistics.
#pragma once

#include "common.cuh"

// The terms of V channels' normalisation: scale · (x − mean) + bias.
template <u32 V>
struct Factors {
    Lanes<V> mean, scale, bias;

    __device__ __forceinline__ float normalised(float value, u32 lane) const {
        return (value - mean[lane]) * scale[lane] + bias[lane];
    }
};

// Where the statistics of a normalisation of `channels` channels go, each [2][channels]: the batch's means and inverse
// deviations to `saved`, and the running means and variances.
struct NormStatistics {
    float *running, *saved;
    float momentum, epsilon;

    // Stores a channel's statistics over `rows` values.
    __device__ __forceinline__ void store(u32 channel, u32 channels, float rows, float mean, float variance) const {
        saved[channel] = mean;
        saved[channels + channel] = 1.0f / sqrtf(variance + epsilon);
        const float unbiased = variance * (rows / (rows - 1.0f));
        float* const own = running + channel;
        own[0] = fmaf(momentum, mean, (1.0f - momentum) * own[0]);
        own[channels] = fmaf(momentum, unbiased, (1.0f - momentum) * own[channels]);
    }
};
