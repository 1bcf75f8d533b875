// The tile of a GEMM that a block computes, and the loaders of its operands: from global memory into registers while
// the previous tile is multiplied, then into shared memory.
//
// Shared memory holds 32-bit words: a float, or two halves that are consecutive along the inner dimension k. A tile is
// DEPTH words deep, double-buffered, and swizzled so that neither the transposing stores nor a warp's reads have bank
// conflicts.
#pragma once

#include "digits.cuh"
#include "mma.cuh"

constexpr u32 DEPTH = 16;
constexpr u32 PER_WORD = 4 / sizeof(real);
constexpr u32 TILE_K = DEPTH * PER_WORD;

// A warp's part of a tile, and the number of accumulators per thread.
constexpr u32 WARP_ROWS = 32, WARP_COLS = 16;
constexpr u32 SUMS = WARP_ROWS * WARP_COLS / WARP;

// The tile that a block computes, split among its eight warps. VECTOR selects vector loads of operands.
template <u32 ROWS_, u32 COLS_, bool VECTOR_>
struct Tile {
    static constexpr u32 ROWS = ROWS_, COLS = COLS_;
    static constexpr bool VECTOR = VECTOR_;
    static_assert(ROWS / WARP_ROWS * (COLS / WARP_COLS) * WARP == BLOCK, "a block has eight warps");
};

// A tile of WIDTH lines is stored word by word. The swizzle permutes groups of eight lines to spread accesses over the
// banks. For `first` a multiple of four and i < 4, swizzle(first + i) = swizzle(first) ^ swizzle(i).
template <u32 WIDTH>
__host__ __device__ constexpr u32 swizzle(u32 word) {
    return WIDTH < 32 ? word >> 1 & 1 : (word ^ word >> 2) & 3;
}

template <u32 WIDTH>
__device__ __forceinline__ u32 cell(u32 word, u32 line) {
    return word * WIDTH + (line ^ swizzle<WIDTH>(word) << 3);
}

// ---- Operands. A source addresses elements by line (a row of A or a column of B) and k:
//   ALONG_K             whether elements are contiguous along k; otherwise they are contiguous along lines
//   lines, depth        the sizes of both dimensions; elements beyond the depth are zero
//   radix               how k is split into digits
//   Line line_of(line)  the part of the address computation that depends on the line only
//   inside(Line, k)     whether the element is in memory; otherwise it is padding, which is zero
//   at(Line, k, flat)   the address of an element in memory; `flat` is k as a single number
// If VECTOR is set, the elements of one load must be aligned to its size and either all inside or all outside.

// The value at `from`, or zero if not `inside`: one predicated load, no branch. Operands are read-only.
template <class T>
__device__ __forceinline__ T load_inside(const real* from, bool inside) {
    T value = {};
    if (inside) value = __ldg(reinterpret_cast<const T*>(from));
    return value;
}

// A thread's read position along k, which advances tile by tile.
struct Cursor {
    u32 flat;
    Digits k;

    __device__ __forceinline__ void begin(u32 first, Radix radix) { flat = first, k = digits_of(first, radix); }
    __device__ __forceinline__ void advance(Digits step, Radix radix) { flat += TILE_K, add(k, step, radix); }
};

// Reads four words of consecutive elements with vector loads.
template <class Source, bool VECTOR>
struct LineReader {
    typename Source::Line line;

    // Past the last line, reads the last lines again; the sums that use them are outside the product.
    __device__ __forceinline__ void begin(const Source& source, u32 number) {
        line = source.line_of(min(number, source.lines - (Source::ALONG_K ? 1 : 4)));
    }

    __device__ __forceinline__ uint4 read(const Source& source, const Cursor& at) const {
        const bool inside = at.flat < source.depth && source.inside(line, at.k);
        const real* const from = source.at(line, at.k, at.flat);
        if constexpr (Source::ALONG_K || PER_WORD == 1) return load_inside<uint4>(from, inside);
        // The two halves of a word are consecutive along k, and the four words are consecutive along lines.
        Digits after = at.k;
        add_one(after, source.radix);
        const bool after_inside = at.flat + 1 < source.depth && source.inside(line, after);
        const uint2 low = load_inside<uint2>(from, inside);
        const uint2 high = load_inside<uint2>(source.at(line, after, at.flat + 1), after_inside);
        return make_uint4((low.x & 0xffff) | high.x << 16, low.x >> 16 | (high.x & 0xffff0000),
                          (low.y & 0xffff) | high.y << 16, low.y >> 16 | (high.y & 0xffff0000));
    }
};

// Reads four words element by element; each element may be outside.
template <class Source>
struct LineReader<Source, false> {
    static constexpr u32 LINES = Source::ALONG_K ? 1 : 4;

    typename Source::Line lines[LINES];
    u32 present;  // The number of lines that exist, at most 4.

    __device__ __forceinline__ void begin(const Source& source, u32 number) {
        present = number < source.lines ? min(source.lines - number, 4u) : 0;
        unroll<LINES>([&](u32 i) { lines[i] = source.line_of(number + i); });
    }

    __device__ __forceinline__ uint4 read(const Source& source, const Cursor& at) const {
        u32 words[4] = {};
        Digits k = at.k;
#pragma unroll
        for (u32 i = 0; i < 4 * PER_WORD; ++i) {
            // Along k, the words are consecutive in one line; otherwise each word is from a different line.
            const u32 along = Source::ALONG_K ? i : i / 4, of = Source::ALONG_K ? 0 : i % 4;
            const u32 word = Source::ALONG_K ? i / PER_WORD : i % 4, flat = at.flat + along;
            if (of < present && flat < source.depth && source.inside(lines[of], k)) {
                words[word] |= (u32)read_pack<1>(source.at(lines[of], k, flat)).words[0] << 16 * (along % PER_WORD);
            }
            if (Source::ALONG_K || i % 4 == 3) add_one(k, source.radix);
        }
        return make_uint4(words[0], words[1], words[2], words[3]);
    }
};

// Copies the tiles of one operand, WIDTH lines of DEPTH words, into shared memory.
template <class Source, bool VECTOR, u32 WIDTH>
struct Loader {
    static constexpr u32 VECTORS = WIDTH * DEPTH / 4;
    static constexpr u32 SLOTS = (VECTORS + BLOCK - 1) / BLOCK;
    // Along k, the four words of a vector are stored to four addresses; otherwise they are contiguous.
    static constexpr u32 TARGETS = Source::ALONG_K ? 4 : 1;
    // Along k, all of a thread's vectors start at the same word, and their lines differ by a multiple of the swizzle's
    // period.
    static constexpr u32 CURSORS = Source::ALONG_K ? 1 : SLOTS, SLOT_STRIDE = BLOCK / (DEPTH / 4);
    static_assert(BLOCK % (DEPTH / 4) == 0 && SLOT_STRIDE % 32 == 0, "all slots share one cursor and one swizzle");

    LineReader<Source, VECTOR> readers[SLOTS];
    Cursor cursors[CURSORS];
    uint4 words[SLOTS];
    u32* targets[CURSORS][TARGETS];

    static __device__ __forceinline__ u32 line(u32 vector) {
        return Source::ALONG_K ? vector / (DEPTH / 4) : vector % (WIDTH / 4) * 4;
    }
    static __device__ __forceinline__ u32 word(u32 vector) {
        return Source::ALONG_K ? vector % (DEPTH / 4) * 4 : vector / (WIDTH / 4);
    }

    __device__ __forceinline__ void begin(const Source& source, u32* cells, u32 first_line, u32 first_k) {
#pragma unroll
        for (u32 slot = 0; slot < SLOTS; ++slot) {
            const u32 vector = slot * BLOCK + threadIdx.x;
            readers[slot].begin(source, first_line + line(vector));
            if (slot >= CURSORS) continue;
            cursors[slot].begin(first_k + word(vector) * PER_WORD, source.radix);
            unroll<TARGETS>([&](u32 i) { targets[slot][i] = cells + cell<WIDTH>(word(vector) + i, line(vector)); });
        }
    }

    __device__ __forceinline__ void fetch(const Source& source, Digits step) {
        unroll<SLOTS>([&](u32 slot) {
            if (slot * BLOCK + threadIdx.x < VECTORS) words[slot] = readers[slot].read(source, cursors[slot % CURSORS]);
        });
        unroll<CURSORS>([&](u32 i) { cursors[i].advance(step, source.radix); });
    }

    // Stores the fetched words to the buffer that starts `offset` words after the first.
    __device__ __forceinline__ void store_shared(u32 offset) const {
#pragma unroll
        for (u32 slot = 0; slot < SLOTS; ++slot) {
            if (slot * BLOCK + threadIdx.x >= VECTORS) return;
            Pack<4, u32> bits;
            bits.words[0] = words[slot];
            if constexpr (Source::ALONG_K) {
                unroll<4>([&](u32 i) { targets[0][i][slot * SLOT_STRIDE + offset] = bits.lane[i]; });
            } else {
                store_pack(targets[slot % CURSORS][0] + offset, bits);
            }
        }
    }
};
