// Builds a batch on the device: samples in the epoch's order, normalised, with their labels.
//
// The position in the order is in device memory, so that one captured graph serves every step of an epoch.
#include "philox.cuh"
#include "reduce.cuh"

struct GatherParams : Params<5, 9, 88> {
    const u8* images;
    const u32 *labels, *order;
    const float *mean, *std;
    u64* position;
    real* output;
    u32 *batch_labels, *block_counters;
    u32 batch, sample_size, channels;
    static constexpr u32 SMALLEST = sizeof(u8);
};

// output = (byte / 255 − mean[channel]) / std[channel] for the next `batch` samples, with the same three roundings as
// on the CPU. The last block advances the position by `batch`. One thread per value; `sample_size` is
// height · width · channels.
KERNEL(gather_normalise, GatherParams) {
    __shared__ u32 flag;
    const u64 first = *p.position;
    GRID_STRIDE(i, (u64)p.batch * p.sample_size) {
        u64 row = i;
        const u32 offset = divmod(row, p.sample_size);
        const u32 channel = offset % p.channels;
        const u64 sample = __ldg(p.order + first + row);
        const float value = (float)__ldg(p.images + sample * p.sample_size + offset) / 255.0f;
        store(p.output + i, (value - read(p.mean + channel)) / read(p.std + channel));
        if (offset == 0) p.batch_labels[row] = __ldg(p.labels + sample);
    }
    // Every block has read the position.
    if (is_last_block(p.block_counters, gridDim.x, flag) && threadIdx.x == 0) *p.position = first + p.batch;
}

struct AugmentParams : Params<6, 10, 112> {
    const u8* images;
    const u32 *labels, *order;
    const float *mean, *std;
    const u64* draws;  // Seed and epoch, which determine the augmentations.
    u64* position;
    real* output;
    u32 *batch_labels, *block_counters;
    u32 height, width, channels, crop_padding, flip, cutout;
    float brightness, contrast;
    static constexpr u32 SMALLEST = sizeof(u8);
};

// The random augmentation of one image.
struct AugmentationDraw {
    int top, left;
    u32 flip;
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
    drawn.flip = p.flip && a.z >> 31;
    drawn.row = uniform_below(a.w, p.height) - (int)(p.cutout / 2);
    drawn.column = uniform_below(b.x, p.width) - (int)(p.cutout / 2);
    drawn.brightness = jitter_factor(b.y, p.brightness);
    drawn.contrast = jitter_factor(b.z, p.contrast);
    return drawn;
}

// gather_normalise with random augmentation, drawn for each image's position in the epoch's order. blockIdx.x selects
// the sample, blockIdx.y a share of its values.
KERNEL(gather_augment, AugmentParams) {
    __shared__ u32 flag;
    __shared__ AugmentationDraw drawn;
    const u32 height = p.height, width = p.width, channels = p.channels;
    const u64 first = *p.position, position = first + blockIdx.x, sample = __ldg(p.order + position);
    if (threadIdx.x == 0) {
        drawn = draw_augmentation(p, position);
        if (blockIdx.y == 0) p.batch_labels[blockIdx.x] = __ldg(p.labels + sample);
    }
    __syncthreads();
    const u64 size = (u64)height * width * channels;
    const u8* image = p.images + sample * size;
    real* const target = p.output + blockIdx.x * size;
    for (u64 i = (u64)blockIdx.y * BLOCK + threadIdx.x; i < size; i += (u64)gridDim.y * BLOCK) {
        u64 pixel = i;
        const u32 channel = divmod(pixel, channels);
        const int column = (int)divmod(pixel, width), row = (int)pixel;
        // Above and left of the square, the subtraction wraps around to a number beyond it.
        if ((u32)(row - drawn.row) < p.cutout && (u32)(column - drawn.column) < p.cutout) {
            store(target + i, 0.0f);
            continue;
        }
        const int y = row + drawn.top, x = (drawn.flip ? (int)width - 1 - column : column) + drawn.left;
        const bool inside = y >= 0 && y < (int)height && x >= 0 && x < (int)width;
        const u8 byte = inside ? __ldg(image + ((u64)y * width + x) * channels + channel) : 0;
        const float value = fminf((float)byte / 255.0f * drawn.brightness, 1.0f);
        store(target + i, (value - read(p.mean + channel)) / read(p.std + channel) * drawn.contrast);
    }
    // Every block has read the position.
    if (is_last_block(p.block_counters, gridDim.x * gridDim.y, flag) && threadIdx.x == 0)
        *p.position = first + gridDim.x;
}
