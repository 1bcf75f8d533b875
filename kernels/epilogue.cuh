// The epilogues of multistage products. A thread's sums go to shared memory, rounded to the storage type, and come back
// as rows of 16-byte chunks, in whatever layout the instructions left them.
#pragma once

#include "split.cuh"
#include "operands.cuh"

// A block's tile of results in shared memory.
template <class Tile>
struct Results {
    static constexpr u32 CHUNKS = Tile::COLS / VEC;
    typedef Layout<Tile::ROWS, CHUNKS, false> Stage;
    typedef Share<Stage, Tile::THREADS> My;

    unsigned char* shared;

    // Stores sums + bias; `bias` may be null, and there are `cols` columns from the tile's first.
    __device__ __forceinline__ Results(unsigned char* shared, const float (&sums)[Tile::SUMS], const float* bias,
                                       u32 cols)
        : shared(shared) {
        __syncthreads();  // The stages were read until now.
        unroll<Tile::ACROSS>([&](u32 j) {
            const u32 col = Tile::col(j);
            const float left = bias && col < cols ? read(bias + col) : -0.0f;  // Adding −0 changes no value.
            const float right = bias && col + 1 < cols ? read(bias + col + 1) : -0.0f;
            unroll<Tile::DOWN * 2>([&](u32 i) {
                const float* const pair = sums + (i / 2 * Tile::ACROSS + j) * 4 + i % 2 * 2;
                const u32 at = Stage::at(Tile::row(i / 2, i % 2), col / VEC);
                real* const to = reinterpret_cast<real*>(shared + at) + col % VEC;
                store_lanes(to, Lanes<2>{pair[0] + left, pair[1] + right});
            });
        });
        __syncthreads();
    }

    // Applies tanh to all results, once, because its code is long.
    __device__ __forceinline__ void apply_tanh() {
        real* const results = reinterpret_cast<real*>(shared);
#pragma unroll 1
        for (u32 i = threadIdx.x; i < Tile::ROWS * Tile::COLS; i += Tile::THREADS) {
            store(results + i, tanhf(load(results[i])));
        }
        __syncthreads();
    }

    __device__ __forceinline__ Lanes<VEC> at(u32 row, u32 chunk) const {
        return load_lanes<VEC>(reinterpret_cast<const real*>(shared + Stage::at(row, chunk)));
    }

    // Shared memory after the tile.
    __device__ __forceinline__ float* rest() const { return reinterpret_cast<float*>(shared + Stage::BYTES); }
    // Bytes that all of this takes: the tile, and a sum per column for each row of threads.
    static constexpr u32 BYTES = Stage::BYTES + My::APART * Tile::COLS * 4;
};

// The slope of what `apply_tanh` leaves of an activation: nothing of tanh.
__device__ __forceinline__ float piecewise_slope(float slope) { return slope < 0.0f ? 1.0f : slope; }

// Stores lanes `first` to `first` + VEC of a row at `to`; those below `count` if not `together`.
template <class T>
__device__ __forceinline__ void store_row(T* to, const Lanes<VEC>& lanes, u32 first, u32 count, bool together) {
    if (together) return store_lanes(to + first, lanes);
    unroll<VEC>([&](u32 i) {
        if (first + i < count) store(to + first + i, lanes[i]);
    });
}

// Whether rows of `cols` values at `to` may be stored in vectors of 16 bytes.
__device__ __forceinline__ bool stores_vectors(const real* to, u32 cols) {
    return cols % VEC == 0 && (u64)to % 16 == 0;
}

// output = act(result), at the pixels `pixel_of(row)` of the tile's rows; rows without a pixel have ~0u. The tile starts
// at column `first_col`.
template <class Tile, class PixelOf>
__device__ __forceinline__ void store_forward(const Results<Tile>& results, const Conv2dForwardParams& p, u32 first_col,
                                              PixelOf pixel_of) {
    typedef typename Results<Tile>::My My;
    const u32 cols = p.op.out_channels, col = first_col + My::chunk() * VEC;
    const float slope = piecewise_slope(p.slope);
    const bool together = stores_vectors(p.output, cols);
    if (!My::active() || col >= cols) return;
#pragma unroll 2
    for (u32 i = 0; i < My::COUNT; ++i) {
        const u32 pixel = pixel_of(My::row(i));
        if (pixel == ~0u) continue;
        Lanes<VEC> lanes = results.at(My::row(i), My::chunk());
        unroll<VEC>([&](u32 lane) { lanes[lane] = activate_piecewise(lanes[lane], slope); });
        store_row(p.output + (u64)pixel * cols, lanes, col, cols, together);
    }
}

// output = the maximum of act(result) over each 2×2 window, which are four consecutive rows; `argmax` receives
// y·width + x of the first maximum in scan order. A NaN counts as the maximum.
template <class Tile>
__device__ __forceinline__ void store_pooled(const Results<Tile>& results, const Conv2dForwardParams& p,
                                             const Work& work, u32 pools) {
    const u32 cols = p.op.out_channels;
    const float slope = piecewise_slope(p.slope);
    const bool together = stores_vectors(p.output, cols);
#pragma unroll 1
    for (u32 i = threadIdx.x; i < Tile::ROWS / 4 * Results<Tile>::CHUNKS; i += Tile::THREADS) {
        const u32 chunk = i % Results<Tile>::CHUNKS, local = i / Results<Tile>::CHUNKS;
        const u32 pool = work.row / 4 + local, col = work.col + chunk * VEC;
        if (pool >= pools || col >= cols) continue;
        const Digits at = digits_of(pool, Radix{p.op.out_width / 2, p.op.out_height / 2});
        const u32 corner = 2 * (at.mid * p.op.out_width + at.low);
        Lanes<VEC> best;
        u32 where[VEC];
        unroll<VEC>([&](u32 lane) { best[lane] = __int_as_float(0xff800000), where[lane] = corner; });  // −∞
        unroll<4>([&](u32 part) {
            const Lanes<VEC> values = results.at(4 * local + part, chunk);
            unroll<VEC>([&](u32 lane) {
                const float value = activate_piecewise(values[lane], slope);
                if (value > best[lane] || value != value) {
                    best[lane] = value;
                    where[lane] = corner + part / 2 * p.op.out_width + part % 2;
                }
            });
        });
        store_row(p.output + (u64)pool * cols, best, col, cols, together);
        if (!p.argmax) continue;
        u32* const to = p.argmax + (u64)pool * cols + col;
        unroll<VEC>([&](u32 lane) {
            if (col + lane < cols) to[lane] = where[lane];
        });
    }
}

// Tiles whose column sums are added first, if there are more than 2 · SUM_GROUP.
constexpr u32 SUM_GROUP = 32;

// The sum of one column of parts `first`, `first` + `step`, ... below `end`, of [parts][cols], in this order, in each of
// the first COLS threads. Several threads share a column, and their sums are added in thread order.
template <class Tile>
__device__ __forceinline__ float sum_parts(const float* parts, u32 cols, u32 first, u32 end, u32 step, bool inside,
                                           float* scratch) {
    constexpr u32 SHARES = Tile::THREADS / Tile::COLS > 0 ? Tile::THREADS / Tile::COLS : 1;
    static_assert(Tile::THREADS >= Tile::COLS, "a thread sums at most one column");
    float sum = 0.0f;
    if (inside) {
#pragma unroll 8
        for (u32 part = first + threadIdx.x / Tile::COLS * step; part < end; part += SHARES * step) {
            sum += parts[(u64)part * cols];
        }
    }
    __syncthreads();
    scratch[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < Tile::COLS) {
        for (u32 share = 1; share < SHARES; ++share) sum += scratch[share * Tile::COLS + threadIdx.x];
    }
    return sum;
}

// to[col] = the sum over all rows of column `col`, of which each thread has the sums of its rows and chunk: first within
// each tile, then over the `tiles` along the rows in order, in two levels if there are many. For each tile, exactly one
// block calls this; its tile is the `tile`-th along the rows. `parts` is [tiles][cols]; `counters` has one counter per
// tile along the columns, then one per group.
template <class Tile>
__device__ __forceinline__ void sum_columns(const Lanes<VEC>& columns, const Results<Tile>& results, u32 first_col,
                                            u32 tile, u32 tiles, u32 cols, float* parts, u32* counters, float* to) {
    typedef typename Results<Tile>::My My;
    float* const scratch = results.rest();
    u32& flag = *reinterpret_cast<u32*>(results.shared);
    const u32 across = (cols + Tile::COLS - 1) / Tile::COLS, of_column = first_col / Tile::COLS;
    const u32 thread_col = threadIdx.x % Tile::COLS;
    const bool inside = first_col + thread_col < cols, first = threadIdx.x < Tile::COLS && inside;
    if (threadIdx.x / Results<Tile>::CHUNKS < My::APART) {
        unroll<VEC>([&](u32 lane) {
            scratch[threadIdx.x / Results<Tile>::CHUNKS * Tile::COLS + My::chunk() * VEC + lane] = columns[lane];
        });
    }
    __syncthreads();
    parts += first_col + thread_col;
    if (first) {
        float sum = scratch[thread_col];
        for (u32 row = 1; row < My::APART; ++row) sum += scratch[row * Tile::COLS + thread_col];
        parts[(u64)tile * cols] = sum;
    }
    const bool grouped = tiles > 2 * SUM_GROUP;
    if (grouped) {
        const u32 groups = (tiles + SUM_GROUP - 1) / SUM_GROUP, begin = tile / SUM_GROUP * SUM_GROUP;
        const u32 end = min(begin + SUM_GROUP, tiles);
        if (!is_last_block(counters + across + of_column * groups + tile / SUM_GROUP, end - begin, flag)) return;
        const float sum = sum_parts<Tile>(parts, cols, begin, end, 1, inside, scratch);
        if (first) parts[(u64)begin * cols] = sum;
        if (!is_last_block(counters + of_column, groups, flag)) return;
    } else if (!is_last_block(counters + of_column, tiles, flag)) {
        return;
    }
    const float sum = sum_parts<Tile>(parts, cols, 0, tiles, grouped ? SUM_GROUP : 1, inside, scratch);
    if (first) to[first_col + thread_col] = sum;
}

// d_input = act'(output) · result, at pixels as in store_forward. Returns the thread's sums of its chunk's columns.
template <class Tile, class PixelOf>
__device__ __forceinline__ Lanes<VEC> store_backward_input(const Results<Tile>& results, const Conv2dInputParams& p,
                                                           u32 first_col, PixelOf pixel_of) {
    typedef typename Results<Tile>::My My;
    const u32 cols = p.op.channels, col = first_col + My::chunk() * VEC;
    const bool together = stores_vectors(p.d_input, cols);
    const bool reads_together = p.output && stores_vectors(p.output, cols);
    Lanes<VEC> columns = {};
    if (!My::active() || col >= cols) return columns;
#pragma unroll 2
    for (u32 i = 0; i < My::COUNT; ++i) {
        const u32 pixel = pixel_of(My::row(i));
        if (pixel == ~0u) continue;
        Lanes<VEC> lanes = results.at(My::row(i), My::chunk());
        if (p.output) {
            const real* const output = p.output + (u64)pixel * cols + col;
            Lanes<VEC> outputs = {};
            if (reads_together) {
                outputs = read_lanes<VEC>(output);
            } else {
                unroll<VEC>([&](u32 lane) { outputs[lane] = col + lane < cols ? read(output + lane) : 0.0f; });
            }
            unroll<VEC>([&](u32 lane) { lanes[lane] = activate_backward(outputs[lane], lanes[lane], p.slope); });
        }
        store_row(p.d_input + (u64)pixel * cols, lanes, col, cols, together);
        unroll<VEC>([&](u32 lane) { columns[lane] += lanes[lane]; });
    }
    return columns;
}

// to[row][col] = sum, for the product [rows][cols], directly from the accumulators.
template <class Tile>
__device__ __forceinline__ void store_floats(float* to, const float (&sums)[Tile::SUMS], const Work& work, u32 rows,
                                             u32 cols) {
    const bool together = cols % 2 == 0 && (u64)to % 8 == 0;
    unroll<Tile::DOWN * 2>([&](u32 i) {
        const u32 row = work.row + Tile::row(i / 2, i % 2);
        if (row >= rows) return;
        unroll<Tile::ACROSS>([&](u32 j) {
            const u32 col = work.col + Tile::col(j);
            const float* const pair = sums + (i / 2 * Tile::ACROSS + j) * 4 + i % 2 * 2;
            float* const at = to + (u64)row * cols + col;
            if (together && col < cols) {
                store_lanes(at, Lanes<2>{pair[0], pair[1]});
            } else {
                if (col < cols) at[0] = pair[0];
                if (col + 1 < cols) at[1] = pair[1];
            }
        });
    });
}
