// Builds a batch on the device: samples in the epoch's order, normalised, with their labels.
//
// The position in the order is in device memory, so that one captured graph serves every step of an epoch.
#include "philox.cuh"
#include "reduce.cuh"

// How the bytes of an image become values.
struct Levels {
    const float *mean, *std;
    float brightness, contrast;  // 1 without augmentation, which changes no bit.

    // The same roundings as on the CPU.
    __device__ __forceinline__ float value(u32 byte, u32 channel) const {
        const float level = fminf((float)byte / 255.0f * brightness, 1.0f);
        return (level - read(mean + channel)) / read(std + channel) * contrast;
    }
};

// Images of up to this many channels look values up in a table of all bytes: divisions would take longer than memory.
constexpr u32 MOST_TABLE_CHANNELS = 4, BYTES = 256;

// A table of the values of every byte for each channel, in shared memory. After `fill`, the caller waits for the block.
struct Table {
    real* values;
    u32 channels;

    __device__ __forceinline__ bool fits() const { return channels <= MOST_TABLE_CHANNELS; }
    __device__ __forceinline__ void fill(const Levels& levels) const {
        for (u32 i = threadIdx.x; fits() && i < channels * BYTES; i += BLOCK)
            store(values + i, levels.value(i % BYTES, i / BYTES));
    }
    // Vectors are only computed if the table fits.
    template <u32 V>
    __device__ __forceinline__ real value(const Levels& levels, u32 byte, u32 channel) const {
        if (V > 1 || fits()) return values[channel * BYTES + byte];
        real computed;
        store(&computed, levels.value(byte, channel));
        return computed;
    }
};

// Writes the block's share, by blockIdx.y, of an image: 16 bytes per thread from the first aligned address on, the values
// before and after them singly. Without `vectorised`, all values are written singly. `source.fill(at, pack)` computes the
// values from `at` on.
template <class Source>
static __device__ __forceinline__ void write_image(real* target, u32 size, bool vectorised, const Source& source) {
    const u32 misaligned = (u32)(reinterpret_cast<u64>(target) / sizeof(real) % VEC);
    const u32 head = min(misaligned ? VEC - misaligned : 0u, size);
    const u32 vectors = vectorised ? (size - head) / VEC : 0, singles = size - vectors * VEC;
    const u32 begin = blockIdx.y * BLOCK + threadIdx.x, stride = gridDim.y * BLOCK;
#pragma unroll 1
    for (u32 i = begin; i < vectors; i += stride) {
        Pack<VEC, real> pack;
        source.fill(head + i * VEC, pack);
        store_pack(target + head + i * VEC, pack);
    }
#pragma unroll 1
    for (u32 i = begin; i < singles; i += stride) {
        const u32 at = i < head ? i : i + vectors * VEC;
        Pack<1, real> pack;
        source.fill(at, pack);
        store_pack(target + at, pack);
    }
}

// V bytes, in one access if the address allows.
template <u32 V>
static __device__ __forceinline__ void read_bytes(u8 (&bytes)[V], const u8* from) {
    if constexpr (V > 1) {
        if (reinterpret_cast<u64>(from) % V == 0) {
            const Pack<V, u8> pack = read_pack<V>(from);
            unroll<V>([&](u32 lane) { bytes[lane] = pack.lane[lane]; });
            return;
        }
    }
    unroll<V>([&](u32 lane) { bytes[lane] = __ldg(from + lane); });
}

// An image without augmentation.
struct PlainImage {
    const u8* bytes;
    Levels levels;
    Table table;

    template <u32 V>
    __device__ __forceinline__ void fill(u32 at, Pack<V, real>& pack) const {
        u8 lanes[V];
        read_bytes(lanes, bytes + at);
        u32 channel = at % table.channels;
        unroll<V>([&](u32 lane) {
            pack.lane[lane] = table.value<V>(levels, lanes[lane], channel);
            channel = channel + 1 == table.channels ? 0 : channel + 1;
        });
    }
};

struct GatherParams : Params<6, 10, 88> {
    const u8 *images,
        *staged;  // Images that were transformed are in the order of the batch, others in that of the set.
    const u32 *labels, *order;
    const float *mean, *std;
    u64* position;
    real* output;
    u32 *batch_labels, *block_counters;
    u32 sample_size, channels;
    static constexpr u32 SMALLEST = sizeof(u8);
};

// output = (byte / 255 − mean[channel]) / std[channel] for the samples at the next gridDim.x positions of the order. The
// last block advances the position.
//
// Grid: blockIdx.x selects the sample, blockIdx.y a share of its values. Bound by memory: in fp16 3 bytes per value, for
// 128×224×224×3 58 MB, which takes an H200 at least 12 + 1.3 µs.
KERNEL(gather_normalise, GatherParams, BLOCK, 4) {
    __shared__ real values[MOST_TABLE_CHANNELS * BYTES];
    const u64 first = *p.position, sample = __ldg(p.order + first + blockIdx.x);
    const u8* const bytes = p.staged ? p.staged + (u64)blockIdx.x * p.sample_size : p.images + sample * p.sample_size;
    const PlainImage image{bytes, {p.mean, p.std, 1.0f, 1.0f}, {values, p.channels}};
    image.table.fill(image.levels);
    __syncthreads();  // The table is complete, and all threads have read the position.
    u32 announced = 0;
    if (threadIdx.x == 0) {
        announced = announce(p.block_counters);
        if (blockIdx.y == 0) p.batch_labels[blockIdx.x] = __ldg(p.labels + sample);
    }
    write_image(p.output + (u64)blockIdx.x * p.sample_size, p.sample_size, image.table.fits(), image);
    if (threadIdx.x == 0 && is_last_announced(p.block_counters, announced, gridDim.x * gridDim.y))
        *p.position = first + gridDim.x;
}

struct AugmentParams : Params<8, 12, 136> {
    const u8 *images, *staged;  // As in GatherParams.
    const u32 *labels, *order, *indices;
    const float *mean, *std;
    const u64* draws;  // Seed and epoch, which determine the augmentations.
    u64* position;
    real* output;
    u32 *batch_labels, *block_counters;
    u32 height, width, channels, crop_padding, reflect, flip, cutout;
    float brightness, contrast;
    static constexpr u32 SMALLEST = sizeof(u8);
};

// Values of AugmentParams::flip: `Flip` in src/ops/gather.rs.
constexpr u32 FLIP_RANDOM = 1, FLIP_ALTERNATING = 2;

// The random augmentation of one image.
struct AugmentationDraw {
    int top, left;
    u32 reflect, flip;
    int row, column;  // Top left corner of the cutout square.
    float brightness, contrast;
};

static __device__ __forceinline__ int uniform_below(u32 word, u32 bound) { return (int)((u64)word * bound >> 32); }

// A uniform random number in 1 ± spread, with one rounding.
static __device__ __forceinline__ float jitter_factor(u32 word, float spread) {
    return fmaf((float)(word >> 8) * (1.0f / (1 << 23)) - 1.0f, spread, 1.0f);
}

// Computes exactly what `Augmentation::draw` in src/ops/gather.rs computes.
static __device__ __forceinline__ AugmentationDraw draw_augmentation(const AugmentParams& p, u64 position) {
    const u64 seed = p.draws[0];
    const u32 epoch = (u32)p.draws[1];
    const uint4 a = draw(seed, PURPOSE_AUGMENTATION, epoch, 2 * position);
    const uint4 b = draw(seed, PURPOSE_AUGMENTATION, epoch, 2 * position + 1);
    AugmentationDraw drawn;
    drawn.top = uniform_below(a.x, 2 * p.crop_padding + 1) - (int)p.crop_padding;
    drawn.left = uniform_below(a.y, 2 * p.crop_padding + 1) - (int)p.crop_padding;
    drawn.reflect = p.reflect;
    drawn.flip = p.flip == FLIP_RANDOM && a.z >> 31;
    if (p.flip == FLIP_ALTERNATING)
        drawn.flip = draw(seed, PURPOSE_FLIP, 0, __ldg(p.indices + position)).x >> 31 ^ epoch % 2;
    drawn.row = uniform_below(a.w, p.height) - (int)(p.cutout / 2);
    drawn.column = uniform_below(b.x, p.width) - (int)(p.cutout / 2);
    drawn.brightness = jitter_factor(b.y, p.brightness);
    drawn.contrast = jitter_factor(b.z, p.contrast);
    return drawn;
}

// An image with its augmentation.
struct AugmentedImage {
    const u8* bytes;
    Levels levels;
    Table table;
    int height, width;
    u32 cutout;
    AugmentationDraw drawn;

    __device__ __forceinline__ bool is_cut_out(int row, int column) const {
        // Above and left of the square, the subtraction wraps around to a number beyond it.
        return (u32)(row - drawn.row) < cutout && (u32)(column - drawn.column) < cutout;
    }
    // The byte of an output pixel; black in a padding that is not reflected.
    __device__ __forceinline__ u8 byte(int row, int column, u32 channel) const {
        int y = row + drawn.top, x = (drawn.flip ? width - 1 - column : column) + drawn.left;
        if (drawn.reflect) y = reflected(y, height), x = reflected(x, width);
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        return inside ? __ldg(bytes + ((u64)y * width + x) * table.channels + channel) : 0;
    }

    template <u32 V>
    __device__ __forceinline__ void fill(u32 at, Pack<V, real>& pack) const {
        const u32 pixel = at / table.channels;
        u32 channel = at - pixel * table.channels;
        int row = (int)(pixel / width), column = (int)(pixel % width);
        u8 lanes[V];
        u32 channels[V], cut_out = 0;
        // All bytes are read before the first is used.
        unroll<V>([&](u32 lane) {
            channels[lane] = channel;
            cut_out |= is_cut_out(row, column) ? 1u << lane : 0u;
            lanes[lane] = byte(row, column, channel);
            const bool next_pixel = ++channel == table.channels, next_row = next_pixel && column + 1 == width;
            channel = next_pixel ? 0 : channel;
            column = next_row ? 0 : column + (next_pixel ? 1 : 0);
            row += next_row ? 1 : 0;
        });
        unroll<V>([&](u32 lane) {
            pack.lane[lane] = table.value<V>(levels, lanes[lane], channels[lane]);
            if (cut_out >> lane & 1) store(&pack.lane[lane], 0.0f);
        });
    }
};

struct ViewParams : Params<5, 9, 96> {
    const u8* images;
    const u32 *labels, *order;
    const float *mean, *std;
    u64* position;
    real* output;
    u32 *batch_labels, *block_counters;
    u32 height, width, channels, flip;
    int shift;
    u32 advances;
    static constexpr u32 SMALLEST = sizeof(u8);
};

// gather_normalise of images that are moved up and to the left by `shift` pixels, with their reflection around them, and
// then mirrored with `flip`. The position only changes if it `advances`. Grid and bound: as gather_normalise.
KERNEL(gather_view, ViewParams, BLOCK, 4) {
    __shared__ real values[MOST_TABLE_CHANNELS * BYTES];
    const u64 first = *p.position, sample = __ldg(p.order + first + blockIdx.x);
    const u32 size = p.height * p.width * p.channels;
    const AugmentedImage image{p.images + sample * size,
                               {p.mean, p.std, 1.0f, 1.0f},
                               {values, p.channels},
                               (int)p.height,
                               (int)p.width,
                               0,
                               {p.shift, p.shift, 1, p.flip, 0, 0, 1.0f, 1.0f}};
    image.table.fill(image.levels);
    __syncthreads();  // The table is complete, and all threads have read the position.
    u32 announced = 0;
    if (threadIdx.x == 0) {
        announced = announce(p.block_counters);
        if (blockIdx.y == 0) p.batch_labels[blockIdx.x] = __ldg(p.labels + sample);
    }
    write_image(p.output + (u64)blockIdx.x * size, size, image.table.fits(), image);
    if (threadIdx.x == 0 && is_last_announced(p.block_counters, announced, gridDim.x * gridDim.y) && p.advances)
        *p.position = first + gridDim.x;
}

// gather_normalise with random augmentation, drawn for each image's position in the epoch's order. Grid and bound: as
// gather_normalise.
KERNEL(gather_augment, AugmentParams, BLOCK, 4) {
    __shared__ real values[MOST_TABLE_CHANNELS * BYTES];
    __shared__ AugmentationDraw shared_draw;
    const u64 first = *p.position, position = first + blockIdx.x, sample = __ldg(p.order + position);
    if (threadIdx.x == 0) {
        shared_draw = draw_augmentation(p, position);
        if (blockIdx.y == 0) p.batch_labels[blockIdx.x] = __ldg(p.labels + sample);
    }
    __syncthreads();  // All threads have read the position.
    u32 announced = 0;
    if (threadIdx.x == 0) announced = announce(p.block_counters);
    const AugmentationDraw drawn = shared_draw;
    const u32 size = p.height * p.width * p.channels;
    const AugmentedImage image{p.staged ? p.staged + (u64)blockIdx.x * size : p.images + sample * size,
                               {p.mean, p.std, drawn.brightness, drawn.contrast},
                               {values, p.channels},
                               (int)p.height,
                               (int)p.width,
                               p.cutout,
                               drawn};
    image.table.fill(image.levels);
    __syncthreads();
    write_image(p.output + (u64)blockIdx.x * size, size, image.table.fits(), image);
    if (threadIdx.x == 0 && is_last_announced(p.block_counters, announced, gridDim.x * gridDim.y))
        *p.position = first + gridDim.x;
}
