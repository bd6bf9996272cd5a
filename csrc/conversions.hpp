// Floats as bits: bfloat16, half precision, and whether they are finite. Internal to each source that includes it, so that a tier's flags stay its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace gptwo {
namespace {

[[maybe_unused]] inline uint16_t to_bf16(float value) {  // half to even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

[[maybe_unused]] inline float from_bf16(uint16_t value) {
    const uint32_t bits = uint32_t(value) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

[[maybe_unused]] inline float from_half(uint16_t value) {
    // Shifted into a float, a half's exponent is 112 too small; the product sets it right, subnormals included.
    uint32_t shifted = uint32_t(value & 0x7fff) << 13;
    float result;
    std::memcpy(&result, &shifted, 4);
    result *= 0x1p112f;
    if ((value & 0x7c00) == 0x7c00) {  // infinity and NaN stay what they are
        shifted |= 0x7f800000;
        std::memcpy(&result, &shifted, 4);
    }
    return value & 0x8000 ? -result : result;
}

// In integers, which a compiler may take many of at once: the exponent of infinity and NaN is all ones.
[[maybe_unused]] inline bool all_finite(const float* x, size_t count) {
    uint32_t most = 0;
    for (size_t i = 0; i < count; ++i) {
        uint32_t bits;
        std::memcpy(&bits, x + i, 4);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return most < 0x7f800000;
}

}  // namespace
}  // namespace gptwo
