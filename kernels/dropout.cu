// Dropout. The mask is a function of seed, step, layer index and element position. It is never stored: the forward and
// backward passes both compute it.
#include "philox.cuh"

struct DropoutState {
    u64 seed, step;
};
static_assert(sizeof(DropoutState) == 16, "the layout is shared with Rust");

struct DropoutParams : Params<2, 3, 48> {
    const real* input;
    const DropoutState* state;
    real* output;
    u64 count;
    u32 index, threshold;
    float scale;
};

// output = bits(i) >= threshold ? scale · input : 0. One thread per 16 bytes; output may be input.
KERNEL(dropout, DropoutParams) {
    const u64 seed = p.state->seed, step = p.state->step;
    GRID_STRIDE(i, (p.count + VEC - 1) / VEC) {
        Lanes<VEC> values = load_some(p.input, i * VEC, p.count);
#pragma unroll
        for (u32 lane = 0; lane < VEC; lane += 4) {
            const uint4 bits = draw(seed, PURPOSE_DROPOUT, p.index, (step << 32) + (i * VEC + lane) / 4);
            const u32 words[4] = {bits.x, bits.y, bits.z, bits.w};
            unroll<4>([&](u32 word) {
                values[lane + word] = words[word] >= p.threshold ? p.scale * values[lane + word] : 0.0f;
            });
        }
        store_some(p.output, values, i * VEC, p.count);
    }
}

struct DropoutStepParams : Params<0, 1, 8> {
    DropoutState* state;
};

// Advances the step counter after a step, in one thread.
KERNEL(next_dropout_step, DropoutStepParams) {
    if (blockIdx.x == 0 && threadIdx.x == 0) p.state->step += 1;
}
