// Max and average pooling over NHWC, square windows. Backward is a gather: every input element sums the windows that
// cover it, rows then columns ascending, so the sums need no atomics and never change. One thread per element.
#include "common.cuh"

// `argmax` (null in evaluation) receives y·width + x of the first maximum in scan order; padding never wins, and a NaN
// does, as in PyTorch.
KERNEL(max_pool_forward)(const real* __restrict__ input, real* __restrict__ output, u32* __restrict__ argmax, u64 count,
                         u32 height, u32 width, u32 channels, u32 out_height, u32 out_width, u32 kernel, u32 stride,
                         u32 padding) {
    GRID_STRIDE(i, count) {
        u64 sample = i;
        const u32 channel = take_digit(sample, channels);
        const Span cols = inputs_under(take_digit(sample, out_width), width, kernel, stride, padding);
        const Span rows = inputs_under(take_digit(sample, out_height), height, kernel, stride, padding);
        float best = __int_as_float(0xff800000);  // −∞
        u32 where = rows.begin * width + cols.begin;
        for (u32 y = rows.begin; y < rows.end; ++y) {
            for (u32 x = cols.begin; x < cols.end; ++x) {
                const float value = load(input[((sample * height + y) * width + x) * channels + channel]);
                if (value > best || value != value) {
                    best = value;
                    where = y * width + x;
                }
            }
        }
        store(output + i, best);
        if (argmax) argmax[i] = where;
    }
}

// `count` is the number of input elements.
KERNEL(max_pool_backward)(const real* __restrict__ d_output, const u32* __restrict__ argmax, real* __restrict__ d_input,
                          u64 count, u32 height, u32 width, u32 channels, u32 out_height, u32 out_width, u32 kernel,
                          u32 stride, u32 padding) {
    GRID_STRIDE(i, count) {
        u64 sample = i;
        const u32 channel = take_digit(sample, channels);
        const u32 x = take_digit(sample, width);
        const u32 y = take_digit(sample, height);
        const Span rows = outputs_over(y, out_height, kernel, stride, padding);
        const Span cols = outputs_over(x, out_width, kernel, stride, padding);
        const u32 here = y * width + x;
        float sum = 0.0f;
        for (u32 out_y = rows.begin; out_y < rows.end; ++out_y) {
            for (u32 out_x = cols.begin; out_x < cols.end; ++out_x) {
                const u64 out = ((sample * out_height + out_y) * out_width + out_x) * channels + channel;
                if (argmax[out] == here) sum += load(d_output[out]);
            }
        }
        store(d_input + i, sum);
    }
}

// Padding counts as zeros in the mean (PyTorch's count_include_pad=True).
KERNEL(avg_pool_forward)(const real* __restrict__ input, real* __restrict__ output, u64 count, u32 height, u32 width,
                         u32 channels, u32 out_height, u32 out_width, u32 kernel, u32 stride, u32 padding) {
    GRID_STRIDE(i, count) {
        u64 sample = i;
        const u32 channel = take_digit(sample, channels);
        const Span cols = inputs_under(take_digit(sample, out_width), width, kernel, stride, padding);
        const Span rows = inputs_under(take_digit(sample, out_height), height, kernel, stride, padding);
        float sum = 0.0f;
        for (u32 y = rows.begin; y < rows.end; ++y) {
            for (u32 x = cols.begin; x < cols.end; ++x) {
                sum += load(input[((sample * height + y) * width + x) * channels + channel]);
            }
        }
        store(output + i, sum / ((float)kernel * (float)kernel));
    }
}

// `count` is the number of input elements.
KERNEL(avg_pool_backward)(const real* __restrict__ d_output, real* __restrict__ d_input, u64 count, u32 height,
                          u32 width, u32 channels, u32 out_height, u32 out_width, u32 kernel, u32 stride,
                          u32 padding) {
    GRID_STRIDE(i, count) {
        u64 sample = i;
        const u32 channel = take_digit(sample, channels);
        const u32 x = take_digit(sample, width);
        const u32 y = take_digit(sample, height);
        const Span rows = outputs_over(y, out_height, kernel, stride, padding);
        const Span cols = outputs_over(x, out_width, kernel, stride, padding);
        float sum = 0.0f;
        for (u32 out_y = rows.begin; out_y < rows.end; ++out_y) {
            for (u32 out_x = cols.begin; out_x < cols.end; ++out_x) {
                sum += load(d_output[((sample * out_height + out_y) * out_width + out_x) * channels + channel]);
            }
        }
        store(d_input + i, sum / ((float)kernel * (float)kernel));
    }
}
