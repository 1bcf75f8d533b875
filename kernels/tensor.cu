// Implicit convolution on the tensor cores of compute_80 and later: TF32, and halves sixteen at a time.
#include "implicit.cuh"

#ifdef REAL_F16
typedef TensorCores<MMA_F16_K16> Engine;
#else
typedef TensorCores<MMA_TF32_K8> Engine;
#endif

KERNEL(conv2d_forward_tensor)(const real* __restrict__ input, const real* __restrict__ weight,
                            const float* __restrict__ bias, real* __restrict__ output, u32* __restrict__ argmax,
                            float* partials, u32* counters,
                            u32 batch, u32 height, u32 width, u32 channels, u32 out_height, u32 out_width,
                            u32 out_channels, u32 kernel, u32 stride, u32 padding, u32 shape, u32 vector, u32 pooled,
                            float slope) {
    DYNAMIC_SHARED(u32, cells);
    const Conv conv{height, width, channels, out_height, out_width, out_channels, kernel, stride, padding};
    const Forward<Engine> direction{input, weight, bias, output, argmax, pooled, slope};
    run(direction, Launch{conv, batch, cells, partials, counters}, shape, vector);
}

KERNEL(conv2d_backward_weight_tensor)(const real* __restrict__ input, const real* __restrict__ d_output,
                                    float* __restrict__ d_weight, float* partials, u32* counters, u32 batch,
                                    u32 height, u32 width, u32 channels, u32 out_height, u32 out_width,
                                    u32 out_channels, u32 kernel, u32 stride, u32 padding, u32 shape, u32 vector) {
    DYNAMIC_SHARED(u32, cells);
    const Conv conv{height, width, channels, out_height, out_width, out_channels, kernel, stride, padding};
    const BackwardWeight<Engine> direction{input, d_output, d_weight};
    run(direction, Launch{conv, batch, cells, partials, counters}, shape, vector);
}

KERNEL(conv2d_backward_input_tensor)(const real* __restrict__ d_output, const real* __restrict__ weight,
                                   real* __restrict__ d_input, const real* __restrict__ output,
                                   float* __restrict__ d_bias, float* parts, u32* parts_counters, float* partials,
                                   u32* counters, u32 batch, u32 height,
                                   u32 width, u32 channels, u32 out_height, u32 out_width, u32 out_channels,
                                   u32 kernel, u32 stride, u32 padding, u32 shape, u32 vector, float slope) {
    DYNAMIC_SHARED(u32, cells);
    const Conv conv{height, width, channels, out_height, out_width, out_channels, kernel, stride, padding};
    const BackwardInput<Engine> direction{d_output,       weight, d_input, output, d_bias, parts,
                                          parts_counters, slope};
    run(direction, Launch{conv, batch, cells, partials, counters}, shape, vector);
}
