// Convolution by matrix product: im2col unfolds the input's windows into rows, col2im folds their gradients back.
//
// Input is NHWC. Row `(sample·out_height + out_y)·out_width + out_x` of the columns holds that window's values in the
// order [kernel_y][kernel_x][channel], the order of a filter's weights, so a convolution is columns · Wᵀ.
#include "geometry.cuh"

// Images and columns, one of which is made from the other: `count` rows of the columns from row `first` on, or `count` samples
// of the images. The columns begin with that row, or with that sample's first.
struct ColumnsParams : Params<1, 2, 80> {
    const real* source;
    real* target;
    u64 first, count;
    Geometry op;
};

template <u32 V>
static __device__ __forceinline__ void unfold(const ColumnsParams& p) {
    const Geometry& op = p.op;
    GRID_STRIDE(i, p.count * op.kernel * op.kernel * (op.channels / V)) {
        u64 row = i;
        const u32 channel = divmod(row, op.channels / V) * V;
        const u32 kernel_x = divmod(row, op.kernel), kernel_y = divmod(row, op.kernel);
        u64 sample = p.first + row;
        const u32 x = op.under(divmod(sample, op.out_width), kernel_x);
        const u32 y = op.under(divmod(sample, op.out_height), kernel_y);
        Pack<V, real> cell = {};
        if (op.has(y, x)) cell = read_pack<V>(p.source + op.input_at(sample, y, x) + channel);
        store_pack(p.target + i * V, cell);
    }
}

// columns[row][kernel_y][kernel_x][channel] = the input under it, 0 in the padding. One thread per value of the columns.
KERNEL(im2col, ColumnsParams) { unfold<1>(p); }
KERNEL(im2col_vec, ColumnsParams) { unfold<VEC>(p); }

// Every input sums the windows that cover it, rows then columns ascending: no atomics, the same sum every time.
template <u32 V>
static __device__ __forceinline__ void fold(const ColumnsParams& p) {
    const Geometry& op = p.op;
    real* const d_input = p.target + p.first * op.height * op.width * op.channels;
    GRID_STRIDE(i, p.count * op.height * op.width * (op.channels / V)) {
        const Position at = op.input_position<V>(i);
        const Span rows = op.over(at.y, op.out_height), cols = op.over(at.x, op.out_width);
        Lanes<V> sums = {};
        for (u32 out_y = rows.begin; out_y < rows.end; ++out_y) {
            const u32 kernel_y = at.y + op.padding - out_y * op.stride;
            for (u32 out_x = cols.begin; out_x < cols.end; ++out_x) {
                const u32 kernel_x = at.x + op.padding - out_x * op.stride;
                const u64 row = (at.sample * op.out_height + out_y) * op.out_width + out_x;
                const u64 cell = (row * op.kernel + kernel_y) * op.kernel + kernel_x;
                const Lanes<V> values = read_lanes<V>(p.source + cell * op.channels + at.channel);
                unroll<V>([&](u32 lane) { sums[lane] += values[lane]; });
            }
        }
        store_lanes(d_input + i * V, sums);
    }
}

// d_input[pixel][channel] = Σ of the columns' cells that are it. One thread per value.
KERNEL(col2im, ColumnsParams) { fold<1>(p); }
KERNEL(col2im_vec, ColumnsParams) { fold<VEC>(p); }
