// Convolutions of few input channels, such as a network's first layer. Chunks of 16 bytes would cross pixels there, so a
// block keeps the rows of the image that its outputs need in shared memory, and each lane reads its operands from them at
// the offsets of a table.
#pragma once

#include "multistage.cuh"
#include "products.cuh"

constexpr u32 THIN_THREADS = 128, THIN_PIXELS = 128;

__device__ __forceinline__ u32 rounded_up(u32 value, u32 multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

// The rows of an image in shared memory, with the padding: element (y, x, c) of the rows from `first_row` is at
// (y − first_row) · pitch + left + x · channels + c.
struct ThinRows {
    const Geometry& op;
    u32 line, left, pitch, rows;  // Elements of a row of the image; of its padding on the left; of a stored row; rows.

    __device__ __forceinline__ explicit ThinRows(const Geometry& op) : op(op) {
        line = op.width * op.channels, left = rounded_up(op.padding * op.channels, VEC);
        // Two more elements, because lanes read pairs that may begin or end outside the window.
        pitch = rounded_up(left + line + op.padding * op.channels + 2, VEC);
        const u32 most = (THIN_PIXELS - 2 + op.out_width) / op.out_width + 1;  // Rows that consecutive outputs are in.
        rows = (min(most, op.out_height) - 1) * op.stride + op.kernel;
    }

    __device__ __forceinline__ u32 bytes() const { return rows * pitch * sizeof(real); }

    // The first element of an output's window, relative to the rows of output row `first_y`.
    __device__ __forceinline__ u32 window(u32 pixel, u32 first_y) const {
        const u32 y = pixel / op.out_width, x = pixel - y * op.out_width;
        return (y - first_y) * op.stride * pitch + left + (x * op.stride - op.padding) * op.channels;
    }

    // Writes zeros to the padding on both sides, which stay for all tiles.
    __device__ __forceinline__ void clear_sides(real* stored) const {
        const u32 sides = pitch - line;
        for (u32 i = threadIdx.x; i < rows * sides; i += THIN_THREADS) {
            const u32 row = i / sides, at = i - row * sides;
            stored[row * pitch + (at < left ? at : at + line)] = real{};
        }
    }

    // Copies the rows that the outputs from output row `first_y` on need; rows outside the image become zeros.
    __device__ __forceinline__ void copy(real* stored, const real* image, u32 first_y) const {
        const bool vectors = line % VEC == 0 && (u64)image % 16 == 0;
        const u32 each = vectors ? VEC : 1, units = line / each;
        for (u32 i = threadIdx.x; i < rows * units; i += THIN_THREADS) {
            const u32 row = i / units, at = (i - row * units) * each, y = first_y * op.stride - op.padding + row;
            const bool inside = y < op.height;
            const real* const from = inside ? image + (u64)y * line + at : image;
            real* const to = stored + row * pitch + left + at;
            if (vectors) {
                copy_async<16>(shared_address(to), from, inside);
            } else {
                *to = inside ? *from : real{};
            }
        }
        commit_copies();
    }
};

// The inner dimension of the forward pass: for every row of the window its elements, in units of four bytes. A unit of
// 16-bit elements is a pair at an even address: if the windows begin at odd ones, a row has a leading element, whose
// weight is zero. If only some do, a second copy of the rows, shifted by one element, has those at even addresses.
struct ThinDepth {
    static constexpr u32 UNIT = 4 / sizeof(real);
    const ThinRows& rows;
    u32 lead, length, steps;  // Elements before a row of the window; elements of a row, padding included; steps of k.
    bool shifted;             // Whether there is a second copy.

    __device__ __forceinline__ explicit ThinDepth(const ThinRows& rows) : rows(rows) {
        const Geometry& op = rows.op;
        shifted = UNIT == 2 && op.stride * op.channels % 2 == 1;
        lead = UNIT == 2 && !shifted ? op.padding * op.channels % 2 : 0;
        length = rounded_up(lead + op.kernel * op.channels, UNIT);
        steps = (op.kernel * length + 8 * UNIT - 1) / (8 * UNIT);
    }

    // The position in the window's row `ky` of position `k`, or false for padding.
    __device__ __forceinline__ bool element(u32 k, u32& ky, u32& at) const {
        ky = k / length, at = k - ky * length - lead;
        return ky < rows.op.kernel && at < rows.op.kernel * rows.op.channels;
    }
};

// A unit's offset in bytes from the start of a window, and a mask of its elements that are in the window.
struct ThinUnit {
    u32 offset, mask;
};

// A thin convolution's tile of the forward pass: 128 pixels, 32 for each of four warps, and COLS output channels.
template <u32 COLS_>
struct ThinTile {
    static constexpr u32 ROWS = THIN_PIXELS, COLS = COLS_, THREADS = THIN_THREADS;
    static constexpr u32 DOWN = 2, ACROSS = COLS / 8, SUMS = DOWN * ACROSS * 4, ALIGNMENT = 16;

    static __device__ __forceinline__ u32 row(u32 i, u32 h) {
        return threadIdx.x / WARP * 32 + i * 16 + h * 8 + threadIdx.x % WARP / 4;
    }
    static __device__ __forceinline__ u32 col(u32 j) { return j * 8 + threadIdx.x % 4 * 2; }
};

// The parts of a forward pass in shared memory, as offsets in bytes: weights, a table of units, the image's rows (twice if
// there is a shifted copy), and results.
struct ThinStage {
    u32 weights_pitch, table, images, shifted, results;

    __device__ __forceinline__ ThinStage(const ThinRows& rows, const ThinDepth& depth, u32 cols) {
        weights_pitch = depth.steps * 32 + 16;  // The 16 bytes spread the rows over the banks.
        table = cols * weights_pitch;
        images = table + depth.steps * 8 * sizeof(ThinUnit);
        shifted = images + rows.bytes();
        results = shifted + (depth.shifted ? rows.bytes() : 0);
    }
};

// Stores the weights of COLS output channels from `first_col` on, [COLS][steps], and the table of units.
template <u32 COLS>
__device__ __forceinline__ void store_thin_weights(unsigned char* shared, const ThinStage& stage,
                                                   const ThinDepth& depth, const real* weight, u32 first_col) {
    const Geometry& op = depth.rows.op;
    const u32 length = depth.steps * 8 * ThinDepth::UNIT;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < COLS * length; i += THIN_THREADS) {
        const u32 col = i / length, k = i - col * length;
        u32 ky, at;
        const bool inside = depth.element(k, ky, at) && first_col + col < op.out_channels;
        const u32 from = (first_col + col) * op.patch() + ky * op.kernel * op.channels + at;
        *(reinterpret_cast<real*>(shared + col * stage.weights_pitch) + k) = inside ? weight[from] : real{};
    }
    ThinUnit* const table = reinterpret_cast<ThinUnit*>(shared + stage.table);
#pragma unroll 1
    for (u32 unit = threadIdx.x; unit < depth.steps * 8; unit += THIN_THREADS) {
        const u32 first = unit * ThinDepth::UNIT;
        u32 ky, at, mask = 0;
        unroll<ThinDepth::UNIT>([&](u32 i) {
            if (depth.element(first + i, ky, at)) mask |= (ThinDepth::UNIT == 1 ? ~0u : 0xffffu) << 16 * i;
        });
        ky = first / depth.length;
        const u32 offset = ky * depth.rows.pitch + first - ky * depth.length;
        table[unit] = mask ? ThinUnit{offset * (u32)sizeof(real), mask} : ThinUnit{};
    }
}

// sums += windows · Wᵀ. `windows` are the addresses of the lane's rows' first units.
template <class Tile>
__device__ __forceinline__ void multiply_thin(float (&sums)[Tile::SUMS], u32 shared, const ThinStage& stage, u32 steps,
                                              const u32 (&windows)[Tile::DOWN * 2]) {
    const u32 lane = threadIdx.x % WARP, line = (lane & 7) + (lane >> 4) * 8;
    const u32 weights = shared + line * stage.weights_pitch + (lane >> 3 & 1) * 16;
    const u32 table = shared + stage.table + lane % 4 * sizeof(ThinUnit);
#pragma unroll(sizeof(real) == 4 && Tile::COLS == 32 ? 1 : 2)  // Registers are short.
    for (u32 step = 0; step < steps; ++step) {
        u32 a[Tile::DOWN * 4], b[Tile::ACROSS * 2];
        unroll<2>([&](u32 half) {
            const u32 unit = table + (step * 8 + half * 4) * sizeof(ThinUnit);
            const u32 offset = load_shared(unit), mask = load_shared(unit + 4);
            unroll<Tile::DOWN * 2>([&](u32 row) {
                a[row / 2 * 4 + half * 2 + row % 2] = rounded_operand(load_shared(windows[row] + offset) & mask);
            });
        });
        unroll<Tile::ACROSS / 2>([&](u32 j) {
            u32 four[4];
            load_matrices<false>(four, weights + j * 16 * stage.weights_pitch + step * 32);
            unroll<4>([&](u32 i) { b[4 * j + i] = rounded_operand(four[i]); });
        });
        mma<MMA_REAL, Tile::DOWN, Tile::ACROSS>(sums, a, b);
    }
}

// The tiles of an image: THIN_PIXELS consecutive outputs each.
__device__ __forceinline__ u32 thin_tiles(const Geometry& op) {
    return (op.out_pixels() + THIN_PIXELS - 1) / THIN_PIXELS;
}

// output = act(windows · Wᵀ + bias). A block has COLS output channels, and of all tiles every gridDim.x-th; gridDim.y is
// the number of blocks along the channels.
template <u32 COLS>
__device__ __forceinline__ void thin_forward(const Conv2dForwardParams& p) {
    typedef ThinTile<COLS> Tile;
    unsigned char* const shared = stages_of<Tile>();
    const Geometry& op = p.op;
    const ThinRows rows(op);
    const ThinDepth depth(rows);
    const ThinStage stage(rows, depth, COLS);
    const u32 first_col = blockIdx.y * COLS, per_image = thin_tiles(op), start = shared_address(shared);
    real* const stored = reinterpret_cast<real*>(shared + stage.images);
    real* const shifted = reinterpret_cast<real*>(shared + stage.shifted);
    store_thin_weights<COLS>(shared, stage, depth, p.weight, first_col);
    rows.clear_sides(stored);
    Distances distances;
    u32 count = 0;  // Of the block's pixels so far.
#pragma unroll 1
    for (u32 tile = blockIdx.x; tile < p.batch * per_image; tile += gridDim.x) {
        const u32 sample = tile / per_image, first = (tile - sample * per_image) * THIN_PIXELS;
        const u32 first_y = first / op.out_width;
        rows.copy(stored, p.input + (u64)sample * op.height * rows.line, first_y);
        wait_copies<0>();
        __syncthreads();
        if (depth.shifted) {
            for (u32 i = threadIdx.x; i + 1 < rows.rows * rows.pitch; i += THIN_THREADS) shifted[i] = stored[i + 1];
            __syncthreads();
        }
        u32 windows[Tile::DOWN * 2];
        unroll<Tile::DOWN * 2>([&](u32 i) {
            // Past the last pixel, the last one again; its results are not stored.
            const u32 pixel = min(first + Tile::row(i / 2, i % 2), op.out_pixels() - 1);
            const u32 window = rows.window(pixel, first_y) - depth.lead;
            const bool odd = depth.shifted && window % 2 == 1;
            windows[i] = start + (odd ? stage.shifted : stage.images) + (window - odd) * (u32)sizeof(real);
        });
        float sums[Tile::SUMS] = {};
        multiply_thin<Tile>(sums, start, stage, depth.steps, windows);
        Results<Tile> results(shared + stage.results, sums, p.bias ? p.bias + first_col : nullptr,
                              op.out_channels - first_col);
        if (p.slope < 0.0f) results.apply_tanh();
        if (count == 0) distances = Distances(results);
        store_forward(results, p, first_col, distances, [&](u32 row) {
            return first + row < op.out_pixels() ? sample * op.out_pixels() + first + row : ~0u;
        });
        count += min(THIN_PIXELS, op.out_pixels() - first);
        // The next tile's rows may be copied now: all sums were computed before the results were stored.
    }
    if (!p.saved) return;
    store_statistics(Results<Tile>(shared + stage.results), p, distances, count, first_col, blockIdx.x, gridDim.x);
}

// The weight gradient's tile: ROWS output channels × COLS positions of the window. Of four warps, WARPS_ALONG share the
// positions' sums and each adds every WARPS_ALONG-th step of pixels; the others divide the positions.
template <u32 ROWS_, u32 COLS_, u32 WARPS_ALONG_>
struct ThinWeightTile {
    static constexpr u32 ROWS = ROWS_, COLS = COLS_, WARPS_ALONG = WARPS_ALONG_, WARPS_ACROSS = 4 / WARPS_ALONG;
    static constexpr u32 DOWN = ROWS / 16, ACROSS = COLS / WARPS_ACROSS / 8, SUMS = DOWN * ACROSS * 4;
    static constexpr u32 PER_STEP = 32 / sizeof(real), STEPS = THIN_PIXELS / PER_STEP, ALIGNMENT = 16;
    static constexpr u32 OWN = SUMS / WARPS_ALONG;  // A thread's sums after the warps' sums were added.
    typedef typename LayoutAlongLines<THIN_PIXELS, ROWS / VEC, sizeof(real) == 4>::Type Gradients;
    static_assert(COLS % (WARPS_ACROSS * 8) == 0 && STEPS % WARPS_ALONG == 0 && SUMS % WARPS_ALONG == 0,
                  "unsupported tile");
};

// Adds the sums of the warps that share them, in order. Thread `warp` of those that share has sums `warp` · OWN and so on.
template <class Tile>
__device__ __forceinline__ void add_warps(float (&own)[Tile::OWN], const float (&sums)[Tile::SUMS], float* scratch) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, along = warp % Tile::WARPS_ALONG;
    if constexpr (Tile::WARPS_ALONG == 1) {
        unroll<Tile::OWN>([&](u32 e) { own[e] = sums[e]; });
        return;
    }
    __syncthreads();
    unroll<Tile::SUMS>([&](u32 e) { scratch[(warp * Tile::SUMS + e) * WARP + lane] = sums[e]; });
    __syncthreads();
    const u32 first = warp - along;
    unroll<Tile::OWN>([&](u32 e) {
        float sum = 0.0f;
        unroll<Tile::WARPS_ALONG>(
            [&](u32 each) { sum += scratch[((first + each) * Tile::SUMS + along * Tile::OWN + e) * WARP + lane]; });
        own[e] = sum;
    });
}

// d_weight = d_outputᵀ · windows. gridDim.x is the number of tiles of the gradient; gridDim.y that of splits of the tiles of
// pixels.
template <class Tile>
__device__ __forceinline__ void thin_backward_weight(const Conv2dWeightParams& p) {
    unsigned char* const shared = stages_of<Tile>();
    const Geometry& op = p.op;
    const ThinRows rows(op);
    const u32 per_image = thin_tiles(op), patch = op.patch(), length = op.kernel * op.channels;
    const u32 across = (patch + Tile::COLS - 1) / Tile::COLS, tiles = p.batch * per_image;
    const u32 first_row = blockIdx.x / across * Tile::ROWS, first_col = blockIdx.x % across * Tile::COLS;
    const Work work{first_row, first_col, blockIdx.x, blockIdx.y, gridDim.y, (tiles + gridDim.y - 1) / gridDim.y};
    const Steps steps = steps_of(work, tiles);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    // The offset in bytes of each of the lane's positions.
    u32 offsets[Tile::ACROSS];
    unroll<Tile::ACROSS>([&](u32 j) {
        const u32 col = first_col + (warp / Tile::WARPS_ALONG * Tile::ACROSS + j) * 8 + lane / 4;
        const u32 ky = min(col, patch - 1) / length;
        offsets[j] = (ky * rows.pitch + min(col, patch - 1) - ky * length) * (u32)sizeof(real);
    });
    // In shared memory: the gradients, the address of every pixel's window, and the rows of the image.
    const u32 start = shared_address(shared), table = start + Tile::Gradients::BYTES, images = table + THIN_PIXELS * 4;
    real* const stored = reinterpret_cast<real*>(shared + Tile::Gradients::BYTES + THIN_PIXELS * 4);
    rows.clear_sides(stored);
    const Fragments<typename Tile::Gradients, false, true> gradients(0);
    float sums[Tile::SUMS] = {};
#pragma unroll 1
    for (u32 tile = steps.first; tile < steps.first + steps.count; ++tile) {
        const u32 sample = tile / per_image, first = (tile - sample * per_image) * THIN_PIXELS;
        const u32 first_y = first / op.out_width;
        __syncthreads();  // The tile before was read until now.
        MatrixColumns<typename Tile::Gradients, THIN_THREADS, true> d_output(
            p.d_output + (u64)sample * op.out_pixels() * op.out_channels, op.out_channels, first_row, first,
            op.out_pixels());
        d_output.copy_next(start);
        rows.copy(stored, p.input + (u64)sample * op.height * rows.line, first_y);
        // Past the last pixel, the last one again; its gradient is zero.
        const u32 pixel = min(first + threadIdx.x, op.out_pixels() - 1);
        store_shared(table + threadIdx.x * 4, images + rows.window(pixel, first_y) * (u32)sizeof(real));
        wait_copies<0>();
        __syncthreads();
#pragma unroll 1
        for (u32 step = warp % Tile::WARPS_ALONG; step < Tile::STEPS; step += Tile::WARPS_ALONG) {
            u32 a[Tile::DOWN * 4], b[Tile::ACROSS * 2], windows[4];
            unroll<4>([&](u32 i) {
                const u32 unit = step * 8 + lane % 4 + i / 2 * 4;
                windows[i] = load_shared(table + (unit * ThinDepth::UNIT + i % ThinDepth::UNIT) * 4);
            });
            unroll<Tile::DOWN>([&](u32 i) {
                u32 four[4];
                gradients.load(four, start, i, step);
                unroll<4>([&](u32 r) { a[4 * i + r] = rounded_operand(four[r]); });
            });
            unroll<Tile::ACROSS * 2>([&](u32 i) {
                const u32 offset = offsets[i / 2];
                if constexpr (sizeof(real) == 4) {
                    b[i] = rounded_operand(load_shared(windows[i % 2 * 2] + offset));
                } else {
                    b[i] = load_shared_half(windows[i % 2 * 2] + offset) |
                           load_shared_half(windows[i % 2 * 2 + 1] + offset) << 16;
                }
            });
            mma<MMA_REAL, Tile::DOWN, Tile::ACROSS>(sums, a, b);
        }
    }
    float own[Tile::OWN];
    add_warps<Tile>(own, sums, reinterpret_cast<float*>(shared));
    if (!add_splits<THIN_THREADS>(own, *reinterpret_cast<u32*>(shared), p.partials, p.counters, work)) return;
    float* const results = reinterpret_cast<float*>(shared);
    __syncthreads();
    unroll<Tile::OWN>([&](u32 i) {
        const u32 e = warp % Tile::WARPS_ALONG * Tile::OWN + i, part = e / 4;
        const u32 row = part / Tile::ACROSS * 16 + e / 2 % 2 * 8 + lane / 4;
        const u32 col = (warp / Tile::WARPS_ALONG * Tile::ACROSS + part % Tile::ACROSS) * 8 + lane % 4 * 2 + e % 2;
        results[row * Tile::COLS + col] = own[i];
    });
    __syncthreads();
#pragma unroll 4
    for (u32 i = threadIdx.x; i < Tile::ROWS * Tile::COLS; i += THIN_THREADS) {
        const u32 row = first_row + i / Tile::COLS, col = first_col + i % Tile::COLS;
        if (row < op.out_channels && col < patch) p.d_weight[(u64)row * patch + col] = results[i];
    }
}
