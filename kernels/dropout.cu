// Dropout: the mask is drawn from seed, step, index and place, forward as well as backward, and never kept.
#include "philox.cuh"

struct DropoutState {
    u64 seed, step;
};
static_assert(sizeof(DropoutState) == 16, "the layout is shared with Rust");

// output = bits(i) >= threshold ? scale · input : 0. One thread per 16 bytes.
KERNEL(dropout)(const real* input, real* output, const DropoutState* state, u64 count, u32 index, u32 threshold,
                float scale) {
    const u64 seed = state->seed, step = state->step;
    GRID_STRIDE(i, (count + VEC - 1) / VEC) {
        float values[VEC];
        load_some(values, input, i * VEC, count);
#pragma unroll
        for (u32 lane = 0; lane < VEC; lane += 4) {
            const uint4 bits = draw(seed, PURPOSE_DROPOUT, index, (step << 32) + (i * VEC + lane) / 4);
            const u32 words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
            for (u32 word = 0; word < 4; ++word) {
                values[lane + word] = words[word] >= threshold ? scale * values[lane + word] : 0.0f;
            }
        }
        store_some(output, values, i * VEC, count);
    }
}

// After a step, on one thread.
KERNEL(next_dropout_step)(DropoutState* state) {
    if (blockIdx.x == 0 && threadIdx.x == 0) state->step += 1;
}
