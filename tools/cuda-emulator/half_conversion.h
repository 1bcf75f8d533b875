// 16-bit floats in software: IEEE half precision and bfloat16. Both round to nearest even, and handle subnormals,
// infinities and NaN as the GPU does.
#pragma once

#include <cstdint>
#include <cstring>

inline uint32_t emulator_bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float emulator_from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline float emulator_half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t exponent = (half >> 10) & 0x1f, mantissa = half & 0x3ff;
    uint32_t bits;
    if (exponent == 0x1f) {
        bits = sign | 0x7f800000 | mantissa << 13;
    } else if (exponent != 0) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else {
        // Subnormal: mantissa · 2⁻²⁴, exact in a float.
        bits = sign | emulator_bits_of(static_cast<float>(mantissa) * 0x1p-24f);
    }
    return emulator_from_bits(bits);
}

inline uint16_t emulator_float_to_half(float value) {
    uint32_t bits = emulator_bits_of(value);
    const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return 0x7fff;                                 // The NaN that cvt.rn.f16.f32 returns.
    if (bits >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and above round to infinity.
    if (bits < 0x38800000) {
        // Below the smallest normal half: adding 0.5 puts the mantissa, in units of 2⁻²⁴, into the float's low bits,
        // rounded to even.
        return static_cast<uint16_t>(sign | (emulator_bits_of(emulator_from_bits(bits) + 0.5f) - 0x3f000000));
    }
    const uint32_t odd = bits >> 13 & 1;
    bits += 0xfff + odd;
    return static_cast<uint16_t>(sign | ((bits >> 13) - (112u << 10)));
}

inline float emulator_bfloat16_to_float(uint16_t upper) {
    return emulator_from_bits(static_cast<uint32_t>(upper) << 16);
}

inline uint16_t emulator_float_to_bfloat16(float value) {
    const uint32_t bits = emulator_bits_of(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;  // The NaN that cvt.rn.bf16.f32 returns.
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
