// Averages the logits of several views of the same images.
#include "common.cuh"

struct AddViewParams : Params<2, 3, 40> {
    const real *logits, *before;  // `before` is null for the first view, and otherwise the average.
    real* average;
    u64 count;
    float weight;
};

// average = before + weight · logits, with one rounding to storage. One thread per 16 bytes.
KERNEL(add_view, AddViewParams) {
    const float weight = p.weight;
    if (p.before) {
        map(
            p.average, p.count, [=](float before, float logit) { return fmaf(weight, logit, before); }, p.before,
            p.logits);
    } else {
        map(p.average, p.count, [=](float logit) { return weight * logit; }, p.logits);
    }
}
