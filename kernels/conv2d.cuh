// The parameters of convolution as a matrix product, for every engine. A linear layer is the convolution of a single
// pixel. Activations are NHWC; weights are [out_channels][kernel][kernel][channels].
#pragma once

#include "geometry.cuh"

struct Conv2dForwardParams : Params<3, 7, 112> {
    const real *input, *weight;
    const float* bias;  // May be null.
    real* output;
    u32* argmax;      // Of the fused pooling; null in evaluation.
    float* partials;  // The parts of split products.
    u32* counters;
    Geometry op;
    u32 batch;
    float slope;
    u32 pooled;  // Whether 2×2 max pooling follows.
};

struct Conv2dWeightParams : Params<2, 5, 88> {
    const real *input, *d_output;
    float *d_weight, *partials;
    u32* counters;
    Geometry op;
    u32 batch;
};

struct Conv2dInputParams : Params<3, 9, 128> {
    const real *d_output, *weight;
    const real* output;  // The preceding layer's output, for its activation's derivative; may be null.
    real* d_input;
    float *d_bias, *parts;  // The preceding layer's bias gradient, which may be null, and each tile's sums for it.
    u32* parts_counters;
    float* partials;
    u32* counters;
    Geometry op;
    u32 batch;
    float slope;
};
