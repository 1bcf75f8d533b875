// The products of a convolution as an implicit GEMM, for every kind of tile: forward pass, weight gradient and input
// gradient. A linear layer is the convolution of a single pixel. gridDim.x is the number of tiles, gridDim.y the number of
// splits of the inner dimension.
//
// A tile type says how its block multiplies stages in shared memory (`multiply`), how it stores operands (`AlongK`,
// `AlongLines`), and where in the tile a thread's sums are (`row`, `col`).
#pragma once

#include "epilogue.cuh"
#include "phase.cuh"

// The block's dynamic shared memory, aligned as the tile's stages need it.
template <class Tile>
__device__ __forceinline__ unsigned char* stages_of() {
    DYNAMIC_SHARED(unsigned char, shared);
    return shared + (Tile::ALIGNMENT - shared_address(shared) % Tile::ALIGNMENT) % Tile::ALIGNMENT;
}

// output = act(windows · Wᵀ + bias), [batch·out_height·out_width][patch] · [patch][out_channels], then 2×2 max pooling if
// `pooled`.
template <class Tile>
__device__ __forceinline__ void forward(const Conv2dForwardParams& p) {
    unsigned char* const shared = stages_of<Tile>();
    typedef typename Tile::template AlongK<Tile::ROWS> LayoutA;
    typedef typename Tile::template AlongK<Tile::COLS> LayoutB;
    typedef WindowRows<LayoutA, Tile::THREADS, Tile::VECTOR> Input;
    const WindowGrid grid = forward_windows(p.op);
    const u32 depth = grid.depth(), cols = p.op.out_channels;
    const Work work = work_of_block<Tile::ROWS, Tile::COLS, Tile::DEPTH>(blockIdx.x, cols, depth);
    const Steps steps = steps_of(work, (depth + Tile::DEPTH - 1) / Tile::DEPTH);
    const Lines lines(work.row + Input::My::row(0), Input::My::APART, grid.height, grid.width, p.batch, p.pooled);
    Input a(p.input, grid, steps.first * Tile::DEPTH, lines);
    MatrixRows<LayoutB, Tile::THREADS, Tile::VECTOR> b(p.weight, cols, depth, work.col, steps.first * Tile::DEPTH);
    float sums[Tile::SUMS] = {};
    Tile::template multiply<LayoutA, true, LayoutB, true>(sums, shared_address(shared), a, b, steps.count);
    u32& flag = *reinterpret_cast<u32*>(shared);
    if (!add_splits<Tile::THREADS>(sums, flag, p.partials, p.counters, work)) return;
    Results<Tile> results(shared, sums, p.bias ? p.bias + work.col : nullptr, cols - work.col);
    if (p.slope < 0.0f) results.apply_tanh();
    if (p.pooled) return store_pooled(results, p, work, lines.lines / 4);
    Distances distances(results);
    store_forward(results, p, work.col, distances,
                  [&](u32 row) { return work.row + row < lines.lines ? work.row + row : ~0u; });
    if (!p.saved) return;
    store_statistics(results, p, distances, min(Tile::ROWS, lines.lines - work.row), work.col, work.row / Tile::ROWS,
                     (lines.lines + Tile::ROWS - 1) / Tile::ROWS);
}

// d_weight = d_outputᵀ · windows, [out_channels][batch·out_height·out_width] · [..][patch].
template <class Tile>
__device__ __forceinline__ void backward_weight(const Conv2dWeightParams& p) {
    unsigned char* const shared = stages_of<Tile>();
    typedef typename Tile::template AlongLines<Tile::ROWS> LayoutA;
    typedef typename Tile::template AlongLines<Tile::COLS> LayoutB;
    const WindowGrid grid = forward_windows(p.op);
    const u32 rows = p.op.out_channels, cols = grid.depth(), depth = p.batch * p.op.out_pixels();
    const Work work = work_of_block<Tile::ROWS, Tile::COLS, Tile::DEPTH>(blockIdx.x, cols, depth);
    const Steps steps = steps_of(work, (depth + Tile::DEPTH - 1) / Tile::DEPTH);
    const u32 first = steps.first * Tile::DEPTH;
    MatrixColumns<LayoutA, Tile::THREADS, Tile::VECTOR> a(p.d_output, rows, work.row, first, depth);
    WindowColumns<LayoutB, Tile::THREADS, Tile::VECTOR> b(p.input, grid, work.col, first, depth);
    float sums[Tile::SUMS] = {};
    Tile::template multiply<LayoutA, false, LayoutB, false>(sums, shared_address(shared), a, b, steps.count);
    u32& flag = *reinterpret_cast<u32*>(shared);
    if (!add_splits<Tile::THREADS>(sums, flag, p.partials, p.counters, work)) return;
    store_floats<Tile>(p.d_weight, sums, work, rows, cols);
}

// d_input = act'(output) · (gradients over each pixel · W + added), and its column sums. A block's pixels are of one phase
// (see Phase), so that no product with zeros is computed.
template <class Tile>
__device__ __forceinline__ void backward_input(const Conv2dInputParams& p) {
    unsigned char* const shared = stages_of<Tile>();
    typedef typename Tile::template AlongK<Tile::ROWS> LayoutA;
    typedef typename Tile::template AlongLines<Tile::COLS> LayoutB;
    typedef WindowRows<LayoutA, Tile::THREADS, Tile::VECTOR> Gradients;
    const u32 cols = p.op.channels, across = (cols + Tile::COLS - 1) / Tile::COLS, row_tile = blockIdx.x / across;
    const Phase phase = phase_of_tile<Tile::ROWS>(p.op, p.batch, row_tile);
    const WindowGrid grid = phase.windows(p.op);
    const u32 index = blockIdx.x - phase.first_tile * across, depth = grid.depth();
    const Work work = work_of_block<Tile::ROWS, Tile::COLS, Tile::DEPTH>(index, cols, depth);
    const Steps steps = steps_of(work, (depth + Tile::DEPTH - 1) / Tile::DEPTH);
    float sums[Tile::SUMS] = {};
    if (steps.count > 0) {
        const u32 first = steps.first * Tile::DEPTH;
        const Lines lines(work.row + Gradients::My::row(0), Gradients::My::APART, grid.height, grid.width, p.batch,
                          false);
        Gradients a(p.d_output, grid, first, lines);
        WeightColumns<LayoutB, Tile::THREADS, Tile::VECTOR> b(p.weight, p.op, phase.y.last_tap(p.op),
                                                              phase.x.last_tap(p.op), grid, work.col, first);
        Tile::template multiply<LayoutA, true, LayoutB, false>(sums, shared_address(shared), a, b, steps.count);
    }
    u32& flag = *reinterpret_cast<u32*>(shared);
    if (!add_splits<Tile::THREADS>(sums, flag, p.partials, p.counters, work)) return;
    const Results<Tile> results(shared, sums, nullptr, 0);
    const GradientSums columns =
        store_backward_input(results, p, work.col, [&](u32 row) { return phase.pixel(p.op, p.batch, work.row + row); });
    store_gradient_sums(results, p, columns, work.col, row_tile, gridDim.x / across);
}
