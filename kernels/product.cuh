// The product of a block's tile: by fused multiply-adds or on tensor cores, split along the inner dimension where there
// are too few tiles for a device, and added up in a fixed order.
#pragma once

#include "reduce.cuh"
#include "tile.cuh"

// An engine multiplies the tiles in shared memory: sums[e] is the element (row_of(e), col_of(e)) of its warp's part.
// Elements 2i and 2i + 1 are neighbours in a row. A thread's sums are of four rows in four columns: sums[at(r, c)] is in
// its row number r and column number c. Row r of its warp is place_of(r) % 8 of eight groups of four rows, and number
// place_of(r) / 8 in it; a thread's four rows are a group.

// fp32, one fused multiply-add after the other, k ascending.
struct Fma {
    static __device__ __forceinline__ u32 rounded(u32 bits) { return bits; }
    static __device__ __forceinline__ u32 row_of(u32 e) { return threadIdx.x % WARP / 4 * 4 + e / 4; }
    static __device__ __forceinline__ u32 col_of(u32 e) { return threadIdx.x % 4 * 4 + e % 4; }
    static __device__ __forceinline__ u32 first_col() { return col_of(0); }
    static __device__ __forceinline__ u32 at(u32 row, u32 col) { return 4 * row + col; }
    static __device__ __forceinline__ u32 place_of(u32 row) { return row % 4 * 8 + row / 4; }

    // Four lines from `first` on, word by word.
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
            unroll<SUMS>([&](u32 e) {
                sums[e] = fmaf(__uint_as_float(left[e / 4]), __uint_as_float(right[e % 4]), sums[e]);
            });
        }
    }
};

// Tensor cores: two tiles of 16 rows by two of 8 columns.
template <Mma KIND>
struct TensorCores {
    static constexpr u32 GROUPS = mma_groups(KIND);

    static __device__ __forceinline__ u32 rounded(u32 bits) { return KIND == MMA_TF32_K8 ? round_to_tf32(bits) : bits; }
    static __device__ __forceinline__ u32 row_of(u32 e) {
        return e / 8 * 16 + threadIdx.x % WARP / 4 + e % 4 / 2 * 8;
    }
    static __device__ __forceinline__ u32 col_of(u32 e) { return e / 4 % 2 * 8 + threadIdx.x % 4 * 2 + e % 2; }
    // Of the second operand, a thread reads the columns of another.
    static __device__ __forceinline__ u32 first_col() { return threadIdx.x % WARP / 4; }
    static __device__ __forceinline__ u32 at(u32 row, u32 col) {
        return row / 2 * 8 + col / 2 * 4 + row % 2 * 2 + col % 2;
    }
    static __device__ __forceinline__ u32 place_of(u32 row) { return row; }

    // The lines `first`, `first` + 8 and so on: of each, every fourth word.
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
        // Fetching may have led the lanes apart; a product wants them together.
        __syncwarp();
#pragma unroll
        for (u32 word = 0; word < DEPTH; word += 4 * GROUPS) {
            u32 left[4 * GROUPS], right[2 * GROUPS];
            unroll<4 * GROUPS>([&](u32 i) {
                const u32 tile = i / (2 * GROUPS), group = i / 2 % GROUPS;
                left[i] = a.word(word + 4 * group, tile * 2 + i % 2, offset);
            });
            unroll<2 * GROUPS>([&](u32 i) { right[i] = b.word(word + 4 * (i % GROUPS), i / GROUPS, offset); });
            mma<KIND, 2, 2>(sums, left, right);
        }
    }
};

// What a block works on.
struct Work {
    u32 row, col;                     // Of the product, where its tile begins.
    u32 tile;                         // Its number.
    u32 split, splits, tiles_of_split;  // Its part of the inner dimension, in tiles of TILE_K.
};

template <class Shape>
__device__ __forceinline__ Work work_of_block(u32 cols, u32 depth) {
    const u32 across = (cols + Shape::COLS - 1) / Shape::COLS;
    const u32 tiles_of_split = ((depth + TILE_K - 1) / TILE_K + gridDim.y - 1) / gridDim.y;
    return Work{blockIdx.x / across * Shape::ROWS, blockIdx.x % across * Shape::COLS, blockIdx.x, blockIdx.y, gridDim.y,
                tiles_of_split};
}

// Tiles of A and B on their way: one is multiplied, from one of two buffers, while the next comes into the other.
template <class Engine, class Shape, class A, class B>
struct Pipeline {
    static constexpr u32 ROWS = Shape::ROWS, COLS = Shape::COLS, BUFFER = DEPTH * (ROWS + COLS);

    const A& a;
    const B& b;
    const Digits step_a, step_b;
    Loader<A, Shape::VECTOR, ROWS> left;
    Loader<B, Shape::VECTOR, COLS> right;
    const typename Engine::template Lines<ROWS> rows;
    const typename Engine::template Lines<COLS> cols;

    // `row` and `col` are the thread's first within the tile.
    __device__ __forceinline__ Pipeline(u32* cells, const A& a, const B& b, u32 row, u32 col)
        : a(a),
          b(b),
          step_a(digits_of(TILE_K, a.radix)),
          step_b(digits_of(TILE_K, b.radix)),
          rows(cells, row),
          cols(cells + DEPTH * ROWS, col) {}

    __device__ __forceinline__ void fetch() { left.fetch(a, step_a), right.fetch(b, step_b); }

    __device__ __forceinline__ void keep(u32 offset) const {
        left.template keep<Engine>(offset), right.template keep<Engine>(offset);
        __syncthreads();
    }

    // Multiplies the tile in buffer FROM; `more` says that another comes.
    template <u32 FROM>
    __device__ __forceinline__ void step(float (&sums)[SUMS], bool more) {
        if (more) fetch();
        Engine::template multiply<ROWS, COLS>(sums, rows, cols, FROM * BUFFER);
        if (more) keep((1 - FROM) * BUFFER);
    }
};

// sums += the block's part of A · B. `cells` is shared memory for two tiles of each.
template <class Engine, class Shape, class A, class B>
__device__ __forceinline__ void multiply_tiles(float (&sums)[SUMS], u32* cells, const A& a, const B& b,
                                               const Work& work) {
    const u32 all = (a.depth + TILE_K - 1) / TILE_K, first = work.split * work.tiles_of_split;
    const u32 count = first < all ? min(work.tiles_of_split, all - first) : 0;
    if (count == 0) return;
    const u32 warp = threadIdx.x / WARP, warps_across = Shape::COLS / WARP_COLS;
    const u32 row = warp / warps_across * WARP_ROWS, col = warp % warps_across * WARP_COLS;
    Pipeline<Engine, Shape, A, B> pipeline(cells, a, b, row + Engine::row_of(0), col + Engine::first_col());
    pipeline.left.begin(a, cells, work.row, first * TILE_K);
    pipeline.right.begin(b, cells + DEPTH * Shape::ROWS, work.col, first * TILE_K);
    pipeline.fetch();
    pipeline.keep(0);
    // Two at a time, so that the buffers' places are constants.
    for (u32 tile = 0; tile < count; tile += 2) {
        pipeline.template step<0>(sums, tile + 1 < count);
        if (tile + 1 < count) pipeline.template step<1>(sums, tile + 2 < count);
    }
    __syncthreads();
}

// Parts that a block adds up where there are many: groups of so many, then the sums of the groups.
constexpr u32 GROUP = 8;

// Of a tile's parts, a thread's sums in part number `part`.
__device__ __forceinline__ void keep_part(float* parts, u32 part, const float (&sums)[SUMS]) {
    unroll<SUMS>([&](u32 e) { parts[(part * SUMS + e) * BLOCK] = sums[e]; });
}

// sums = the parts `first`, `first` + `step` and so on, below `end`, in this order.
__device__ __forceinline__ void add_parts(float (&sums)[SUMS], const float* parts, u32 first, u32 end, u32 step) {
    unroll<SUMS>([&](u32 e) { sums[e] = 0.0f; });
    // Their loads wait for each other only as far as is unrolled.
#pragma unroll 2
    for (u32 part = first; part < end; part += step) {
        unroll<SUMS>([&](u32 e) { sums[e] += parts[(part * SUMS + e) * BLOCK]; });
    }
}

// Adds the parts of a tile that was split, in their order; true in the block that has the sum, the last to be done.
// `counters` is zero before and after: one for every tile, then those of the groups.
__device__ __forceinline__ bool add_splits(float (&sums)[SUMS], u32* cells, float* partials, u32* counters,
                                           const Work& work) {
    if (work.splits == 1) return true;
    float* const parts = partials + (u64)work.tile * work.splits * SUMS * BLOCK + threadIdx.x;
    keep_part(parts, work.split, sums);
    if (work.splits <= 2 * GROUP) {
        if (!arrives_last(counters + work.tile, work.splits, cells[0])) return false;
        add_parts(sums, parts, 0, work.splits, 1);
        return true;
    }
    const u32 groups = (work.splits + GROUP - 1) / GROUP, group = work.split / GROUP;
    const u32 first = group * GROUP, end = min(first + GROUP, work.splits);
    if (!arrives_last(counters + gridDim.x + work.tile * groups + group, end - first, cells[0])) return false;
    add_parts(sums, parts, first, end, 1);
    keep_part(parts, first, sums);
    if (!arrives_last(counters + work.tile, groups, cells[0])) return false;
    add_parts(sums, parts, 0, work.splits, GROUP);
    return true;
}

// Where a thread's sum lies in the product; it may be beyond the edge.
template <class Engine, class Shape>
__device__ __forceinline__ u32 row_in(const Work& work, u32 e) {
    return work.row + threadIdx.x / WARP / (Shape::COLS / WARP_COLS) * WARP_ROWS + Engine::row_of(e);
}
template <class Engine, class Shape>
__device__ __forceinline__ u32 col_in(const Work& work, u32 e) {
    return work.col + threadIdx.x / WARP % (Shape::COLS / WARP_COLS) * WARP_COLS + Engine::col_of(e);
}

// sums[column] = the sum of a thread's columns over all rows of the product [rows][cols], for every tile of which one
// block comes here: tiles, then their sums, in order. `parts` has [tiles of rows][cols].
template <class Engine, class Shape>
__device__ __forceinline__ void sum_columns(Lanes<4> columns, u32* cells, const Work& work, u32 rows, u32 cols,
                                            float* parts, u32* counters, float* sums) {
    constexpr u32 ACROSS = Shape::COLS / WARP_COLS;
    float* const cell_sums = reinterpret_cast<float*>(cells);
    const u32 warp = threadIdx.x / WARP, col = threadIdx.x % Shape::COLS;
    const u32 tile_rows = (rows + Shape::ROWS - 1) / Shape::ROWS;
    const bool inside = work.col + col < cols, first = threadIdx.x < Shape::COLS && inside;
    parts += work.col;
    __syncthreads();
    unroll<4>([&](u32 i) {
        // Lanes that are four apart have the same columns.
        unroll<3>([&](u32 doubling) { columns[i] += __shfl_xor_sync(ALL_LANES, columns[i], 4 << doubling); });
        const u32 place = warp / ACROSS * Shape::COLS + warp % ACROSS * WARP_COLS + Engine::col_of(Engine::at(0, i));
        if (threadIdx.x % WARP < 4) cell_sums[place] = columns[i];
    });
    __syncthreads();
    if (first) {
        const float sum = sum_of_rows(cell_sums, Shape::ROWS / WARP_ROWS, Shape::COLS, col);
        parts[(u64)(work.row / Shape::ROWS) * cols + col] = sum;
    }
    if (!arrives_last(counters + work.col / Shape::COLS, tile_rows, cells[0])) return;
    const float sum = column_sum(parts, tile_rows, cols, Shape::COLS, inside, cell_sums);
    if (first) sums[work.col + col] = sum;
}

// to[row][col] = finish(sum, row · cols + col, col) of the product [rows][cols]; `finish` is asked for columns beyond the last, too.
// What is beyond the rows becomes zero. Pairs are written at once where their addresses allow it.
template <class Engine, class Shape, class T, class Finish>
__device__ __forceinline__ void store_sums(T* to, float (&sums)[SUMS], const Work& work, u32 rows, u32 cols,
                                           Finish finish) {
    const bool together = cols % 2 == 0 && (u64)to % (2 * sizeof(T)) == 0;
    unroll<SUMS / 2>([&](u32 pair) {
        float &left = sums[2 * pair], &right = sums[2 * pair + 1];
        const u32 row = row_in<Engine, Shape>(work, 2 * pair), col = col_in<Engine, Shape>(work, 2 * pair);
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
