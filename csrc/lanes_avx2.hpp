// Sixteen lanes as two AVX2 registers, with FMA and F16C.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels.hpp"

namespace gptwo {
namespace {

constexpr int kFloatRows = 6, kIntRows = 4;  // accumulators, weights and a broadcast fill the 16 registers
constexpr int kSums = 4;                      // that are worked on at once, of sixteen lanes

struct F { __m256 a, b; };
struct I { __m256i a, b; };

inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
inline F set(float x) { __m256 v = _mm256_set1_ps(x); return {v, v}; }
inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F larger(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F smaller(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline I bits(F x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
inline F from_bits(I x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
inline I set_int(int32_t x) { __m256i v = _mm256_set1_epi32(x); return {v, v}; }
inline I add(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline I sub(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
inline I both(I x, I y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
inline I larger(I x, I y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
inline I shift_to_exponent(I x) { return {_mm256_slli_epi32(x.a, 23), _mm256_slli_epi32(x.b, 23)}; }
inline int32_t largest_lane(I x) {
    __m256i v = _mm256_max_epi32(x.a, x.b);
    __m128i w = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    w = _mm_max_epi32(w, _mm_shuffle_epi32(w, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(w, _mm_shuffle_epi32(w, 0xb1)));
}
inline int32_t sum_of_lanes(I x) {
    __m256i v = _mm256_add_epi32(x.a, x.b);
    __m128i w = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    w = _mm_add_epi32(w, _mm_shuffle_epi32(w, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(w, _mm_shuffle_epi32(w, 0xb1)));
}
// Lane i and lane i + 8, then i + 4, + 2, + 1.
inline float sum_of_lanes(F x) {
    __m256 v = _mm256_add_ps(x.a, x.b);
    __m128 w = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    w = _mm_add_ps(w, _mm_movehl_ps(w, w));
    return _mm_cvtss_f32(_mm_add_ss(w, _mm_shuffle_ps(w, w, 1)));
}
inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

inline __m256 widen_bf16(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
inline F load(const uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
inline F load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}

inline __m256i broadcast_four(const void* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}
// Sixteen quantised activations, integers of one byte.
inline void store_bytes(int8_t* q, I x) {
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    _mm_storeu_si128((__m128i*)q, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

// The empty instructions keep a sum in one register, which the compiler's own order of things would not.

// int8: the product of bytes, unsigned by signed, saturates at 16 bits; the ranges are such that two of them fit.
struct W8 { __m256i a, b; };
using X8 = __m256i;
inline W8 load_int8(const uint8_t* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
}
inline X8 broadcast_int8(const int8_t* q) { return broadcast_four(q); }
inline I dot_int8(I sum, const W8& w, X8 x) {
    const __m256i ones = _mm256_set1_epi16(1);
    sum.a = _mm256_add_epi32(sum.a, _mm256_madd_epi16(_mm256_maddubs_epi16(w.a, x), ones));
    sum.b = _mm256_add_epi32(sum.b, _mm256_madd_epi16(_mm256_maddubs_epi16(w.b, x), ones));
    asm("" : "+x"(sum.a), "+x"(sum.b));
    return sum;
}

// int4: the eight groups of a block fit in 16 bits, also after -4 times the sum of the block in each half of an output:
// |11 x 2032 + 4 x 2032| = 30480.
struct W4 { __m256i a, b; };
using X4 = __m256i;
inline void load_int4(const uint8_t* p, W4& low, W4& high) {
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i a = _mm256_loadu_si256((const __m256i*)p), b = _mm256_loadu_si256((const __m256i*)(p + 32));
    low = {_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)};
    high = {_mm256_and_si256(_mm256_srli_epi16(a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(b, 4), mask)};
}
inline X4 broadcast_int4(const int8_t* q) { return broadcast_four(q); }
inline int32_t start_int4(int32_t sum) { return int32_t(uint32_t(-4 * sum & 0xffff) * 0x10001u); }
inline I dot_int4(I sum, const W4& w, X4 x) {
    sum.a = _mm256_add_epi16(sum.a, _mm256_maddubs_epi16(w.a, x));
    sum.b = _mm256_add_epi16(sum.b, _mm256_maddubs_epi16(w.b, x));
    asm("" : "+x"(sum.a), "+x"(sum.b));
    return sum;
}
inline I total_int4(I sum) {
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_madd_epi16(sum.a, ones), _mm256_madd_epi16(sum.b, ones)};
}

}  // namespace
}  // namespace gptwo
