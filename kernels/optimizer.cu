// SGD over the flat parameters, and the dynamic loss scale that stays on the device. Everything here is fp32.
#include "common.cuh"

// PyTorch's SGD, one thread per parameter:
//   g = gradient / scale + weight_decay · w;  buffer = momentum · buffer + g;
//   g = nesterov ? g + momentum · buffer : buffer;  w −= learning_rate · g.
// `buffer` null is no momentum; `loss_scale` null is 1; a raised `overflow` (null: never) skips the update. With fp16
// `next_rate` holds the index of this step's rate and that of the last, which holds on. With fp16
// storage `weights_real` (may be null) receives the rounded copy that the products read.
KERNEL(sgd)(float* __restrict__ weights, real* __restrict__ weights_real, const float* __restrict__ gradients,
            float* __restrict__ buffer, const u64* __restrict__ next_rate, const float* __restrict__ rates,
            const float* __restrict__ loss_scale, const int* __restrict__ overflow, u64 count, float momentum, float weight_decay, u32 nesterov) {
    if (overflow && *overflow) return;
    const u64 next = next_rate[0], last = next_rate[1];
    const float rate = rates[next < last ? next : last];
    const float inverse_scale = loss_scale ? 1.0f / *loss_scale : 1.0f;  // A power of two: exact.
    GRID_STRIDE(i, count) {
        const float weight = weights[i];
        float gradient = gradients[i] * inverse_scale + weight_decay * weight;
        if (buffer) {
            const float velocity = momentum * buffer[i] + gradient;
            buffer[i] = velocity;
            gradient = nesterov ? gradient + momentum * velocity : velocity;
        }
        const float updated = weight - rate * gradient;
        weights[i] = updated;
        if (sizeof(real) < sizeof(float) && weights_real) store(weights_real + i, updated);
    }
}

// Raises `overflow` where a gradient is not finite. It is lowered by update_loss_scale.
KERNEL(check_overflow)(const float* __restrict__ gradients, int* overflow, u64 count) {
    GRID_STRIDE(i, count) {
        if (!is_finite(gradients[i])) *overflow = 1;
    }
}

constexpr u32 GROWTH_INTERVAL = 2000;
constexpr float LARGEST_SCALE = 65536.0f * 256.0f;

// After the update: halves the scale on overflow (never below 1) and counts the skipped step, doubles it after 2000
// good steps in a row, and lowers the flag for the next step. One thread.
KERNEL(update_loss_scale)(float* loss_scale, u32* good_steps, u64* skipped_steps, int* overflow) {
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    if (*overflow) {
        *loss_scale = *loss_scale > 2.0f ? *loss_scale / 2.0f : 1.0f;
        *good_steps = 0;
        *skipped_steps += 1;
        *overflow = 0;
        return;
    }
    *good_steps += 1;
    if (*good_steps < GROWTH_INTERVAL) return;
    *good_steps = 0;
    if (*loss_scale < LARGEST_SCALE) *loss_scale *= 2.0f;
}
