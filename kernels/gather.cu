// Builds a batch on the device: samples picked by the epoch's order, normalised, with their labels.
//
// The position in the order is device memory, so that one captured graph serves every step of an epoch.
#include "philox.cuh"
#include "reduce.cuh"

// Takes `batch` samples from the position on, which the last block then moves on by as many.
//
// output = (byte / 255 − mean[channel]) / std[channel], the same three roundings as on the CPU. One thread per value;
// `sample_size` is height · width · channels.
KERNEL(gather_normalise)(const u8* __restrict__ images, const u32* __restrict__ labels, const u32* __restrict__ order,
                         u64* position, const float* __restrict__ mean, const float* __restrict__ std,
                         real* __restrict__ output, u32* __restrict__ batch_labels, u32* arrived, u32 batch,
                         u32 sample_size, u32 channels) {
    __shared__ u32 flag;
    const u64 first = *position;
    GRID_STRIDE(i, (u64)batch * sample_size) {
        u64 row = i;
        const u32 offset = take_digit(row, sample_size);
        const u32 channel = offset % channels;
        const u64 sample = order[first + row];
        const float value = (float)images[sample * sample_size + offset] / 255.0f;
        store(output + i, (value - mean[channel]) / std[channel]);
        if (offset == 0) batch_labels[row] = labels[sample];
    }
    // Every block has read the position.
    if (arrives_last(arrived, gridDim.x, flag) && threadIdx.x == 0) *position = first + batch;
}

// What is drawn for one image.
struct Drawn {
    int top, left;
    u32 flip;
    int row_begin, row_end, column_begin, column_end;
    float brightness, contrast;
};

static __device__ __forceinline__ int below(u32 word, u32 bound) { return (int)((u64)word * bound >> 32); }

// Uniform in 1 ± spread, with one rounding.
static __device__ __forceinline__ float around_one(u32 word, float spread) {
    return fmaf((float)(word >> 8) * (1.0f / (1 << 23)) - 1.0f, spread, 1.0f);
}

// The same as everywhere: what `Augmentation::draw` of src/ops/gather.rs says.
static __device__ __forceinline__ Drawn draw_for(u64 seed, u32 epoch, u64 position, u32 height, u32 width,
                                                 u32 crop_padding, u32 flip, u32 cutout, float brightness,
                                                 float contrast) {
    const uint4 a = draw(seed, PURPOSE_AUGMENTATION, epoch, 2 * position);
    const uint4 b = draw(seed, PURPOSE_AUGMENTATION, epoch, 2 * position + 1);
    Drawn drawn;
    drawn.top = below(a.x, 2 * crop_padding + 1) - (int)crop_padding;
    drawn.left = below(a.y, 2 * crop_padding + 1) - (int)crop_padding;
    drawn.flip = flip && a.z >> 31;
    drawn.row_begin = below(a.w, height) - (int)(cutout / 2);
    drawn.row_end = drawn.row_begin + (int)cutout;
    drawn.column_begin = below(b.x, width) - (int)(cutout / 2);
    drawn.column_end = drawn.column_begin + (int)cutout;
    drawn.brightness = around_one(b.y, brightness);
    drawn.contrast = around_one(b.z, contrast);
    return drawn;
}

// The same for training images that are changed as drawn for their position in the order of `epoch`. blockIdx.x names
// the sample, blockIdx.y its share of values.
KERNEL(gather_augment)(const u8* __restrict__ images, const u32* __restrict__ labels, const u32* __restrict__ order,
                       u64* position, const float* __restrict__ mean, const float* __restrict__ std,
                       real* __restrict__ output, u32* __restrict__ batch_labels, u32* arrived,
                       const u32* __restrict__ epoch, u64 seed, u32 height, u32 width, u32 channels, u32 crop_padding,
                       u32 flip, u32 cutout, float brightness, float contrast) {
    __shared__ u32 flag;
    __shared__ Drawn drawn;
    const u64 first = *position, place = first + blockIdx.x, sample = order[place];
    if (threadIdx.x == 0) {
        drawn = draw_for(seed, *epoch, place, height, width, crop_padding, flip, cutout, brightness, contrast);
        if (blockIdx.y == 0) batch_labels[blockIdx.x] = labels[sample];
    }
    __syncthreads();
    const u64 size = (u64)height * width * channels;
    const u8* image = images + sample * size;
    real* target = output + blockIdx.x * size;
    for (u64 i = (u64)blockIdx.y * BLOCK + threadIdx.x; i < size; i += (u64)gridDim.y * BLOCK) {
        u64 pixel = i;
        const u32 channel = take_digit(pixel, channels);
        const int column = (int)take_digit(pixel, width), row = (int)pixel;
        if (row >= drawn.row_begin && row < drawn.row_end && column >= drawn.column_begin && column < drawn.column_end) {
            store(target + i, 0.0f);
            continue;
        }
        const int y = row + drawn.top, x = (drawn.flip ? (int)width - 1 - column : column) + drawn.left;
        const bool inside = y >= 0 && y < (int)height && x >= 0 && x < (int)width;
        const u8 byte = inside ? image[((u64)y * width + x) * channels + channel] : 0;
        const float value = fminf((float)byte / 255.0f * drawn.brightness, 1.0f);
        store(target + i, (value - mean[channel]) / std[channel] * drawn.contrast);
    }
    // Every block has read the position.
    if (arrives_last(arrived, gridDim.x * gridDim.y, flag) && threadIdx.x == 0) *position = first + gridDim.x;
}
