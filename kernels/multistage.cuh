// The mainloop of a product on the tensor cores of compute_80: copies to shared memory run STAGES − 1 steps ahead of the
// multiplications, and fragments are loaded one step of an instruction ahead.
#pragma once

#include "mma.cuh"
#include "stages.cuh"

// A warp's fragments of one operand: 32 bytes along k of its lines, 16 lines at a time. `first` is the warp's first line.
// An instruction's four registers are two groups of eight lines × two groups of 16 bytes along k; LEFT says that the
// lines vary first, as in A, otherwise k varies first, as in B.
template <class Layout, bool ALONG_K, bool LEFT>
struct Fragments {
    u32 row_offset, chunk;  // ALONG_K: of the lane's row in shared memory.
    u32 first;

    __device__ __forceinline__ explicit Fragments(u32 first) : first(first) {
        const u32 lane = threadIdx.x % WARP, low = lane & 7, eighth = lane >> 3 & 1, quarter = lane >> 4;
        if constexpr (ALONG_K) {
            const u32 row = first + low + (LEFT ? eighth : quarter) * 8;
            row_offset = row * Layout::CHUNKS * 16;
            chunk = (LEFT ? quarter : eighth) ^ swizzled<Layout::CHUNKS>(row, 0);
        } else if constexpr (!Layout::BY_WORDS) {
            row_offset = low + (LEFT ? quarter : eighth) * 8;  // A row, which is a k.
            chunk = LEFT ? eighth : quarter;
        }
    }

    // The registers of 16 lines, `sixteen` · 16 after the first, at 32-byte step `step` along k.
    __device__ __forceinline__ void load(u32 (&to)[4], u32 stage, u32 sixteen, u32 step) const {
        if constexpr (ALONG_K) {
            load_matrices<false>(to,
                                 stage + row_offset + sixteen * (16 * Layout::CHUNKS * 16) + (step * 2 ^ chunk) * 16);
        } else if constexpr (!Layout::BY_WORDS) {
            load_matrices<true>(to, stage + Layout::at(row_offset + step * 16, (first + sixteen * 16) / 8 + chunk));
        } else {
            const u32 line = first + sixteen * 16 + threadIdx.x % WARP / 4, k = step * 8 + threadIdx.x % 4;
            unroll<4>([&](u32 i) {
                const u32 lines = LEFT ? i % 2 : i / 2, along = LEFT ? i / 2 : i % 2;
                const u32 at = Layout::at(k + along * 4, (line + lines * 8) / 4);
                to[i] = load_shared(stage + at + line % 4 * 4);
            });
        }
    }
};

__device__ __forceinline__ u32 rounded_operand(u32 bits) {
    if constexpr (sizeof(real) == 4) return round_to_tf32(bits);
    return bits;
}

// All fragments of one step of a tile.
template <class Tile, class LayoutA, bool A_ALONG_K, class LayoutB, bool B_ALONG_K>
struct Operands {
    const Fragments<LayoutA, A_ALONG_K, true> left;
    const Fragments<LayoutB, B_ALONG_K, false> right;

    __device__ __forceinline__ Operands() : left(Tile::row(0, 0) & ~15u), right(Tile::col(0) & ~15u) {}

    __device__ __forceinline__ void load(u32 (&a)[Tile::DOWN * 4], u32 (&b)[Tile::ACROSS * 2], u32 stage,
                                         u32 step) const {
        u32 four[4];
        unroll<Tile::DOWN>([&](u32 i) {
            left.load(four, stage, i, step);
            unroll<4>([&](u32 r) { a[4 * i + r] = four[r]; });
        });
        unroll<Tile::ACROSS / 2>([&](u32 j) {
            right.load(four, stage + LayoutA::BYTES, j, step);
            unroll<4>([&](u32 r) { b[4 * j + r] = four[r]; });
        });
    }
};

// The mainloop of a WarpTile.
template <class Tile, class LayoutA, bool A_ALONG_K, class LayoutB, bool B_ALONG_K, class A, class B>
__device__ __forceinline__ void multiply_stages(float (&sums)[Tile::SUMS], u32 shared, A& a, B& b, u32 count) {
    constexpr u32 STAGE = LayoutA::BYTES + LayoutB::BYTES, AHEAD = Tile::STAGES - 1;
    const u32 end = shared + Tile::STAGES * STAGE;
    const auto copy_next = [&](u32 stage, bool more) {
        if (more) {
            a.copy_next(stage), b.copy_next(stage + LayoutA::BYTES);
        }
        commit_copies();  // An empty group too, so that the number of groups to wait for is constant.
    };
#pragma unroll 1
    for (u32 i = 0; i < AHEAD; ++i) copy_next(shared + i * STAGE, i < count);
    const Operands<Tile, LayoutA, A_ALONG_K, LayoutB, B_ALONG_K> operands;
    u32 left[Tile::BUFFERS][Tile::DOWN * 4], right[Tile::BUFFERS][Tile::ACROSS * 2];
    u32 read = shared, write = shared + AHEAD * STAGE;
    const auto next_stage = [&](u32& stage) { stage = stage + STAGE == end ? shared : stage + STAGE; };
    const auto wait_for_stage = [&] {
        wait_copies<AHEAD - 1>();
        __syncthreads();
    };
    if (Tile::BUFFERS == 2) {
        wait_for_stage();
        operands.load(left[0], right[0], read, 0);
    }
#pragma unroll 1
    for (u32 at = 0; at < count; ++at) {
        if (Tile::BUFFERS == 1) wait_for_stage();
        unroll<Tile::STEPS>([&](u32 step) {
            u32 ahead = step;
            if (Tile::BUFFERS == 2) {
                ahead = (step + 1) % Tile::STEPS;
                if (ahead == 0) wait_for_stage(), next_stage(read);
            }
            operands.load(left[ahead % Tile::BUFFERS], right[ahead % Tile::BUFFERS], read, ahead);
            if (step == 0) {
                copy_next(write, at + AHEAD < count), next_stage(write);
                __syncwarp();  // Lanes may have diverged; mma.sync requires them to be converged.
            }
            u32(&x)[Tile::DOWN * 4] = left[step % Tile::BUFFERS];
            u32(&y)[Tile::ACROSS * 2] = right[step % Tile::BUFFERS];
            unroll<Tile::DOWN * 4>([&](u32 i) { x[i] = rounded_operand(x[i]); });
            unroll<Tile::ACROSS * 2>([&](u32 i) { y[i] = rounded_operand(y[i]); });
            mma<MMA_REAL, Tile::DOWN, Tile::ACROSS>(sums, x, y);
        });
        if (Tile::BUFFERS == 1) next_stage(read);
    }
    wait_copies<0>();
}

// A block's tile: ROWS × COLS sums, DEPTH elements along k per stage, WARPS_DOWN × WARPS_ACROSS warps. With two fragment
// BUFFERS, a warp loads the next fragments before it multiplies; a tile of many sums has registers for one only.
template <u32 ROWS_, u32 COLS_, u32 DEPTH_, u32 WARPS_DOWN_, u32 WARPS_ACROSS_, u32 STAGES_, u32 BUFFERS_,
          bool VECTOR_ = true>
struct WarpTile {
    static constexpr u32 ROWS = ROWS_, COLS = COLS_, DEPTH = DEPTH_, STAGES = STAGES_, BUFFERS = BUFFERS_;
    static constexpr u32 WARPS_DOWN = WARPS_DOWN_, WARPS_ACROSS = WARPS_ACROSS_;
    static constexpr u32 THREADS = WARPS_DOWN * WARPS_ACROSS * WARP;
    static constexpr u32 ALIGNMENT = 16;  // Of its stages, in bytes.
    static constexpr bool VECTOR = VECTOR_;
    // The part of a warp: instructions of 16 × 8 sums, PER_STEP elements along k each.
    static constexpr u32 WARP_ROWS = ROWS / WARPS_DOWN, WARP_COLS = COLS / WARPS_ACROSS;
    static constexpr u32 DOWN = WARP_ROWS / 16, ACROSS = WARP_COLS / 8, SUMS = DOWN * ACROSS * 4;
    static constexpr u32 PER_STEP = 32 / sizeof(real), STEPS = DEPTH / PER_STEP;
    static_assert(WARP_ROWS % 16 == 0 && WARP_COLS % 16 == 0 && STEPS % 2 == 0 && STAGES >= 3, "unsupported tile");

    // A thread's sums: sums[(i · ACROSS + j) · 4 + 2h + e] is at row(i, h), column col(j) + e of the tile.
    static __device__ __forceinline__ u32 row(u32 i, u32 h) {
        return threadIdx.x / WARP / WARPS_ACROSS * WARP_ROWS + i * 16 + h * 8 + threadIdx.x % WARP / 4;
    }
    static __device__ __forceinline__ u32 col(u32 j) {
        return threadIdx.x / WARP % WARPS_ACROSS * WARP_COLS + j * 8 + threadIdx.x % 4 * 2;
    }

    // How an operand of LINES lines is stored, along k or along lines.
    template <u32 LINES>
    using AlongK = Layout<LINES, DEPTH / VEC, false>;
    template <u32 LINES>
    using AlongLines = typename LayoutAlongLines<DEPTH, LINES / VEC, sizeof(real) == 4>::Type;

    // sums += the product of `count` steps of DEPTH elements of operands A and B, in stages that start at `shared`.
    template <class LayoutA, bool A_ALONG_K, class LayoutB, bool B_ALONG_K, class A, class B>
    static __device__ __forceinline__ void multiply(float (&sums)[SUMS], u32 shared, A& a, B& b, u32 count) {
        multiply_stages<WarpTile, LayoutA, A_ALONG_K, LayoutB, B_ALONG_K>(sums, shared, a, b, count);
    }
};
