// Convolution by matrix product: im2col unfolds the input's windows into rows, col2im folds their gradients back.
//
// Input is NHWC. Row `(sample·out_height + out_y)·out_width + out_x` of the columns holds that window's values in the
// order [kernel_y][kernel_x][channel], the order of a filter's weights, so a convolution is columns · Wᵀ.
#include "common.cuh"

// Where a row's window starts in the padded input; negative within the padding.
struct WindowStart {
    u64 sample;
    long long y, x;
};

static __device__ __forceinline__ WindowStart window_of(u64 row, u32 out_height, u32 out_width, u32 stride,
                                                     u32 padding) {
    WindowStart start;
    start.x = (long long)take_digit(row, out_width) * stride - padding;
    start.y = (long long)take_digit(row, out_height) * stride - padding;
    start.sample = row;
    return start;
}

// columns[0] is row `first_row`. One thread per value of the columns.
KERNEL(im2col)(const real* __restrict__ input, real* __restrict__ columns, u64 first_row, u64 row_count, u32 height,
               u32 width, u32 channels, u32 out_height, u32 out_width, u32 kernel, u32 stride, u32 padding) {
    GRID_STRIDE(i, row_count * kernel * kernel * channels) {
        u64 rest = i;
        const u32 channel = take_digit(rest, channels);
        const u32 kernel_x = take_digit(rest, kernel);
        const u32 kernel_y = take_digit(rest, kernel);
        const WindowStart start = window_of(first_row + rest, out_height, out_width, stride, padding);
        const long long y = start.y + kernel_y, x = start.x + kernel_x;
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        float value = 0.0f;
        if (inside) value = load(input[((start.sample * height + (u64)y) * width + (u64)x) * channels + channel]);
        store(columns + i, value);
    }
}

// The same where `channels` is a multiple of VEC: one thread per 16 bytes.
KERNEL(im2col_vec)(const real* __restrict__ input, real* __restrict__ columns, u64 first_row, u64 row_count, u32 height,
                   u32 width, u32 channels, u32 out_height, u32 out_width, u32 kernel, u32 stride, u32 padding) {
    const u32 vectors = channels / VEC;
    GRID_STRIDE(i, row_count * kernel * kernel * vectors) {
        u64 rest = i;
        const u32 vector = take_digit(rest, vectors);
        const u32 kernel_x = take_digit(rest, kernel);
        const u32 kernel_y = take_digit(rest, kernel);
        const WindowStart start = window_of(first_row + rest, out_height, out_width, stride, padding);
        const long long y = start.y + kernel_y, x = start.x + kernel_x;
        Vec value;
        value.bytes = make_uint4(0, 0, 0, 0);
        if (y >= 0 && y < height && x >= 0 && x < width) {
            value = load_vec(input + ((start.sample * height + (u64)y) * width + (u64)x) * channels + vector * VEC);
        }
        store_vec(columns + i * VEC, value);
    }
}

// d_columns[0] is the first row of sample `first_sample`. Every input element sums the windows that cover it, rows
// then columns ascending: no atomics, the same sum every time.
KERNEL(col2im)(const real* __restrict__ d_columns, real* __restrict__ d_input, u64 first_sample, u64 sample_count,
               u32 height, u32 width, u32 channels, u32 out_height, u32 out_width, u32 kernel, u32 stride,
               u32 padding) {
    GRID_STRIDE(i, sample_count * height * width * channels) {
        u64 sample = i;
        const u32 channel = take_digit(sample, channels);
        const u32 x = take_digit(sample, width);
        const u32 y = take_digit(sample, height);
        const Span rows = outputs_over(y, out_height, kernel, stride, padding);
        const Span cols = outputs_over(x, out_width, kernel, stride, padding);
        float sum = 0.0f;
        for (u32 out_y = rows.begin; out_y < rows.end; ++out_y) {
            const u32 kernel_y = y + padding - out_y * stride;
            for (u32 out_x = cols.begin; out_x < cols.end; ++out_x) {
                const u32 kernel_x = x + padding - out_x * stride;
                const u64 row = (sample * out_height + out_y) * out_width + out_x;
                sum += load(d_columns[((row * kernel + kernel_y) * kernel + kernel_x) * channels + channel]);
            }
        }
        store(d_input + first_sample * height * width * channels + i, sum);
    }
}

// The same where `channels` is a multiple of VEC: one thread per 16 bytes.
KERNEL(col2im_vec)(const real* __restrict__ d_columns, real* __restrict__ d_input, u64 first_sample, u64 sample_count,
                   u32 height, u32 width, u32 channels, u32 out_height, u32 out_width, u32 kernel, u32 stride,
                   u32 padding) {
    const u32 vectors = channels / VEC;
    GRID_STRIDE(i, sample_count * height * width * vectors) {
        u64 sample = i;
        const u32 vector = take_digit(sample, vectors);
        const u32 x = take_digit(sample, width);
        const u32 y = take_digit(sample, height);
        const Span rows = outputs_over(y, out_height, kernel, stride, padding);
        const Span cols = outputs_over(x, out_width, kernel, stride, padding);
        float sum[VEC] = {};
        for (u32 out_y = rows.begin; out_y < rows.end; ++out_y) {
            const u32 kernel_y = y + padding - out_y * stride;
            for (u32 out_x = cols.begin; out_x < cols.end; ++out_x) {
                const u32 kernel_x = x + padding - out_x * stride;
                const u64 row = (sample * out_height + out_y) * out_width + out_x;
                const u64 cell = (row * kernel + kernel_y) * kernel + kernel_x;
                const Vec part = load_vec(d_columns + cell * channels + vector * VEC);
#pragma unroll
                for (u32 lane = 0; lane < VEC; ++lane) sum[lane] += load(part.lane[lane]);
            }
        }
        const u64 total = sample_count * height * width * channels;
        store_some(d_input + first_sample * height * width * channels, sum, i * VEC, total);
    }
}
