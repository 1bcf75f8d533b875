// How batches are mixed: mixup and cutmix.
#pragma once

#include "common.cuh"

// How one batch is mixed: `Mix` in src/ops/mix.rs.
struct Mix {
    float own, other;              // Weights of an image's own label and values, and of the other's.
    u32 top, bottom, left, right;  // The rectangle of the other image.
    u32 is_cut;                    // Otherwise, values are mixed by their weights.
    u32 padding;
};
static_assert(sizeof(Mix) == 32, "the layout is shared with Rust");

// Header of the mixes of the steps that follow, which follow it in memory. `mix_images` advances `next`.
struct Mixes {
    u64 next, last;
    __device__ __forceinline__ const Mix& at(u64 step) const {
        return reinterpret_cast<const Mix*>(this + 1)[min(step, last)];
    }
};
static_assert(sizeof(Mixes) == 16, "the layout is shared with Rust");

// The image of a batch that an image is mixed with.
static __device__ __forceinline__ u32 mix_partner(u32 index, u32 count) { return (index ? index : count) - 1; }
