// Convolution by matrix product: im2col unfolds the input's windows into rows, col2im folds their gradients back.
//
// Input is NHWC. Row `(sample·out_height + out_y)·out_width + out_x` of the columns holds that window's values in the
// order [kernel_y][kernel_x][channel], the order of a filter's weights, so a convolution is columns · Wᵀ.
#include "geometry.cuh"

// Images and columns, one of which is made from the other: `count` rows of the columns from row `first` on, or `count` samples
// of the images. The columns begin with that row, or with that sample's first.
struct ColumnsParams {
    const real* source;
    real* target;
    u64 first, count;
    Geometry op;
    u32 unused;
    static constexpr u32 READS = 1, POINTERS = 2;
};
static_assert(sizeof(ColumnsParams) == 80, "the layout is shared with Rust");

// Cell number `i` of V channels of the columns.
template <u32 V>
struct Cell {
    u32 channel;
    bool inside;  // Not in the padding.
    u64 at;       // Its number in the input, where it is inside.

    __device__ __forceinline__ Cell(u64 i, u64 first_row, const Geometry& op) {
        channel = take_digit(i, op.channels / V) * V;
        const u32 kernel_x = take_digit(i, op.kernel);
        const u32 kernel_y = take_digit(i, op.kernel);
        u64 sample = first_row + i;
        const long long x = (long long)take_digit(sample, op.out_width) * op.stride - op.padding + kernel_x;
        const long long y = (long long)take_digit(sample, op.out_height) * op.stride - op.padding + kernel_y;
        inside = y >= 0 && y < op.height && x >= 0 && x < op.width;
        at = op.input_at(sample, (u32)y, (u32)x) + channel;
    }
};

// columns[row][kernel_y][kernel_x][channel] = the input under it, 0 in the padding. One thread per value of the columns.
KERNEL(im2col)(const __grid_constant__ ColumnsParams p) {
    const real* __restrict__ input = p.source;
    real* __restrict__ columns = p.target;
    GRID_STRIDE(i, p.count * p.op.patch()) {
        const Cell<1> cell(i, p.first, p.op);
        store(columns + i, cell.inside ? load(input[cell.at]) : 0.0f);
    }
}

// The same where `channels` is a multiple of VEC: one thread per 16 bytes.
KERNEL(im2col_vec)(const __grid_constant__ ColumnsParams p) {
    const real* __restrict__ input = p.source;
    real* __restrict__ columns = p.target;
    GRID_STRIDE(i, p.count * p.op.kernel * p.op.kernel * (p.op.channels / VEC)) {
        const Cell<VEC> cell(i, p.first, p.op);
        Vec value;
        value.bytes = make_uint4(0, 0, 0, 0);
        if (cell.inside) value = load_vec(input + cell.at);
        store_vec(columns + i * VEC, value);
    }
}

// Every input sums the windows that cover it, rows then columns ascending: no atomics, the same sum every time.
template <u32 V>
static __device__ __forceinline__ void fold(const ColumnsParams& p) {
    const real* __restrict__ d_columns = p.source;
    const Geometry& op = p.op;
    const u64 sample_size = (u64)op.height * op.width * op.channels;
    real* __restrict__ d_input = p.target + p.first * sample_size;
    GRID_STRIDE(i, p.count * op.height * op.width * (op.channels / V)) {
        const Position at = op.input_position<V>(i);
        const Span rows = op.rows_over(at.y), cols = op.cols_over(at.x);
        float sums[V] = {};
        for (u32 out_y = rows.begin; out_y < rows.end; ++out_y) {
            const u32 kernel_y = at.y + op.padding - out_y * op.stride;
            for (u32 out_x = cols.begin; out_x < cols.end; ++out_x) {
                const u32 kernel_x = at.x + op.padding - out_x * op.stride;
                const u64 row = (at.sample * op.out_height + out_y) * op.out_width + out_x;
                const u64 cell = (row * op.kernel + kernel_y) * op.kernel + kernel_x;
                float values[V];
                load_lanes(values, d_columns + cell * op.channels + at.channel);
#pragma unroll
                for (u32 lane = 0; lane < V; ++lane) sums[lane] += values[lane];
            }
        }
        store_lanes(d_input + i * V, sums);
    }
}

// d_input[pixel][channel] = Σ of the columns' cells that are it. One thread per value.
KERNEL(col2im)(const __grid_constant__ ColumnsParams p) { fold<1>(p); }

// The same where `channels` is a multiple of VEC: one thread per 16 bytes.
KERNEL(col2im_vec)(const __grid_constant__ ColumnsParams p) { fold<VEC>(p); }
