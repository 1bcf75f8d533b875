// Mixes the images of a batch in pairs: mixup and cutmix.
#include "mix.cuh"
#include "reduce.cuh"

struct MixParams : Params<2, 4, 48> {
    const real* input;
    real* output;
    Mixes* mixes;
    u32* block_counters;
    u32 size, row, channels;  // Values of an image and of a row.
};

template <u32 V>
static __device__ __forceinline__ void mix_some(const MixParams& p) {
    const u64 step = p.mixes->next;
    const Mix mix = p.mixes->at(step);
    const u32 partner = mix_partner(blockIdx.x, gridDim.x);
    const real *own = p.input + (u64)blockIdx.x * p.size, *other = p.input + (u64)partner * p.size;
    real* const target = p.output + (u64)blockIdx.x * p.size;
    __syncthreads();  // All threads have read the step.
    const u32 announced = threadIdx.x == 0 ? announce(p.block_counters) : 0;
#pragma unroll 1
    for (u32 i = (blockIdx.y * BLOCK + threadIdx.x) * V; i < p.size; i += gridDim.y * BLOCK * V) {
        Lanes<V> values = load_lanes<V>(own + i);
        const Lanes<V> others = load_lanes<V>(other + i);
        unroll<V>([&](u32 lane) {
            if (!mix.is_cut) {
                // The roundings of PyTorch: no fused multiply-add.
                values[lane] = __fmul_rn(others[lane], mix.other) + __fmul_rn(values[lane], mix.own);
                return;
            }
            const u32 row = (i + lane) / p.row, column = (i + lane) % p.row / p.channels;
            const bool inside = row >= mix.top && row < mix.bottom && column >= mix.left && column < mix.right;
            if (inside) values[lane] = others[lane];
        });
        store_lanes(target + i, values);
    }
    if (threadIdx.x == 0 && is_last_announced(p.block_counters, announced, gridDim.x * gridDim.y))
        p.mixes->next = step + 1;
}

// output[n] = other · input[n − 1] + own · input[n] for the images n of a batch, or input[n] with a rectangle of
// input[n − 1], where the image before the first is the last. The last block advances to the next mix.
//
// Grid: blockIdx.x selects the image, blockIdx.y a share of its values. Bound by memory: of three accesses per value, one
// is to the L2 cache.
KERNEL(mix_images, MixParams) { mix_some<1>(p); }
KERNEL(mix_images_vec, MixParams) { mix_some<VEC>(p); }
