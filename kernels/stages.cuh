// Operands of a multistage product in shared memory: how a stage stores them, and which part of it a thread copies.
//
// A stage of an operand is an array of rows of 16-byte chunks. If the operand is contiguous along the inner dimension k,
// a row is a line (a row of A or a column of B) with DEPTH elements; otherwise a row is a k with one element per line.
// The chunks of a row are permuted so that neither copies nor a warp's reads have bank conflicts.
#pragma once

#include "async.cuh"

// The position of a chunk in a row of CHUNKS, for reads by ldmatrix and wgmma.
template <u32 CHUNKS>
__device__ __forceinline__ u32 swizzled(u32 row, u32 chunk) {
    static_assert(CHUNKS % 8 == 0 || CHUNKS == 4 || CHUNKS == 2, "a swizzle permutes 2, 4 or 8 chunks");
    if constexpr (CHUNKS % 8 == 0) return chunk ^ (row & 7);
    return CHUNKS == 4 ? chunk ^ (row >> 1 & 3) : chunk ^ (row >> 2 & 1);
}

// The position for reads of single words in a row of lines: lanes read four rows at once.
__device__ __forceinline__ u32 swizzled_words(u32 row, u32 chunk) { return chunk ^ (row & 3) << 1; }

// How a stage is stored: rows of CHUNKS chunks, in panels of at most 8 chunks if PANELS, as wgmma reads them.
template <u32 ROWS_, u32 CHUNKS_, bool PANELS>
struct Layout {
    static constexpr u32 ROWS = ROWS_, CHUNKS = CHUNKS_, BYTES = ROWS * CHUNKS * 16;
    static constexpr bool BY_WORDS = false;

    // The offset in bytes of a chunk.
    static __device__ __forceinline__ u32 at(u32 row, u32 chunk) {
        if constexpr (PANELS) return chunk / 8 * (ROWS * 128) + row * 128 + swizzled<8>(row, chunk % 8) * 16;
        return (row * CHUNKS + swizzled<CHUNKS>(row, chunk)) * 16;
    }
};

// The layout of 32-bit elements that are contiguous along lines: read word by word, because ldmatrix transposes only
// 16-bit elements.
template <u32 ROWS_, u32 CHUNKS_>
struct LayoutByWords {
    static constexpr u32 ROWS = ROWS_, CHUNKS = CHUNKS_, BYTES = ROWS * CHUNKS * 16;
    static constexpr bool BY_WORDS = true;
    static_assert(CHUNKS % 8 == 0, "the swizzle permutes 8 chunks");

    static __device__ __forceinline__ u32 at(u32 row, u32 chunk) {
        return (row * CHUNKS + swizzled_words(row, chunk)) * 16;
    }
};

// The layout of an operand that is contiguous along lines.
template <u32 ROWS, u32 CHUNKS, bool WORDS>
struct LayoutAlongLines {
    typedef Layout<ROWS, CHUNKS, false> Type;
};
template <u32 ROWS, u32 CHUNKS>
struct LayoutAlongLines<ROWS, CHUNKS, true> {
    typedef LayoutByWords<ROWS, CHUNKS> Type;
};

// The chunks of a layout that one of THREADS threads copies: chunk `chunk()` of rows row(0) to row(COUNT − 1).
template <class Layout, u32 THREADS>
struct Share {
    static constexpr u32 APART = THREADS / Layout::CHUNKS;
    static constexpr u32 COUNT = Layout::ROWS > APART ? Layout::ROWS / APART : 1;
    static constexpr u32 NEXT = Layout::ROWS / COUNT;  // From the thread's row to the next, of this stage or the next.
    static_assert(THREADS % Layout::CHUNKS == 0 && (Layout::ROWS < APART || Layout::ROWS % APART == 0),
                  "all threads copy equally many chunks");

    static __device__ __forceinline__ u32 chunk() { return threadIdx.x % Layout::CHUNKS; }
    static __device__ __forceinline__ u32 row(u32 i) { return threadIdx.x / Layout::CHUNKS + i * APART; }
    // Whether the thread has anything to copy.
    static __device__ __forceinline__ bool active() { return Layout::ROWS >= APART || row(0) < Layout::ROWS; }

    // Copies the chunk of row(i), whose elements are at `from` and either all inside or all outside.
    static __device__ __forceinline__ void copy(u32 stage, u32 i, const real* from, bool inside) {
        copy_async<16>(stage + Layout::at(row(i), chunk()), from, inside);
    }
};

// The layout for wgmma of 32-bit elements that are contiguous along lines in global memory: it reads them along k only.
// They are transposed by copies of single elements. ROWS is the depth; chunks are along lines.
template <u32 LINES>
struct TransposedLayout {
    static constexpr u32 ROWS = 32, CHUNKS = LINES / 4, BYTES = LINES * 128;

    static __device__ __forceinline__ u32 at(u32 k, u32 line) {
        return line * 128 + swizzled<8>(line, k / 4) * 16 + k % 4 * 4;
    }
};

// Eight threads (or four, if there are few) have consecutive k, so that their copies go to different banks.
template <u32 LINES, u32 THREADS>
struct Share<TransposedLayout<LINES>, THREADS> {
    typedef TransposedLayout<LINES> Layout;
    static constexpr u32 APART = THREADS / Layout::CHUNKS, COUNT = Layout::ROWS / APART, NEXT = APART;
    static constexpr u32 TOGETHER = APART < 8 ? APART : 8;
    static_assert(APART % 4 == 0 && Layout::ROWS % APART == 0, "all threads copy equally many chunks");

    static __device__ __forceinline__ u32 chunk() { return threadIdx.x / TOGETHER % Layout::CHUNKS; }
    static __device__ __forceinline__ u32 row(u32 i) {
        return threadIdx.x / (TOGETHER * Layout::CHUNKS) * TOGETHER + threadIdx.x % TOGETHER + i * APART;
    }
    static __device__ __forceinline__ bool active() { return true; }

    static __device__ __forceinline__ void copy(u32 stage, u32 i, const real* from, bool inside) {
        unroll<4>([&](u32 e) { copy_async<4>(stage + Layout::at(row(i), chunk() * 4 + e), from + e, inside); });
    }
};

// Copies a chunk element by element: `from(i)` is the address of element i, or null outside.
template <class From>
__device__ __forceinline__ void copy_elements(u32 to, const real* anywhere, From from) {
    if constexpr (sizeof(real) == 4) {
        unroll<VEC>([&](u32 i) {
            const real* const element = from(i);
            copy_async<4>(to + 4 * i, element ? element : anywhere, element != nullptr);
        });
    } else {
        u32 words[4] = {};
        unroll<VEC>([&](u32 i) {
            const real* const element = from(i);
            if (element) words[i / 2] |= (u32)read_pack<1>(element).words[0] << 16 * (i % 2);
        });
        unroll<4>([&](u32 i) { store_shared(to + 4 * i, words[i]); });
    }
}
