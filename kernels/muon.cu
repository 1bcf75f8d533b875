// Muon's directions: momentum, and the parts of the Newton–Schulz iteration that are not matrix products, which cuBLAS
// computes. Arithmetic is fp32; the iteration's matrices have the storage type.
#include "common.cuh"

struct MomentumParams : Params<2, 4, 48> {
    const float* loss_scale;  // Null for a fixed scale of 1.
    const int* overflow;      // Null without a loss scale.
    float *gradients, *momentum;
    u64 count;
    float factor;  // Of the momentum.
    u32 nesterov;
};

// g = gradient / loss_scale;  momentum = factor · momentum + g;  gradient = nesterov ? g + factor · momentum : momentum.
// If `overflow` is set, the momentum stays, as the update then skips the step.
//
// Grid: a thread per value. Bound by memory: 16 bytes per value.
KERNEL(muon_momentum, MomentumParams) {
    const float inverse_scale = p.loss_scale ? 1.0f / read(p.loss_scale) : 1.0f;
    const bool skipped = p.overflow && *p.overflow != 0;
    GRID_STRIDE(i, p.count) {
        const float gradient = p.gradients[i] * inverse_scale;
        const float velocity = fmaf(p.factor, p.momentum[i], gradient);
        p.gradients[i] = p.nesterov ? fmaf(p.factor, velocity, gradient) : velocity;
        if (!skipped) p.momentum[i] = velocity;
    }
}

struct StartParams : Params<2, 3, 40> {
    const float *source, *norm;
    real* target;
    u64 count;
    u32 rows, columns;
};

// The smallest norm that is divided by; `MIN_NORM` in src/ops/optimizer.rs.
constexpr float MIN_NORM = 1e-7f;

// NaN is passed on.
static __device__ __forceinline__ float bounded(float norm) { return norm < MIN_NORM ? MIN_NORM : norm; }

// Where the value at `i` of a matrix [rows][columns] is in its form with at most as many rows as columns.
static __device__ __forceinline__ u64 place(u64 i, u32 rows, u32 columns) {
    return rows > columns ? i % columns * rows + i / columns : i;
}

// target = source / norm; transposed if there are more rows than columns. Grid: a thread per value.
KERNEL(muon_start, StartParams) {
    const float inverse = 1.0f / bounded(read(p.norm));
    GRID_STRIDE(i, p.count) store(p.target + place(i, p.rows, p.columns), read(p.source + i) * inverse);
}

struct PolynomialParams : Params<1, 2, 40> {
    const real* gram;
    real* square;  // The gram matrix's; becomes the polynomial.
    u64 count;
    u32 side;
    float a, b, c;
};

// square = a · identity + b · gram + c · square, for matrices [side][side]. Grid: a thread per value.
KERNEL(muon_polynomial, PolynomialParams) {
    GRID_STRIDE(i, p.count) {
        const float diagonal = i / p.side == i % p.side ? p.a : 0.0f;
        store(p.square + i, fmaf(p.c, load(p.square[i]), fmaf(p.b, read(p.gram + i), diagonal)));
    }
}

struct FinishParams : Params<2, 3, 48> {
    const float* loss_scale;  // As in MomentumParams.
    const real* source;
    float* target;
    u64 count;
    u32 rows, columns;
    float factor;
};

// target = factor · source · loss_scale, by which the update divides, in the form [rows][columns]. Grid: a thread per
// value.
KERNEL(muon_finish, FinishParams) {
    const float factor = p.factor * (p.loss_scale ? read(p.loss_scale) : 1.0f);
    GRID_STRIDE(i, p.count) p.target[i] = factor * read(p.source + place(i, p.rows, p.columns));
}

struct NormaliseParams : Params<2, 3, 40> {
    const int* overflow;  // As in MomentumParams.
    const float* norm;
    float* weights;
    u64 count;
    float length;
};

// weights = weights · length / norm, unless the step is skipped. Grid: a thread per value.
KERNEL(muon_normalise, NormaliseParams) {
    if (p.overflow && *p.overflow != 0) return;
    const float factor = p.length / bounded(read(p.norm));
    GRID_STRIDE(i, p.count) p.weights[i] *= factor;
}
