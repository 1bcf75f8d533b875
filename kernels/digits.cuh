// Mixed-radix numbers of three digits: an index into a window or an image that can be advanced without division.
#pragma once

#include "common.cuh"

struct Digits {
    u32 low, mid, high;
};
struct Radix {
    u32 low, mid;
};

__device__ __forceinline__ Digits digits_of(u32 value, Radix radix) {
    Digits digits;
    const u32 rest = value / radix.low;
    digits.low = value - rest * radix.low;
    digits.high = rest / radix.mid;
    digits.mid = rest - digits.high * radix.mid;
    return digits;
}

// The digits of `step` must be below the radix.
__device__ __forceinline__ void add(Digits& digits, Digits step, Radix radix) {
    digits.low += step.low;
    u32 carry = digits.low >= radix.low;
    if (carry) digits.low -= radix.low;
    digits.mid += step.mid + carry;
    carry = digits.mid >= radix.mid;
    if (carry) digits.mid -= radix.mid;
    digits.high += step.high + carry;
}

__device__ __forceinline__ void add_one(Digits& digits, Radix radix) {
    if (++digits.low < radix.low) return;
    digits.low = 0;
    if (++digits.mid < radix.mid) return;
    digits.mid = 0;
    ++digits.high;
}

// A radix for which every number is a single digit.
constexpr u32 UNDIVIDED = 0xffffffffu;
