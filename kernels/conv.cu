// What convolutions by libraries need besides: im2col unfolds the input's windows into rows of the column matrix, for a
// matrix product, and col2im folds their gradients back; widen converts a gradient.
//
// The input is NHWC. Row `(sample·out_height + out_y)·out_width + out_x` of the columns holds the values of that
// output's window as [kernel_y][kernel_x][channel], the order of a filter's weights, so the convolution is
// columns · Wᵀ.
#include "geometry.cuh"

// im2col writes `count` rows of the columns, starting at row `first`; col2im writes `count` samples of the images,
// starting at sample `first`. The buffer of the columns starts at row `first`, or at the first row of sample `first`.
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
        const u32 x = op.input_coord(divmod(sample, op.out_width), kernel_x);
        const u32 y = op.input_coord(divmod(sample, op.out_height), kernel_y);
        Pack<V, real> cell = {};
        if (op.contains(y, x)) cell = read_pack<V>(p.source + op.input_at(sample, y, x) + channel);
        store_pack(p.target + i * V, cell);
    }
}

// columns[row][kernel_y][kernel_x][channel] = the input at that tap of the window, 0 in the padding. One thread per
// value.
KERNEL(im2col, ColumnsParams) { unfold<1>(p); }
KERNEL(im2col_vec, ColumnsParams) { unfold<VEC>(p); }

// Each input sums over the windows that cover it in a fixed order, rows then columns ascending, without atomics.
template <u32 V>
static __device__ __forceinline__ void fold(const ColumnsParams& p) {
    const Geometry& op = p.op;
    real* const d_input = p.target + p.first * op.height * op.width * op.channels;
    GRID_STRIDE(i, p.count * op.height * op.width * (op.channels / V)) {
        const Position at = op.input_position<V>(i);
        const Span rows = op.outputs_over(at.y, op.out_height), cols = op.outputs_over(at.x, op.out_width);
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

// d_input[pixel][channel] = the sum of the column values that im2col copies from it. One thread per value.
KERNEL(col2im, ColumnsParams) { fold<1>(p); }
KERNEL(col2im_vec, ColumnsParams) { fold<VEC>(p); }

struct WidenParams : Params<1, 2, 24> {
    const real* source;
    float* target;
    u64 count;
};

// target = source, a weight gradient that a library has written in the storage type. One thread per value.
KERNEL(widen, WidenParams) { GRID_STRIDE(i, p.count) p.target[i] = read(p.source + i); }
