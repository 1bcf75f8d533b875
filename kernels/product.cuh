// The GEMM mainloop of a block's tile, with fused multiply-adds or on tensor cores, and its epilogue. If there are too
// few tiles to fill a device, the product is split along the inner dimension (split-K) and the parts are added in a
// fixed order.
#pragma once

#include "split.cuh"
#include "tile.cuh"

// An engine multiplies tiles in shared memory. sums[e] accumulates element (row_of(e), col_of(e)) of the warp's part of
// the tile; elements 2i and 2i + 1 are adjacent in a row. A thread's accumulators cover four rows and four columns:
// sums[at(r, c)] is in the thread's r-th row and c-th column. The warp's rows form eight groups of four, one group per
// thread: with s = window_slot_of(r), row r of the warp is row s / 8 of group s % 8. Pooling makes each group one 2×2
// window.

// fp32 fused multiply-adds with k ascending.
struct Fma {
    static __device__ __forceinline__ u32 row_of(u32 e) { return threadIdx.x % WARP / 4 * 4 + e / 4; }
    static __device__ __forceinline__ u32 col_of(u32 e) { return threadIdx.x % 4 * 4 + e % 4; }
    static __device__ __forceinline__ u32 first_col() { return col_of(0); }
    static __device__ __forceinline__ u32 at(u32 row, u32 col) { return 4 * row + col; }
    static __device__ __forceinline__ u32 window_slot_of(u32 row) { return row % 4 * 8 + row / 4; }

    // Reads four consecutive lines starting at `first`, word by word.
    template <u32 WIDTH>
    struct Lines {
        const u32* at[4];
        __device__ __forceinline__ Lines(const u32* cells, u32 first) {
            unroll<4>([&](u32 i) { at[i] = cells + (first ^ i << 3); });
        }
        __device__ __forceinline__ uint4 word(u32 word, u32 offset) const {
            return *reinterpret_cast<const uint4*>(at[swizzle<WIDTH>(word)] + word * WIDTH + offset);
        }
    };

    template <u32 ROWS, u32 COLS>
    static __device__ __forceinline__ void multiply(float (&sums)[SUMS], const Lines<ROWS>& a, const Lines<COLS>& b,
                                                    u32 offset) {
#pragma unroll
        for (u32 word = 0; word < DEPTH; ++word) {
            const uint4 x = a.word(word, offset), y = b.word(word, offset);
            const u32 left[4] = {x.x, x.y, x.z, x.w}, right[4] = {y.x, y.y, y.z, y.w};
            unroll<SUMS>(
                [&](u32 e) { sums[e] = fmaf(__uint_as_float(left[e / 4]), __uint_as_float(right[e % 4]), sums[e]); });
        }
    }
};

// Tensor cores of compute_75, for halves. A warp's part is 2 × 2 tiles of 16 × 8.
struct TensorCores {
    static __device__ __forceinline__ u32 row_of(u32 e) { return e / 8 * 16 + threadIdx.x % WARP / 4 + e % 4 / 2 * 8; }
    static __device__ __forceinline__ u32 col_of(u32 e) { return e / 4 % 2 * 8 + threadIdx.x % 4 * 2 + e % 2; }
    // The columns of B that a thread reads are not the columns that it accumulates.
    static __device__ __forceinline__ u32 first_col() { return threadIdx.x % WARP / 4; }
    static __device__ __forceinline__ u32 at(u32 row, u32 col) {
        return row / 2 * 8 + col / 2 * 4 + row % 2 * 2 + col % 2;
    }
    static __device__ __forceinline__ u32 window_slot_of(u32 row) { return row; }

    // Reads every fourth word of lines `first`, `first` + 8, `first` + 16 and `first` + 24.
    template <u32 WIDTH>
    struct Lines {
        const u32* at[4];
        __device__ __forceinline__ Lines(const u32* cells, u32 first) {
            const u32 t = threadIdx.x % 4;
            unroll<4>([&](u32 i) { at[i] = cells + t * WIDTH + (first ^ (i ^ swizzle<WIDTH>(t)) << 3); });
        }
        // Word `word` + t of line `first` + 8 · eighth.
        __device__ __forceinline__ u32 word(u32 word, u32 eighth, u32 offset) const {
            return at[eighth ^ swizzle<WIDTH>(word)][word * WIDTH + offset];
        }
    };

    template <u32 ROWS, u32 COLS>
    static __device__ __forceinline__ void multiply(float (&sums)[SUMS], const Lines<ROWS>& a, const Lines<COLS>& b,
                                                    u32 offset) {
        // Lanes may have diverged during the fetch; mma.sync requires them to be converged.
        __syncwarp();
#pragma unroll
        for (u32 word = 0; word < DEPTH; word += 4) {
            u32 left[4], right[2];
            unroll<4>([&](u32 i) { left[i] = a.word(word, i, offset); });
            unroll<2>([&](u32 i) { right[i] = b.word(word, i, offset); });
            mma<MMA_F16_K8, 2, 2>(sums, left, right);
        }
    }
};

// Double buffering: one tile of A and B is multiplied from one buffer while the next is loaded into the other.
template <class Engine, class TileShape, class A, class B>
struct Pipeline {
    static constexpr u32 ROWS = TileShape::ROWS, COLS = TileShape::COLS, BUFFER = DEPTH * (ROWS + COLS);

    const A& a;
    const B& b;
    const Digits step_a, step_b;
    Loader<A, TileShape::VECTOR, ROWS> left;
    Loader<B, TileShape::VECTOR, COLS> right;
    const typename Engine::template Lines<ROWS> rows;
    const typename Engine::template Lines<COLS> cols;

    // `row` and `col` are the thread's first row and column within the tile.
    __device__ __forceinline__ Pipeline(u32* cells, const A& a, const B& b, u32 row, u32 col)
        : a(a),
          b(b),
          step_a(digits_of(TILE_K, a.radix)),
          step_b(digits_of(TILE_K, b.radix)),
          rows(cells, row),
          cols(cells + DEPTH * ROWS, col) {}

    __device__ __forceinline__ void fetch() { left.fetch(a, step_a), right.fetch(b, step_b); }

    __device__ __forceinline__ void store_shared(u32 offset) const {
        left.store_shared(offset), right.store_shared(offset);
        __syncthreads();
    }

    // Multiplies the tile in buffer FROM; `more` says whether another tile follows.
    template <u32 FROM>
    __device__ __forceinline__ void step(float (&sums)[SUMS], bool more) {
        if (more) fetch();
        Engine::template multiply<ROWS, COLS>(sums, rows, cols, FROM * BUFFER);
        if (more) store_shared((1 - FROM) * BUFFER);
    }
};

// sums += the block's part of A · B. `cells` is shared memory for two tiles of each operand.
template <class Engine, class TileShape, class A, class B>
__device__ __forceinline__ void multiply_tiles(float (&sums)[SUMS], u32* cells, const A& a, const B& b,
                                               const Work& work) {
    const Steps steps = steps_of(work, (a.depth + TILE_K - 1) / TILE_K);
    if (steps.count == 0) return;
    const u32 warp = threadIdx.x / WARP, warps_across = TileShape::COLS / WARP_COLS;
    const u32 row = warp / warps_across * WARP_ROWS, col = warp % warps_across * WARP_COLS;
    Pipeline<Engine, TileShape, A, B> pipeline(cells, a, b, row + Engine::row_of(0), col + Engine::first_col());
    pipeline.left.begin(a, cells, work.row, steps.first * TILE_K);
    pipeline.right.begin(b, cells + DEPTH * TileShape::ROWS, work.col, steps.first * TILE_K);
    pipeline.fetch();
    pipeline.store_shared(0);
    // Two tiles per iteration, so that the buffers' offsets are constants.
    for (u32 tile = 0; tile < steps.count; tile += 2) {
        pipeline.template step<0>(sums, tile + 1 < steps.count);
        if (tile + 1 < steps.count) pipeline.template step<1>(sums, tile + 2 < steps.count);
    }
    __syncthreads();
}

// The row and column of a thread's sum in the product, which may be outside it.
template <class Engine, class TileShape>
__device__ __forceinline__ u32 row_in(const Work& work, u32 e) {
    return work.row + threadIdx.x / WARP / (TileShape::COLS / WARP_COLS) * WARP_ROWS + Engine::row_of(e);
}
template <class Engine, class TileShape>
__device__ __forceinline__ u32 col_in(const Work& work, u32 e) {
    return work.col + threadIdx.x / WARP % (TileShape::COLS / WARP_COLS) * WARP_COLS + Engine::col_of(e);
}

// sums[col] = the sum of column `col` over all rows of the product [rows][cols]: first within each tile, then over the
// tiles in order. `columns` is the thread's sums of its four columns. For each tile, exactly one block calls this.
// `parts` is [tiles along the rows][cols].
template <class Engine, class TileShape>
__device__ __forceinline__ void sum_columns(Lanes<4> columns, u32* cells, const Work& work, u32 rows, u32 cols,
                                            float* parts, u32* counters, float* sums) {
    constexpr u32 ACROSS = TileShape::COLS / WARP_COLS;
    float* const cell_sums = reinterpret_cast<float*>(cells);
    const u32 warp = threadIdx.x / WARP, col = threadIdx.x % TileShape::COLS;
    const u32 tile_rows = (rows + TileShape::ROWS - 1) / TileShape::ROWS;
    const bool inside = work.col + col < cols, first = threadIdx.x < TileShape::COLS && inside;
    parts += work.col;
    __syncthreads();
    unroll<4>([&](u32 i) {
        // Lanes whose indices differ by a multiple of four have the same columns.
        unroll<3>([&](u32 doubling) { columns[i] += __shfl_xor_sync(ALL_LANES, columns[i], 4 << doubling); });
        const u32 cell = warp / ACROSS * TileShape::COLS + warp % ACROSS * WARP_COLS + Engine::col_of(Engine::at(0, i));
        if (threadIdx.x % WARP < 4) cell_sums[cell] = columns[i];
    });
    __syncthreads();
    if (first) {
        const float sum = sum_of_rows(cell_sums, TileShape::ROWS / WARP_ROWS, TileShape::COLS, col);
        parts[(u64)(work.row / TileShape::ROWS) * cols + col] = sum;
    }
    if (!is_last_block(counters + work.col / TileShape::COLS, tile_rows, cells[0])) return;
    const float sum = column_sum(parts, tile_rows, cols, TileShape::COLS, inside, cell_sums);
    if (first) sums[work.col + col] = sum;
}

// to[row][col] = finish(sum, row · cols + col, col) for the product [rows][cols]. `finish` is also called for columns
// beyond the last. Sums beyond the last row are set to zero. Two elements are stored at once if their addresses are
// aligned.
template <class Engine, class TileShape, class T, class Finish>
__device__ __forceinline__ void store_sums(T* to, float (&sums)[SUMS], const Work& work, u32 rows, u32 cols,
                                           Finish finish) {
    const bool together = cols % 2 == 0 && (u64)to % (2 * sizeof(T)) == 0;
    unroll<SUMS / 2>([&](u32 pair) {
        float &left = sums[2 * pair], &right = sums[2 * pair + 1];
        const u32 row = row_in<Engine, TileShape>(work, 2 * pair), col = col_in<Engine, TileShape>(work, 2 * pair);
        if (row >= rows) {
            left = right = 0.0f;
            return;
        }
        const u64 at = (u64)row * cols + col;
        left = finish(left, at, col), right = finish(right, at + 1, col + 1);
        if (together && col < cols) {
            store_lanes(to + at, Lanes<2>{left, right});
        } else {
            if (col < cols) store(to + at, left);
            if (col + 1 < cols) store(to + at + 1, right);
        }
    });
}
