// The counter-based random number generator Philox 4×32-10; produces the same numbers as src/rng.rs.
//
// Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC11).
#pragma once

#include "common.cuh"

// What a random stream is used for: `Purpose` in src/rng.rs.
constexpr u32 PURPOSE_DROPOUT = 16;
constexpr u32 PURPOSE_AUGMENTATION = 17;
constexpr u32 PURPOSE_FLIP = 20;

// The four random words at `position` of stream `index` of a purpose.
static __device__ __forceinline__ uint4 draw(u64 seed, u32 purpose, u32 index, u64 position) {
    uint4 counter = make_uint4((u32)position, (u32)(position >> 32), index, purpose);
    u32 low = (u32)seed, high = (u32)(seed >> 32);
#pragma unroll
    for (u32 round = 0; round < 10; ++round) {
        const u64 a = (u64)counter.x * 0xD2511F53u, b = (u64)counter.z * 0xCD9E8D57u;
        counter = make_uint4((u32)(b >> 32) ^ counter.y ^ low, (u32)b, (u32)(a >> 32) ^ counter.w ^ high, (u32)a);
        low += 0x9E3779B9u, high += 0xBB67AE85u;
    }
    return counter;
}
