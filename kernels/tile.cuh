// A block's tile of a matrix product, and how its operands are gathered: from memory into registers while the tile before
// is multiplied, and from there into shared memory.
//
// Shared memory holds 32-bit words: a float, or two halves that follow each other along the inner dimension k. A tile is
// DEPTH words deep, double-buffered, and swizzled so that neither the transposing stores nor the reads of a warp meet
// in one bank.
#pragma once

#include "mma.cuh"

constexpr u32 DEPTH = 16;
constexpr u32 PER_WORD = 4 / sizeof(real);
constexpr u32 TILE_K = DEPTH * PER_WORD;

// A warp's part of a tile, and each thread's sums of it.
constexpr u32 WARP_ROWS = 32, WARP_COLS = 16;
constexpr u32 SUMS = WARP_ROWS * WARP_COLS / WARP;

// A block's tile: its eight warps lie side by side. VECTOR says whether operands are loaded by 16 bytes.
template <u32 ROWS_, u32 COLS_, bool VECTOR_>
struct Tile {
    static constexpr u32 ROWS = ROWS_, COLS = COLS_;
    static constexpr bool VECTOR = VECTOR_;
    static_assert(ROWS / WARP_ROWS * (COLS / WARP_COLS) * WARP == BLOCK, "a block has eight warps");
};

// Words of shared memory that any of these tiles takes.
constexpr u32 TILE_WORDS = 2 * DEPTH * (128 + 32);

template <u32 WIDTH>
__device__ __forceinline__ u32 cell(u32 word, u32 line) {
    return word * WIDTH + (line ^ (((word ^ word >> 2) & 3) << 3));
}

// ---- Numbers of three digits, low to high: an index along a window or over an image, stepped without division.
struct Digits {
    u32 low, mid, high;
};
struct Radix {
    u32 low, mid;
};

__device__ __forceinline__ Digits digits_of(u32 value, Radix radix) {
    Digits digits;
    const u32 rest = value / radix.low;
    digits.low = value - rest * radix.low;
    digits.high = rest / radix.mid;
    digits.mid = rest - digits.high * radix.mid;
    return digits;
}

// `step`'s digits are below the radix, too.
__device__ __forceinline__ void add(Digits& digits, Digits step, Radix radix) {
    digits.low += step.low;
    u32 carry = digits.low >= radix.low;
    if (carry) digits.low -= radix.low;
    digits.mid += step.mid + carry;
    carry = digits.mid >= radix.mid;
    if (carry) digits.mid -= radix.mid;
    digits.high += step.high + carry;
}

__device__ __forceinline__ void add_one(Digits& digits, Radix radix) {
    if (++digits.low < radix.low) return;
    digits.low = 0;
    if (++digits.mid < radix.mid) return;
    digits.mid = 0;
    ++digits.high;
}

// A radix under which a number is one digit.
constexpr u32 UNDIVIDED = 0xffffffffu;

// ---- Operands. A source names elements by line (a row of A, a column of B) and k:
//   ALONG_K             whether neighbours along k are neighbours in memory; else those along lines are
//   lines, depth        how many there are of each; beyond them are zeros
//   radix               how k is split into digits
//   Line line_of(line)  what an address needs to know of a line
//   address(Line, k)    of the element; null where it is zero, as padding is
// Where VECTOR is set, the neighbours of one load are inside together, or outside, and begin on its size.

__device__ __forceinline__ u32 bits_of(float value) { return __float_as_uint(value); }
__device__ __forceinline__ u32 bits_of(half value) { return value.bits; }

// Four neighbouring elements.
__device__ __forceinline__ void load_four(u32 (&bits)[4], const float* from) {
    const uint4 four = *reinterpret_cast<const uint4*>(from);
    bits[0] = four.x, bits[1] = four.y, bits[2] = four.z, bits[3] = four.w;
}
__device__ __forceinline__ void load_four(u32 (&bits)[4], const half* from) {
    const uint2 four = *reinterpret_cast<const uint2*>(from);
    bits[0] = four.x & 0xffff, bits[1] = four.x >> 16, bits[2] = four.y & 0xffff, bits[3] = four.y >> 16;
}

// Where one thread reads one vector of four words, tile after tile.
template <class Source, bool VECTOR>
struct Place {
    static constexpr u32 LINES = Source::ALONG_K || VECTOR ? 1 : 4;

    typename Source::Line lines[LINES];
    u32 present;  // How many of the lines there are.
    u32 k;
    Digits at;

    __device__ __forceinline__ void begin(const Source& source, u32 line, u32 first_k) {
        present = line < source.lines ? min(source.lines - line, 4u) : 0;
        k = first_k;
        at = digits_of(k, source.radix);
#pragma unroll
        for (u32 i = 0; i < LINES; ++i) lines[i] = source.line_of(line + i);
    }

    // The four words; then on to the next tile.
    __device__ __forceinline__ uint4 fetch(const Source& source, Digits step) {
        uint4 words = make_uint4(0, 0, 0, 0);
        if (present != 0) words = Source::ALONG_K ? along_k(source) : along_lines(source);
        k += TILE_K;
        add(at, step, source.radix);
        return words;
    }

private:
    // One line's neighbours along k.
    __device__ __forceinline__ uint4 along_k(const Source& source) const {
        Vec vec;
        vec.bytes = make_uint4(0, 0, 0, 0);
        Digits digits = at;
#pragma unroll
        for (u32 lane = 0; lane < (VECTOR ? 1 : VEC); ++lane) {
            const real* from = k + lane < source.depth ? source.address(lines[0], digits) : nullptr;
            if (from && VECTOR) vec = load_vec(from);
            if (from && !VECTOR) vec.lane[lane] = *from;
            if (!VECTOR) add_one(digits, source.radix);
        }
        return vec.bytes;
    }

    // Four lines' elements at each k of a word.
    __device__ __forceinline__ uint4 along_lines(const Source& source) const {
        u32 words[4] = {};
        Digits digits = at;
#pragma unroll
        for (u32 part = 0; part < PER_WORD; ++part) {
            u32 bits[4] = {};
            if (k + part < source.depth) {
                if (VECTOR) {
                    const real* from = source.address(lines[0], digits);
                    if (from) load_four(bits, from);
                } else {
#pragma unroll
                    for (u32 i = 0; i < LINES; ++i) {
                        const real* from = i < present ? source.address(lines[i], digits) : nullptr;
                        if (from) bits[i] = bits_of(*from);
                    }
                }
            }
#pragma unroll
            for (u32 i = 0; i < 4; ++i) words[i] |= bits[i] << 16 * part;
            add_one(digits, source.radix);
        }
        return make_uint4(words[0], words[1], words[2], words[3]);
    }
};

// Brings one operand's tiles into shared memory, WIDTH lines of DEPTH words.
template <class Source, bool VECTOR, u32 WIDTH>
struct Loader {
    static constexpr u32 VECTORS = WIDTH * DEPTH / 4;
    static constexpr u32 SLOTS = (VECTORS + BLOCK - 1) / BLOCK;

    Place<Source, VECTOR> places[SLOTS];
    uint4 words[SLOTS];

    static __device__ __forceinline__ u32 line(u32 vector) {
        return Source::ALONG_K ? vector / (DEPTH / 4) : vector % (WIDTH / 4) * 4;
    }
    static __device__ __forceinline__ u32 word(u32 vector) {
        return Source::ALONG_K ? vector % (DEPTH / 4) * 4 : vector / (WIDTH / 4);
    }

    __device__ __forceinline__ void begin(const Source& source, u32 first_line, u32 first_k) {
#pragma unroll
        for (u32 slot = 0; slot < SLOTS; ++slot) {
            const u32 vector = slot * BLOCK + threadIdx.x;
            places[slot].begin(source, first_line + line(vector), first_k + word(vector) * PER_WORD);
        }
    }

    __device__ __forceinline__ void fetch(const Source& source, Digits step) {
#pragma unroll
        for (u32 slot = 0; slot < SLOTS; ++slot) {
            if (slot * BLOCK + threadIdx.x < VECTORS) words[slot] = places[slot].fetch(source, step);
        }
    }

    template <class Engine>
    __device__ __forceinline__ void keep(u32* cells) const {
#pragma unroll
        for (u32 slot = 0; slot < SLOTS; ++slot) {
            const u32 vector = slot * BLOCK + threadIdx.x;
            if (vector >= VECTORS) return;
            const u32 bits[4] = {Engine::rounded(words[slot].x), Engine::rounded(words[slot].y),
                                 Engine::rounded(words[slot].z), Engine::rounded(words[slot].w)};
            if (Source::ALONG_K) {
#pragma unroll
                for (u32 i = 0; i < 4; ++i) cells[cell<WIDTH>(word(vector) + i, line(vector))] = bits[i];
            } else {
                *reinterpret_cast<uint4*>(cells + cell<WIDTH>(word(vector), line(vector))) =
                    make_uint4(bits[0], bits[1], bits[2], bits[3]);
            }
        }
    }
};
