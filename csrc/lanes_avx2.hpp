// Sixteen lanes as two AVX2 registers, with FMA and F16C.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

constexpr bool kWide = true;
constexpr int kFloatRows = 6, kIntRows = 4;  // accumulators, weights and a broadcast fill the 16 registers

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
inline I both(I x, I y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
inline I larger(I x, I y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
inline I shift_to_exponent(I x) { return {_mm256_slli_epi32(x.a, 23), _mm256_slli_epi32(x.b, 23)}; }
inline void store_int(int32_t* p, I x) {
    _mm256_storeu_si256((__m256i*)p, x.a);
    _mm256_storeu_si256((__m256i*)(p + 8), x.b);
}
inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

inline __m256 widen_bf16(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
inline F load(const uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
inline F load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}

// int8: AVX2's unsigned-by-signed product of bytes saturates, so even and odd inputs become 16 bits and are multiplied
// as such: lane 32i of `even` holds inputs 0 and 2 of output i, and `odd` 1 and 3.
struct W { __m256i even_a, odd_a, even_b, odd_b; };
struct X { __m256i even, odd; };
inline W load_int8(const uint8_t* p) {
    const __m256i mask = _mm256_set1_epi16(255);
    __m256i a = _mm256_loadu_si256((const __m256i*)p), b = _mm256_loadu_si256((const __m256i*)(p + 32));
    return {_mm256_and_si256(a, mask), _mm256_srli_epi16(a, 8), _mm256_and_si256(b, mask), _mm256_srli_epi16(b, 8)};
}
inline __m256i broadcast_four(const void* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}
inline X broadcast_int8(const int8_t*, const int16_t* wide, int group) {
    return {broadcast_four(wide + 4 * group), broadcast_four(wide + 4 * group + 2)};
}
inline X broadcast_rest(const int8_t* q, int group) {
    __m256i x = broadcast_four(q + 4 * group);
    return {_mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), _mm256_srai_epi16(x, 8)};
}
inline I dot_int8(I sum, const W& w, X x) {
    sum.a = _mm256_add_epi32(sum.a, _mm256_madd_epi16(w.even_a, x.even));
    sum.b = _mm256_add_epi32(sum.b, _mm256_madd_epi16(w.even_b, x.even));
    sum.a = _mm256_add_epi32(sum.a, _mm256_madd_epi16(w.odd_a, x.odd));
    sum.b = _mm256_add_epi32(sum.b, _mm256_madd_epi16(w.odd_b, x.odd));
    return sum;
}

// int4: a weight is at most 15, so products of bytes do not saturate, and the eight groups of a block fit in 16 bits
// (8 x 2 x 15 x 127 = 30480).
struct W4 { __m256i a, b; };
using I4 = I;
inline void load_int4(const uint8_t* p, W4& low, W4& high) {
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i a = _mm256_loadu_si256((const __m256i*)p), b = _mm256_loadu_si256((const __m256i*)(p + 32));
    low = {_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)};
    high = {_mm256_and_si256(_mm256_srli_epi16(a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(b, 4), mask)};
}
inline __m256i broadcast_int4(const int8_t* q, int group) { return broadcast_four(q + 4 * group); }
inline I4 zero_int4() { return set_int(0); }
inline I4 dot_int4(I4 sum, const W4& w, __m256i x) {
    return {_mm256_add_epi16(sum.a, _mm256_maddubs_epi16(w.a, x)), _mm256_add_epi16(sum.b, _mm256_maddubs_epi16(w.b, x))};
}
inline I total_int4(I4 sum) {
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_madd_epi16(sum.a, ones), _mm256_madd_epi16(sum.b, ones)};
}

}  // namespace
