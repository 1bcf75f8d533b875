// The operands of a convolution as a multistage product, and their loaders, which copy stages from global memory
// asynchronously while earlier ones are multiplied.
//
// A thread copies one chunk of some of the rows. What depends on its lines is computed before the loop; `copy_next` copies
// the thread's chunks of the next stage and moves on along k. VECTOR selects copies of 16 bytes, which need channel counts
// that are multiples of VEC and aligned tensors; otherwise every element is copied alone.
#pragma once

#include "conv2d.cuh"
#include "digits.cuh"
#include "stages.cuh"

// Windows over an image: window (y, x) has element (ky, kx, c) at pixel (y · stride + start_y + ky, x · stride +
// start_x + kx), channel c. Elements in the padding are zero.
struct WindowGrid {
    u32 height, width;  // Windows of an image.
    u32 stride;         // In pixels.
    int start_y, start_x;
    u32 taps_y, taps_x;  // At most 16 each.
    u32 image_height, image_width, channels;

    __device__ __forceinline__ u32 depth() const { return taps_y * taps_x * channels; }
    __device__ __forceinline__ Radix taps() const { return Radix{channels, taps_x}; }
};

// The windows of a convolution's forward pass.
__device__ __forceinline__ WindowGrid forward_windows(const Geometry& op) {
    const int start = -(int)op.padding;
    return WindowGrid{op.out_height, op.out_width, op.stride, start,    start,
                      op.kernel,     op.kernel,    op.height, op.width, op.channels};
}

// The windows (x, y, sample) of every `apart`-th line of a product: one window per line, or if `pooled` four lines for
// each 2×2 pooling window, in scan order.
struct Lines {
    u32 line, lines, apart;
    bool pooled;
    Radix radix;
    Digits at, step;

    // `height` and `width` are of the grid of windows, `samples` the number of images. `apart` is a multiple of four.
    __device__ __forceinline__ Lines(u32 first, u32 apart, u32 height, u32 width, u32 samples, bool pooled)
        : line(first), apart(apart), pooled(pooled) {
        const u32 each = pooled ? 2 : 1;
        radix = Radix{width / each, height / each};
        lines = samples * radix.mid * radix.low * each * each;
        at = digits_of(first / (each * each), radix), step = digits_of(apart / (each * each), radix);
    }

    // The window of the next line; false beyond the last.
    __device__ __forceinline__ bool next(Digits& window) {
        window = at;
        if (pooled) window.low = 2 * at.low + line % 2, window.mid = 2 * at.mid + line / 2 % 2;
        const bool inside = line < lines;
        line += apart;
        add(at, step, radix);
        return inside;
    }
};

// Operand A along k: line = window, k = (c, kx, ky).
template <class Layout, u32 THREADS, bool VECTOR>
struct WindowRows {
    typedef Share<Layout, THREADS> My;
    static constexpr u32 DEPTH = Layout::CHUNKS * VEC;

    const real* image;
    WindowGrid grid;
    int offsets[My::COUNT];  // Of each line's window, in elements; negative in the padding.
    u32 masks[My::COUNT];    // Bit ky: row ky of the window is inside the image; bit 16 + kx: column kx is.
    u32 flat, depth;
    Digits k;

    __device__ __forceinline__ WindowRows(const real* image, const WindowGrid& grid, u32 first_k, Lines lines)
        : image(image), grid(grid), flat(first_k + My::chunk() * VEC), depth(grid.depth()) {
        k = digits_of(flat, grid.taps());
        unroll<My::COUNT>([&](u32 i) {
            Digits at;
            const bool inside = lines.next(at) && My::active();
            const int y = (int)(at.mid * grid.stride) + grid.start_y, x = (int)(at.low * grid.stride) + grid.start_x;
            u32 mask = 0;
            if (inside) {
#pragma unroll 1
                for (u32 tap = 0; tap < grid.taps_y; ++tap) mask |= (u32)(y + tap < grid.image_height) << tap;
#pragma unroll 1
                for (u32 tap = 0; tap < grid.taps_x; ++tap) mask |= (u32)(x + tap < grid.image_width) << (16 + tap);
            }
            masks[i] = mask;
            offsets[i] = (int)(((at.high * grid.image_height + y) * grid.image_width + x) * grid.channels);
        });
    }

    __device__ __forceinline__ bool is_inside(u32 i, const Digits& k) const {
        return masks[i] >> k.high & masks[i] >> (16 + k.mid) & 1;
    }
    __device__ __forceinline__ int step(const Digits& k) const {
        return (int)((k.high * grid.image_width + k.mid) * grid.channels + k.low);
    }

    __device__ __forceinline__ void copy_next(u32 stage) {
        if (!My::active()) return;
        const bool deep = flat < depth;
        const int along = step(k);
        unroll<My::COUNT>([&](u32 i) {
            if constexpr (VECTOR) {
                const bool inside = deep && is_inside(i, k);
                My::copy(stage, i, image + (inside ? (long long)(offsets[i] + along) : 0), inside);
            } else {
                Digits element = k;
                copy_elements(stage + Layout::at(My::row(i), My::chunk()), image, [&](u32 e) -> const real* {
                    const bool inside = flat + e < depth && is_inside(i, element);
                    const real* const from = inside ? image + (offsets[i] + step(element)) : nullptr;
                    add_one(element, grid.taps());
                    return from;
                });
            }
        });
        flat += DEPTH;
        k.low += DEPTH;
        while (k.low >= grid.channels) {
            k.low -= grid.channels;
            if (++k.mid == grid.taps_x) k.mid = 0, ++k.high;
        }
    }
};

// A plain matrix [lines][depth] along k, such as the weights of the forward pass.
template <class Layout, u32 THREADS, bool VECTOR>
struct MatrixRows {
    typedef Share<Layout, THREADS> My;
    static constexpr u32 DEPTH = Layout::CHUNKS * VEC;

    const real *matrix, *from;
    u32 depth, k, present;  // Bit i of `present`: the thread's row i exists.

    __device__ __forceinline__ MatrixRows(const real* matrix, u32 lines, u32 depth, u32 first_line, u32 first_k)
        : matrix(matrix), depth(depth), k(first_k + My::chunk() * VEC), present(0) {
        from = matrix + (u64)(first_line + My::row(0)) * depth + k;
        if (!My::active()) return;
        unroll<My::COUNT>([&](u32 i) { present |= (u32)(first_line + My::row(i) < lines) << i; });
    }

    __device__ __forceinline__ void copy_next(u32 stage) {
        if (!My::active()) return;
        unroll<My::COUNT>([&](u32 i) {
            const real* const row = from + (u64)(i * My::APART) * depth;
            const bool exists = present >> i & 1;
            if constexpr (VECTOR) {
                const bool inside = exists && k < depth;
                My::copy(stage, i, inside ? row : matrix, inside);
            } else {
                copy_elements(stage + Layout::at(My::row(i), My::chunk()), matrix,
                              [&](u32 e) { return exists && k + e < depth ? row + e : nullptr; });
            }
        });
        k += DEPTH, from += DEPTH;
    }
};

// A plain matrix [depth][lines], contiguous along lines: d_output for the weight gradient. Its depth ends at `end`.
template <class Layout, u32 THREADS, bool VECTOR>
struct MatrixColumns {
    typedef Share<Layout, THREADS> My;
    static constexpr u32 DEPTH = Layout::ROWS;

    const real *matrix, *from;
    u32 lines, line, k, end;

    __device__ __forceinline__ MatrixColumns(const real* matrix, u32 lines, u32 first_line, u32 first_k, u32 end)
        : matrix(matrix), lines(lines), line(first_line + My::chunk() * VEC), k(first_k + My::row(0)), end(end) {
        from = matrix + (u64)k * lines + line;
    }

    __device__ __forceinline__ void copy_next(u32 stage) {
        if (!My::active()) return;
        unroll<My::COUNT>([&](u32 i) {
            const real* const row = from + (u64)(i * My::APART) * lines;
            const bool deep = k + i * My::APART < end;
            if constexpr (VECTOR) {
                const bool inside = deep && line < lines;
                My::copy(stage, i, inside ? row : matrix, inside);
            } else {
                copy_elements(stage + Layout::at(My::row(i), My::chunk()), matrix,
                              [&](u32 e) { return deep && line + e < lines ? row + e : nullptr; });
            }
        });
        k += DEPTH, from += (u64)DEPTH * lines;
    }
};

// The windows of a forward pass, contiguous along lines: line = (c, kx, ky), k = output pixel. For the weight gradient.
template <class Layout, u32 THREADS, bool VECTOR>
struct WindowColumns {
    typedef Share<Layout, THREADS> My;
    static constexpr u32 DEPTH = Layout::ROWS;

    const real* image;
    WindowGrid grid;
    u32 line, lines, k, end;
    Digits tap, pixel, step;  // The pixel of k = `k`, and what to add for the next.

    __device__ __forceinline__ WindowColumns(const real* image, const WindowGrid& grid, u32 first_line, u32 first_k,
                                             u32 end)
        : image(image),
          grid(grid),
          line(first_line + My::chunk() * VEC),
          lines(grid.depth()),
          k(first_k + My::row(0)),
          end(end) {
        tap = digits_of(line, grid.taps());
        pixel = digits_of(k, pixel_radix()), step = digits_of(My::NEXT, pixel_radix());
    }

    __device__ __forceinline__ Radix pixel_radix() const { return Radix{grid.width, grid.height}; }

    // The address of the pixel's element of a tap, or null in the padding.
    __device__ __forceinline__ const real* element(const Digits& tap) const {
        const u32 y = pixel.mid * grid.stride + grid.start_y + tap.high;
        const u32 x = pixel.low * grid.stride + grid.start_x + tap.mid;
        if (y >= grid.image_height || x >= grid.image_width) return nullptr;
        return image + (((u64)pixel.high * grid.image_height + y) * grid.image_width + x) * grid.channels + tap.low;
    }

    __device__ __forceinline__ void copy_next(u32 stage) {
        if (!My::active()) return;
        unroll<My::COUNT>([&](u32 i) {
            if constexpr (VECTOR) {
                const real* const from = k < end && line < lines ? element(tap) : nullptr;
                My::copy(stage, i, from ? from : image, from != nullptr);
            } else {
                Digits each = tap;
                copy_elements(stage + Layout::at(My::row(i), My::chunk()), image, [&](u32 e) {
                    const real* const from = k < end && line + e < lines ? element(each) : nullptr;
                    add_one(each, grid.taps());
                    return from;
                });
            }
            k += My::NEXT;
            add(pixel, step, pixel_radix());
        });
    }
};

// The weights for the input gradient, contiguous along lines: line = channel, k = (out_channel, tap_x, tap_y), with the
// taps in reverse order: tap (ty, tx) is (last_y − ty · stride, last_x − tx · stride) of the kernel.
template <class Layout, u32 THREADS, bool VECTOR>
struct WeightColumns {
    typedef Share<Layout, THREADS> My;
    static constexpr u32 DEPTH = Layout::ROWS;

    const real* weight;
    const Geometry& op;
    u32 last_y, last_x, line, k, depth;
    Radix radix;
    Digits row, step;  // The digits of `k`, and what to add for the next.

    __device__ __forceinline__ WeightColumns(const real* weight, const Geometry& op, u32 last_y, u32 last_x,
                                             const WindowGrid& grid, u32 first_line, u32 first_k)
        : weight(weight),
          op(op),
          last_y(last_y),
          last_x(last_x),
          line(first_line + My::chunk() * VEC),
          k(first_k + My::row(0)),
          depth(grid.depth()),
          radix(grid.taps()) {
        row = digits_of(k, radix), step = digits_of(My::NEXT, radix);
    }

    __device__ __forceinline__ void copy_next(u32 stage) {
        if (!My::active()) return;
        unroll<My::COUNT>([&](u32 i) {
            const u32 tap = (last_y - row.high * op.stride) * op.kernel + last_x - row.mid * op.stride;
            const real* const from = weight + (u64)(row.low * op.kernel * op.kernel + tap) * op.channels + line;
            if constexpr (VECTOR) {
                const bool inside = k < depth && line < op.channels;
                My::copy(stage, i, inside ? from : weight, inside);
            } else {
                copy_elements(stage + Layout::at(My::row(i), My::chunk()), weight,
                              [&](u32 e) { return k < depth && line + e < op.channels ? from + e : nullptr; });
            }
            k += My::NEXT;
            add(row, step, radix);
        });
    }
};
