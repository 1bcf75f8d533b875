// Builds a batch on the device: samples picked by the epoch's order, normalised, with their labels.
//
// The position in the order is device memory, so that one captured graph serves every step of an epoch.
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
