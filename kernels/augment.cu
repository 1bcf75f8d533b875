// Random transforms of training pictures, which are drawn on the host before the epoch: one block transforms a picture as
// bytes, from which the batch is then gathered; rectangles of the gathered batch may be erased.
#include "pixels.cuh"
#include "resample.cuh"

// What is drawn for the pictures of an epoch, by position: `MATRIX_WORDS` words with affine maps, then for each picture
// these numbers and two words for each of its operations; `words_of` in src/cuda/sets.rs.
struct PictureDraw {
    int top, left;
    u32 height, width, flip;
    u32 erased[4];  // Top, left, height and width.
};
constexpr u32 MATRIX_WORDS = 64, DRAW_WORDS = sizeof(PictureDraw) / sizeof(u32);

static __device__ __forceinline__ const u32* draw_at(const u32* draws, u64 position, u32 op_count) {
    return draws + MATRIX_WORDS + position * (DRAW_WORDS + 2 * op_count);
}

struct StageParams : Params<4, 8, 104> {
    const u8* images;
    const u32* order;
    const u64* position;
    const u32* draws;
    u8 *pictures, *others;
    u32 *columns, *rows;
    u32 stored_height, stored_width, height, width, channels, resizes, reflect, op_count, other_size;
    static constexpr u32 SMALLEST = sizeof(u8);
};

// The crop of a picture of the same size after padding it with black or with its reflection, perhaps flipped.
static __device__ __forceinline__ void crop(const StageParams& p, const PictureDraw& drawn, const u8* image, u8* to) {
    for (u32 i = threadIdx.x; i < p.height * p.width * p.channels; i += BLOCK) {
        const u32 pixel = i / p.channels, channel = i % p.channels, column = pixel % p.width;
        int y = (int)(pixel / p.width) + drawn.top;
        int x = (int)(drawn.flip ? p.width - 1 - column : column) + drawn.left;
        if (p.reflect) y = reflected(y, (int)p.height), x = reflected(x, (int)p.width);
        const bool inside = (u32)y < p.height && (u32)x < p.width;
        to[i] = inside ? image[((u32)y * p.width + (u32)x) * p.channels + channel] : 0;
    }
}

// pictures[i] = transforms(images[order[position + i]]), as bytes. `others` has as much memory again for each picture.
//
// Grid: a block per picture. Bound by the instructions of its operations, each of which reads and writes the picture once,
// in the level-two cache.
KERNEL(stage_pictures, StageParams) {
    __shared__ u32 counts[MOST_PICTURE_CHANNELS * LEVELS];
    __shared__ u8 table[MOST_PICTURE_CHANNELS * LEVELS];
    const u64 position = *p.position + blockIdx.x;
    const u32 stride = p.stored_width * p.channels;
    const u8* const image = p.images + (u64)p.order[position] * p.stored_height * stride;
    const u32* const record = draw_at(p.draws, position, p.op_count);
    const PictureDraw drawn = *reinterpret_cast<const PictureDraw*>(record);
    const Picture picture{p.height, p.width, p.channels, counts, table};
    u8* const to = p.pictures + (u64)blockIdx.x * picture.size();
    u8* const other = p.others + (u64)blockIdx.x * p.other_size;
    if (p.resizes) {
        const u32 column_taps = (2 * ((max(p.stored_width, p.width) + p.width - 1) / p.width)) + 3;
        const u32 row_taps = (2 * ((max(p.stored_height, p.height) + p.height - 1) / p.height)) + 3;
        const Axis columns{p.columns + (u64)blockIdx.x * p.width * column_taps, column_taps};
        const Axis rows{p.rows + (u64)blockIdx.x * p.height * row_taps, row_taps};
        const u8* const corner = image + drawn.top * (int)stride + drawn.left * (int)p.channels;
        resize({corner, drawn.height, drawn.width, stride}, columns, rows, other, to, p.height, p.width, p.channels,
               drawn.flip != 0);
    } else {
        crop(p, drawn, image, to);
    }
    __syncthreads();
    u8* result = to;
#pragma unroll 1
    for (u32 op = 0; op < p.op_count; ++op) {
        const u32* const words = record + DRAW_WORDS + 2 * op;
        const int* const matrices = reinterpret_cast<const int*>(p.draws);
        result = apply(picture, words[0], words[1], matrices, result, result == to ? other : to);
    }
    if (result == to) return;
    for (u32 i = threadIdx.x; i < picture.size(); i += BLOCK) to[i] = result[i];
}

struct EraseParams : Params<2, 3, 40> {
    const u64* position;
    const u32* draws;
    real* output;
    u32 height, width, channels, op_count;
};

// Sets the rectangle drawn for each picture of the batch that was gathered last to 0.
//
// Grid: blockIdx.x selects the picture, blockIdx.y a share of its rectangle. Bound by writing a part of the batch.
KERNEL(erase_rectangles, EraseParams) {
    const u64 position = *p.position - gridDim.x + blockIdx.x;
    const PictureDraw drawn = *reinterpret_cast<const PictureDraw*>(draw_at(p.draws, position, p.op_count));
    const u32 top = drawn.erased[0], left = drawn.erased[1], line = drawn.erased[3] * p.channels;
    real* const image = p.output + (u64)blockIdx.x * p.height * p.width * p.channels;
    for (u32 i = blockIdx.y * BLOCK + threadIdx.x; i < drawn.erased[2] * line; i += gridDim.y * BLOCK)
        store(image + ((top + i / line) * p.width + left) * p.channels + i % line, 0.0f);
}
