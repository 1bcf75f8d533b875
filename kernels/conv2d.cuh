// The parameters of convolution as a matrix product, for every engine. A linear layer is the convolution of a single
// pixel. Activations are NHWC; weights are [out_channels][kernel][kernel][channels].
#pragma once

#include "geometry.cuh"
#include "norm.cuh"

struct Conv2dForwardParams : Params<3, 11, 152> {
    const real *input, *weight;
    const float* bias;  // May be null.
    real* output;
    u32* argmax;      // Of the fused pooling; null in evaluation.
    float* partials;  // The parts of split products.
    u32* counters;
    // The statistics of the output's normalisation, which may be null, and each tile's part of them. Not in implicit.cu.
    float *running, *saved, *parts;
    u32* parts_counters;
    Geometry op;
    u32 batch;
    float slope;
    u32 pooled;  // Whether 2×2 max pooling follows.
    float momentum, epsilon;

    __device__ __forceinline__ NormStatistics statistics() const {
        return NormStatistics{running, saved, momentum, epsilon};
    }
};

struct Conv2dWeightParams : Params<2, 5, 88> {
    const real *input, *d_output;
    float *d_weight, *partials;
    u32* counters;
    Geometry op;
    u32 batch;
};

struct Conv2dInputParams : Params<8, 15, 176> {
    const real *d_output, *weight;
    // The output of what precedes, for its activation's derivative, and what is added to the gradient; may be null.
    const real *output, *added;
    // If batch normalisation precedes: its input, weight, bias and saved statistics. Neither these nor `added` are in
    // implicit.cu.
    const real* norm_input;
    const float *norm_weight, *norm_bias, *saved;
    real* d_input;
    float *d_bias, *d_weight;  // Of what precedes; may be null.
    float* parts;              // Each tile's sums for them.
    u32* parts_counters;
    float* partials;
    u32* counters;
    Geometry op;
    u32 batch;
    float slope;
    u32 staged;  // How many of `output`, `added` and `norm_input` fit in shared memory beside the results.
};
