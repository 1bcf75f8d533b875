// The epilogues of multistage products. A thread's sums go to shared memory, rounded to the storage type, and come back
// as rows of 16-byte chunks, in whatever layout the instructions left them.
#pragma once

#include "column_sums.cuh"
#include "operands.cuh"
#include "split.cuh"

// A block's tile of results in shared memory.
template <class Tile>
struct Results {
    static constexpr u32 CHUNKS = Tile::COLS / VEC;
    typedef Layout<Tile::ROWS, CHUNKS, false> Stage;
    typedef Share<Stage, Tile::THREADS> My;

    unsigned char* shared;

    // Those that are in shared memory.
    __device__ __forceinline__ explicit Results(unsigned char* shared) : shared(shared) {}

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

// Stored values' distances from `first`, in the thread's chunk: their sums and sums of squares.
struct Distances {
    Lanes<VEC> first, sums, squares;

    __device__ __forceinline__ Distances() : first{}, sums{}, squares{} {}
    // `first` only has to be near the values, for precision; it is of the first row of the tile, stored or not.
    template <class Tile>
    __device__ __forceinline__ explicit Distances(const Results<Tile>& results) : sums{}, squares{} {
        first = results.at(0, Results<Tile>::My::chunk());
        unroll<VEC>([&](u32 lane) { first[lane] = is_finite(first[lane]) ? first[lane] : 0.0f; });
    }
    __device__ __forceinline__ void add(const Lanes<VEC>& values) {
        unroll<VEC>([&](u32 lane) {
            const float distance = values[lane] - first[lane];
            sums[lane] += distance;
            squares[lane] = fmaf(distance, distance, squares[lane]);
        });
    }
};

// output = act(result), at the pixels `pixel_of(row)` of the tile's rows; rows without a pixel have ~0u. The tile starts
// at column `first_col`. With statistics, which exclude an activation, adds the stored values to `distances`.
template <class Tile, class PixelOf>
__device__ __forceinline__ void store_forward(const Results<Tile>& results, const Conv2dForwardParams& p, u32 first_col,
                                              Distances& distances, PixelOf pixel_of) {
    typedef typename Results<Tile>::My My;
    const u32 cols = p.op.out_channels, col = first_col + My::chunk() * VEC;
    const float slope = piecewise_slope(p.slope);
    const bool together = stores_vectors(p.output, cols);
    if (!My::active() || col >= cols) return;
#pragma unroll(Tile::SUMS > 64 ? 1 : 2)
    for (u32 i = 0; i < My::COUNT; ++i) {
        const u32 pixel = pixel_of(My::row(i));
        if (pixel == ~0u) continue;
        Lanes<VEC> lanes = results.at(My::row(i), My::chunk());
        if (p.saved) distances.add(lanes);
        unroll<VEC>([&](u32 lane) { lanes[lane] = activate_piecewise(lanes[lane], slope); });
        store_row(p.output + (u64)pixel * cols, lanes, col, cols, together);
    }
}

// Stores the statistics of a forward pass, of which the block has `count` rows; see sum_tiles.
template <class Tile>
__device__ __forceinline__ void store_statistics(const Results<Tile>& results, const Conv2dForwardParams& p,
                                                 const Distances& distances, u32 count, u32 first_col, u32 tile,
                                                 u32 tiles) {
    const u32 cols = p.op.out_channels;
    const float sum = tile_sum(distances.sums, results), squares = tile_sum(distances.squares, results);
    const float first = tile_sum(distances.first, results, 1);  // All rows of threads have the same.
    Moments own = {{(float)count, sum, squares}};
    own.finish(Moments{{0.0f, first, 0.0f}});
    sum_tiles<Results<Tile>, Tile::THREADS>(
        own, results, ColumnSums{first_col, cols, tile, tiles, p.parts, p.parts_counters},
        [&](u32 col, const Moments& all) {
            p.statistics().store(col, cols, all.each[0], all.each[1], all.each[2] / all.each[0]);
        });
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
#pragma unroll 1
        for (u32 part = 0; part < 4; ++part) {
            const Lanes<VEC> values = results.at(4 * local + part, chunk);
            unroll<VEC>([&](u32 lane) {
                const float value = activate_piecewise(values[lane], slope);
                if (value > best[lane] || value != value) {
                    best[lane] = value;
                    where[lane] = corner + part / 2 * p.op.out_width + part % 2;
                }
            });
        }
        store_row(p.output + (u64)pool * cols, best, col, cols, together);
        if (!p.argmax) continue;
        u32* const to = p.argmax + (u64)pool * cols + col;
        unroll<VEC>([&](u32 lane) {
            if (col + lane < cols) to[lane] = where[lane];
        });
    }
}

// A tensor that an epilogue reads at the places that it stores to. All of a thread's chunks are copied to shared memory
// before it uses the first, in a tile after the results; if there is no room, or rows are no vectors, it reads them when it
// needs them.
template <class Tile>
struct Source {
    typedef Results<Tile> From;

    const real* from;       // May be null.
    unsigned char* staged;  // Null if it is not copied.

    // Takes the next of the tiles that start at `free`, of which `room` are left.
    __device__ __forceinline__ Source(const real* from, unsigned char*& free, u32& room) : from(from), staged(nullptr) {
        if (!from || room == 0) return;
        staged = free, free += From::Stage::BYTES, --room;
    }
    __device__ __forceinline__ void copy(u32 row, u64 at) const {
        if (!staged) return;
        const u32 to = shared_address(staged) + From::Stage::at(row, From::My::chunk());
        copy_async<16>(to, from + at, true);
    }
    // The values from index `at` on, of which `count` are in the row, for the thread's chunk of the tile's row `row`.
    __device__ __forceinline__ Lanes<VEC> read(u32 row, u64 at, u32 count) const {
        if (staged) return From(staged).at(row, From::My::chunk());
        Lanes<VEC> lanes = {};
        unroll<VEC>([&](u32 lane) {
            if (lane < count) lanes[lane] = ::read(from + at + lane);
        });
        return lanes;
    }
};

// As values are stored.
__device__ __forceinline__ Lanes<VEC> rounded(const Lanes<VEC>& lanes) {
    Pack<VEC, real> pack;
    unroll<VEC>([&](u32 lane) { store(&pack.lane[lane], lanes[lane]); });
    return lanes_of(pack);
}

// The terms of the normalisation before an input gradient, for channels `col` to `col` + VEC.
__device__ __forceinline__ Factors<VEC> norm_factors(const Conv2dInputParams& p, u32 col) {
    const u32 cols = p.op.channels;
    Factors<VEC> factors = {};
    if (!p.norm_input) return factors;
    unroll<VEC>([&](u32 lane) {
        const u32 channel = col + lane;
        if (channel >= cols) return;
        factors.mean[lane] = read(p.saved + channel), factors.bias[lane] = read(p.norm_bias + channel);
        factors.scale[lane] = read(p.norm_weight + channel) * read(p.saved + cols + channel);
    });
    return factors;
}

// The sums of a thread's chunk: of the gradient, and of its product with the distance from a normalisation's mean.
struct GradientSums {
    Lanes<VEC> plain, weighted;
};

// d_input = act'(output) · (result + added), at pixels as in store_forward, and sums for bias or normalisation. If
// normalisation without a residual precedes, its activation's derivative is only in the sums.
template <class Tile, class PixelOf>
__device__ __forceinline__ GradientSums store_backward_input(const Results<Tile>& results, const Conv2dInputParams& p,
                                                             u32 first_col, PixelOf pixel_of) {
    typedef typename Results<Tile>::My My;
    const u32 cols = p.op.channels, col = first_col + My::chunk() * VEC;
    GradientSums columns = {};
    if (!My::active() || col >= cols) return columns;
    const bool together = stores_vectors(p.d_input, cols) && stores_vectors(p.output, cols) &&
                          stores_vectors(p.added, cols) && stores_vectors(p.norm_input, cols);
    unsigned char* free = results.shared + Results<Tile>::BYTES;
    u32 room = together ? p.staged : 0;
    const Source<Tile> output(p.output, free, room), added(p.added, free, room), norm_input(p.norm_input, free, room);
    // Without anything to copy, the loop would only find the pixels.
    const u32 copied = output.staged || added.staged || norm_input.staged ? My::COUNT : 0;
#pragma unroll 1
    for (u32 i = 0; i < copied; ++i) {
        const u32 pixel = pixel_of(My::row(i));
        if (pixel == ~0u) continue;
        const u64 at = (u64)pixel * cols + col;
        output.copy(My::row(i), at), added.copy(My::row(i), at), norm_input.copy(My::row(i), at);
    }
    commit_copies();
    const Factors<VEC> factors = norm_factors(p, col);
    wait_copies<0>();  // A thread reads only what it has copied.
#pragma unroll 1
    for (u32 i = 0; i < My::COUNT; ++i) {
        const u32 row = My::row(i), pixel = pixel_of(row);
        if (pixel == ~0u) continue;
        const u64 at = (u64)pixel * cols + col;
        Lanes<VEC> lanes = results.at(row, My::chunk());
        if (p.added) {
            add(lanes, added.read(row, at, cols - col));
            lanes = rounded(lanes);
        }
        if (p.output) {
            const Lanes<VEC> outputs = output.read(row, at, cols - col);
            unroll<VEC>([&](u32 lane) { lanes[lane] = activate_backward(outputs[lane], lanes[lane], p.slope); });
        }
        store_row(p.d_input + at - col, lanes, col, cols, together);
        if (p.norm_input) {
            const Lanes<VEC> inputs = norm_input.read(row, at, cols - col);
            unroll<VEC>([&](u32 lane) {
                if (!p.output) {
                    const float sign = factors.normalised(inputs[lane], lane);
                    lanes[lane] = activate_backward_piecewise(sign, lanes[lane], p.slope);
                }
                columns.weighted[lane] += lanes[lane] * (inputs[lane] - factors.mean[lane]);
            });
        }
        add(columns.plain, lanes);
    }
    return columns;
}

// Stores the sums of an input gradient; see sum_tiles.
template <class Tile>
__device__ __forceinline__ void store_gradient_sums(const Results<Tile>& results, const Conv2dInputParams& p,
                                                    const GradientSums& columns, u32 first_col, u32 tile, u32 tiles) {
    if (!p.d_bias) return;
    const u32 cols = p.op.channels;
    Sums<2> sums = {};
    sums.each[0] = tile_sum(columns.plain, results);
    if (p.d_weight) sums.each[1] = tile_sum(columns.weighted, results);
    sum_tiles<Results<Tile>, Tile::THREADS>(sums, results,
                                            ColumnSums{first_col, cols, tile, tiles, p.parts, p.parts_counters},
                                            [&](u32 col, const Sums<2>& all) {
                                                p.d_bias[col] = all.each[0];
                                                if (p.d_weight)
                                                    p.d_weight[col] = all.each[1] * read(p.saved + cols + col);
                                            });
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
