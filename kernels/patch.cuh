// Convolutions of stride 1 whose input stays in shared memory: a block copies the patch of the image under its tile once,
// 64 channels at a time, and multiplies it with the weights of every tap, beginning that many pixels further on. So the
// image is read about once instead of once per tap. By warpgroups (compute_90a), for multiples of 64 channels.
//
// The pixels of all images lie in one sequence of places: a row of the image takes `pitch` = width + padding places, an
// image height + padding rows. The places between are zeros, which serve as the right padding of one row and the left
// padding of the next. A tile is ROWS consecutive places; those that are no output are computed and dropped.
#pragma once

#include "products.cuh"
#include "wgmma_tile.cuh"

struct Places {
    u32 pitch, rows, samples;  // Places of a row of an image, rows of an image.

    __device__ __forceinline__ Places(u32 height, u32 width, u32 padding, u32 samples)
        : pitch(width + padding), rows(height + padding), samples(samples) {}
    __device__ __forceinline__ Radix radix() const { return Radix{pitch, rows}; }
    __device__ __forceinline__ u32 count() const { return samples * rows * pitch; }

    // The pixel at a place of images of this size; ~0u if there is none.
    __device__ __forceinline__ u32 pixel(u32 place, u32 height, u32 width) const {
        const Digits at = digits_of(place, radix());
        const bool inside = at.high < samples && at.mid < height && at.low < width;
        return inside ? (at.high * height + at.mid) * width + at.low : ~0u;
    }

    // The number of pixels at places before this one.
    __device__ __forceinline__ u32 pixels_before(u32 place, u32 height, u32 width) const {
        const Digits at = digits_of(place, radix());
        if (at.high >= samples) return samples * height * width;
        return at.high * height * width + (at.mid < height ? at.mid * width + min(at.low, width) : height * width);
    }
};

// Copies 64 channels of consecutive places to rows of 128 bytes: some rows at a time, while others are multiplied.
template <u32 THREADS>
struct PatchCopier {
    static constexpr u32 APART = THREADS / 8;

    const real* image;  // [samples][height][width][channels], from the thread's channel.
    u32 height, width, channels;
    const Places& places;
    u32 count, row;  // The number of places, and the thread's next.
    Digits start, at, step;

    __device__ __forceinline__ PatchCopier(const real* image, u32 height, u32 width, u32 channels, const Places& places,
                                           u32 count)
        : image(image + threadIdx.x % 8 * VEC),
          height(height),
          width(width),
          channels(channels),
          places(places),
          count(count) {
        step = digits_of(APART, places.radix());
    }

    // The next patch begins at place `first`, which may be before the first image by less than one image.
    __device__ __forceinline__ void begin(int first) {
        // One image further on, so that the number is not negative.
        const u32 one = places.rows * places.pitch;
        start = digits_of((u32)(first + (int)one) + threadIdx.x / 8, places.radix());
        restart();
    }
    __device__ __forceinline__ void restart() { at = start, row = threadIdx.x / 8; }

    // Copies the next rows of channels `channel` to `channel` + 63, up to row number `end` · APART.
    __device__ __forceinline__ void copy(u32 patch, u32 channel, u32 end) {
#pragma unroll 1
        for (; row < min(count, end * APART); row += APART) {
            const bool inside = at.high - 1 < places.samples && at.mid < height && at.low < width;
            const u32 pixel = ((at.high - 1) * height + at.mid) * width + at.low;
            const real* const from = inside ? image + ((u64)pixel * channels + channel) : image;
            copy_async<16>(patch + row * 128 + swizzled<8>(row, threadIdx.x % 8) * 16, from, inside);
            add(at, step, places.radix());
        }
    }
    __device__ __forceinline__ void copy_all(u32 patch, u32 channel) {
        copy(patch, channel, (count + APART - 1) / APART);
    }
};

// Copies the weights of one tap and 64 channels of the image: for the forward pass along k, [COLS][64]; for the input
// gradient along lines, [64][COLS], with the taps in reverse order.
template <class Tile, bool FORWARD>
struct TapWeights {
    typedef typename Tile::template AlongK<Tile::COLS> Rows;
    typedef typename Tile::template AlongLines<Tile::COLS> Columns;
    static constexpr u32 BYTES = Tile::COLS * 128;

    const real* weight;
    u32 first_col, cols, channels, taps;

    __device__ __forceinline__ void copy(u32 stage, u32 tap, u32 channel) const {
        if constexpr (FORWARD) {
            typedef Share<Rows, Tile::THREADS> My;
            if (!My::active()) return;
            unroll<My::COUNT>([&](u32 i) {
                const u32 col = first_col + My::row(i);
                const bool inside = col < cols;
                const u64 at = ((u64)col * taps + tap) * channels + channel + My::chunk() * VEC;
                My::copy(stage, i, inside ? weight + at : weight, inside);
            });
        } else {
            typedef Share<Columns, Tile::THREADS> My;
            if (!My::active()) return;
            unroll<My::COUNT>([&](u32 i) {
                const u32 col = first_col + My::chunk() * VEC;
                const bool inside = col < cols;
                const u64 at = ((u64)(channel + My::row(i)) * taps + (taps - 1 - tap)) * cols + col;
                My::copy(stage, i, inside ? weight + at : weight, inside);
            });
        }
    }
};

// Where a block's patches and weights are in shared memory. With several blocks of 64 channels there are two patches: one
// is multiplied while the other is copied.
struct PatchStages {
    u32 patch_bytes, weights;

    __device__ __forceinline__ PatchStages(u32 shared, u32 places, u32 channels) {
        patch_bytes = (places * 128 + 1023) / 1024 * 1024;
        weights = shared + patch_bytes * (channels > 64 ? 2 : 1);
    }
};

// sums = the convolution of the tile of places that `copier` reads the patch of. The weights are copied AHEAD taps ahead.
template <class Tile, u32 AHEAD, bool FORWARD>
__device__ __forceinline__ void multiply_patch(float (&sums)[Tile::SUMS], u32 shared,
                                               PatchCopier<Tile::THREADS>& copier, u32 kernel,
                                               const TapWeights<Tile, FORWARD>& weights) {
    constexpr u32 STAGES = AHEAD + 2, BYTES = TapWeights<Tile, FORWARD>::BYTES;
    const u32 pitch = copier.places.pitch, taps = kernel * kernel, blocks = copier.channels / 64;
    const u32 steps = taps * blocks, slices = taps - AHEAD;
    const u32 rounds = (copier.count + copier.APART - 1) / copier.APART;
    const PatchStages stages(shared, copier.count, copier.channels);
    copier.copy_all(shared, 0);
#pragma unroll 1
    for (u32 tap = 0; tap < AHEAD; ++tap) {  // There are more taps than AHEAD.
        weights.copy(stages.weights + tap * BYTES, tap, 0);
        commit_copies();
    }
    hold_registers(sums);
    u32 tap = 0, kx = 0, shift = 0, block = 0, ahead_tap = AHEAD, ahead_block = 0;
    u32 patch = shared, other = shared + stages.patch_bytes;
    u32 read = stages.weights, write = stages.weights + AHEAD * BYTES;
    const u32 end = stages.weights + STAGES * BYTES, first_row = threadIdx.x / 128 * Tile::DOWN * 64;
#pragma unroll 1
    for (u32 at = 0; at < steps; ++at) {
        wait_copies<AHEAD - 1>();
        fence_async_proxy();
        __syncthreads();
        wgmma_fence();
        unroll<4>([&](u32 step) {
            const u64 right = Tile::template operand<FORWARD>(read, 0, step);
            unroll<Tile::DOWN>([&](u32 i) {
                float (&part)[Tile::EACH] = reinterpret_cast<float (&)[Tile::EACH]>(sums[i * Tile::EACH]);
                const u64 left = Tile::template operand<true>(patch, first_row + i * 64 + shift, step);
                wgmma<false, false, !FORWARD>(part, left, right);
            });
        });
        wgmma_commit();
        if (ahead_block < blocks) weights.copy(write, ahead_tap, ahead_block * 64);
        if (block + 1 < blocks && tap >= 1 && tap <= slices) {
            if (tap == 1) copier.restart();
            copier.copy(other, (block + 1) * 64, rounds * tap / slices);
        }
        commit_copies();
        wgmma_wait<1>();  // The step before; the next copies overwrite its weights.
        if (++ahead_tap == taps) ahead_tap = 0, ++ahead_block;
        ++tap, ++shift;
        if (++kx == kernel) kx = 0, shift += pitch - kernel;
        if (tap == taps) {
            tap = 0, kx = 0, shift = 0, ++block;
            const u32 was = patch;
            patch = other, other = was;
        }
        read = read + BYTES == end ? stages.weights : read + BYTES;
        write = write + BYTES == end ? stages.weights : write + BYTES;
    }
    wgmma_wait<0>();
    hold_registers(sums);
    wait_copies<0>();
}

// The places that a tile of ROWS places needs of the image.
template <u32 ROWS>
__device__ __forceinline__ u32 patch_places(const Places& places, u32 kernel) {
    return ROWS + (kernel - 1) * (places.pitch + 1);
}

// output = act(convolution + bias).
template <class Tile, u32 AHEAD>
__device__ __forceinline__ void patch_forward(const Conv2dForwardParams& p) {
    unsigned char* const shared = stages_of<Tile>();
    const u32 cols = p.op.out_channels, across = (cols + Tile::COLS - 1) / Tile::COLS;
    const u32 first = blockIdx.x / across * Tile::ROWS, first_col = blockIdx.x % across * Tile::COLS;
    const Places places(p.op.height, p.op.width, p.op.padding, p.batch);
    PatchCopier<Tile::THREADS> copier(p.input, p.op.height, p.op.width, p.op.channels, places,
                                      patch_places<Tile::ROWS>(places, p.op.kernel));
    copier.begin((int)first - (int)(p.op.padding * (places.pitch + 1)));
    const TapWeights<Tile, true> weights{p.weight, first_col, cols, p.op.channels, p.op.kernel * p.op.kernel};
    float sums[Tile::SUMS] = {};
    multiply_patch<Tile, AHEAD>(sums, shared_address(shared), copier, p.op.kernel, weights);
    Results<Tile> results(shared, sums, p.bias ? p.bias + first_col : nullptr, cols - first_col);
    if (p.slope < 0.0f) results.apply_tanh();
    Distances distances(results);
    store_forward(results, p, first_col, distances,
                  [&](u32 row) { return places.pixel(first + row, p.op.out_height, p.op.out_width); });
    if (!p.saved) return;
    const u32 height = p.op.out_height, width = p.op.out_width;
    const u32 count =
        places.pixels_before(first + Tile::ROWS, height, width) - places.pixels_before(first, height, width);
    store_statistics(results, p, distances, count, first_col, blockIdx.x / across, gridDim.x / across);
}

// d_input = act'(output) · (convolution of d_output with the reversed weights), and d_bias, its column sums.
template <class Tile, u32 AHEAD>
__device__ __forceinline__ void patch_backward_input(const Conv2dInputParams& p) {
    unsigned char* const shared = stages_of<Tile>();
    const u32 cols = p.op.channels, across = (cols + Tile::COLS - 1) / Tile::COLS, tile = blockIdx.x / across;
    const u32 first = tile * Tile::ROWS, first_col = blockIdx.x % across * Tile::COLS;
    const u32 padding = p.op.kernel - 1 - p.op.padding;
    const Places places(p.op.out_height, p.op.out_width, padding, p.batch);
    PatchCopier<Tile::THREADS> copier(p.d_output, p.op.out_height, p.op.out_width, p.op.out_channels, places,
                                      patch_places<Tile::ROWS>(places, p.op.kernel));
    copier.begin((int)first - (int)(padding * (places.pitch + 1)));
    const TapWeights<Tile, false> weights{p.weight, first_col, cols, p.op.out_channels, p.op.kernel * p.op.kernel};
    float sums[Tile::SUMS] = {};
    multiply_patch<Tile, AHEAD>(sums, shared_address(shared), copier, p.op.kernel, weights);
    const Results<Tile> results(shared, sums, nullptr, 0);
    const GradientSums columns = store_backward_input(
        results, p, first_col, [&](u32 row) { return places.pixel(first + row, p.op.height, p.op.width); });
    store_gradient_sums(results, p, columns, first_col, tile, gridDim.x / across);
}

// The weight gradient of 3×3 convolutions. A block has 64 output channels, 64 channels and all taps, of which a warpgroup
// has one row: sums[kx] is d_weight[64][ky][kx][64]. The inner dimension is the places, CHUNK at a time; both operands are
// contiguous along lines, and a tap is the patch from that many places further on.
template <u32 CHUNK>
__device__ __forceinline__ void patch_backward_weight(const Conv2dWeightParams& p) {
    typedef WgmmaTile<1, 3, 64, 4> Part;  // A warpgroup's products, one for each kx.
    constexpr u32 THREADS = 3 * 128;
    unsigned char* const shared = stages_of<Part>();
    const u32 blocks = p.op.channels / 64, out_channel = blockIdx.x / blocks * 64, channel = blockIdx.x % blocks * 64;
    const u32 ky = threadIdx.x / 128;
    const Places places(p.op.height, p.op.width, p.op.padding, p.batch);
    PatchCopier<THREADS> input(p.input, p.op.height, p.op.width, p.op.channels, places, patch_places<CHUNK>(places, 3));
    PatchCopier<THREADS> gradients(p.d_output, p.op.out_height, p.op.out_width, p.op.out_channels, places, CHUNK);
    const Work work{0,          0,         blockIdx.x,
                    blockIdx.y, gridDim.y, ((places.count() + CHUNK - 1) / CHUNK + gridDim.y - 1) / gridDim.y};
    const Steps steps = steps_of(work, (places.count() + CHUNK - 1) / CHUNK);
    const u32 patch_bytes = (input.count * 128 + 1023) / 1024 * 1024;
    u32 now = shared_address(shared), next = now + patch_bytes + CHUNK * 128;
    const auto copy = [&](u32 step) {
        const u32 first = (steps.first + step) * CHUNK;
        input.begin((int)first - (int)(p.op.padding * (places.pitch + 1))), gradients.begin((int)first);
        input.copy_all(next, channel), gradients.copy_all(next + patch_bytes, out_channel);
        commit_copies();
    };
    float sums[Part::SUMS] = {};
    hold_registers(sums);
    if (steps.count > 0) copy(0);
#pragma unroll 1
    for (u32 at = 0; at < steps.count; ++at) {
        wait_copies<0>();
        fence_async_proxy();
        __syncthreads();
        const u32 was = now;
        now = next, next = was;
        wgmma_fence();
        unroll<CHUNK / 16>([&](u32 step) {
            const u64 left = operand_descriptor(now + patch_bytes + step * 2048, 8192, 1024);
            unroll<3>([&](u32 kx) {
                float (&part)[Part::EACH] = reinterpret_cast<float (&)[Part::EACH]>(sums[kx * Part::EACH]);
                const u32 place = ky * places.pitch + kx + step * 16;
                wgmma<false, true, true>(part, left, operand_descriptor(now + place * 128, 8192, 1024));
            });
        });
        wgmma_commit();
        if (at + 1 < steps.count) copy(at + 1);
        wgmma_wait<0>();
    }
    hold_registers(sums);
    if (!add_splits<THREADS>(sums, *reinterpret_cast<u32*>(shared), p.partials, p.counters, work)) return;
    const u32 row = threadIdx.x / WARP % 4 * 16 + threadIdx.x % WARP / 4, col = threadIdx.x % 4 * 2;
    unroll<6>([&](u32 i) {
        const u32 kx = i / 2, line = out_channel + row + i % 2 * 8;
        float* const to = p.d_weight + ((u64)line * 9 + ky * 3 + kx) * p.op.channels + channel + col;
        unroll<Part::ACROSS>([&](u32 j) {
            const float* const pair = sums + (kx * Part::ACROSS + j) * 4 + i % 2 * 2;
            store_lanes(to + j * 8, Lanes<2>{pair[0], pair[1]});
        });
    });
}
