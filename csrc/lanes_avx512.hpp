// Sixteen lanes as one AVX-512 register (F, BW, DQ, VL), with VNNI where the source is compiled for it.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels.hpp"

namespace gptwo {
namespace {

constexpr int kFloatRows = 12, kIntRows = 8;
constexpr int kSums = 16;  // that are worked on at once

struct F { __m512 v; };
struct I { __m512i v; };

inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x.v); }
inline F set(float x) { return {_mm512_set1_ps(x)}; }
inline F add(F x, F y) { return {_mm512_add_ps(x.v, y.v)}; }
inline F sub(F x, F y) { return {_mm512_sub_ps(x.v, y.v)}; }
inline F mul(F x, F y) { return {_mm512_mul_ps(x.v, y.v)}; }
inline F div(F x, F y) { return {_mm512_div_ps(x.v, y.v)}; }
inline F fma(F x, F y, F z) { return {_mm512_fmadd_ps(x.v, y.v, z.v)}; }
inline F larger(F x, F y) { return {_mm512_max_ps(x.v, y.v)}; }
inline F smaller(F x, F y) { return {_mm512_min_ps(x.v, y.v)}; }
inline I bits(F x) { return {_mm512_castps_si512(x.v)}; }
inline F from_bits(I x) { return {_mm512_castsi512_ps(x.v)}; }
inline I set_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I add(I x, I y) { return {_mm512_add_epi32(x.v, y.v)}; }
inline I sub(I x, I y) { return {_mm512_sub_epi32(x.v, y.v)}; }
inline I both(I x, I y) { return {_mm512_and_si512(x.v, y.v)}; }
inline I larger(I x, I y) { return {_mm512_max_epi32(x.v, y.v)}; }
inline I shift_to_exponent(I x) { return {_mm512_slli_epi32(x.v, 23)}; }
inline int32_t largest_lane(I x) { return _mm512_reduce_max_epi32(x.v); }
inline int32_t sum_of_lanes(I x) { return _mm512_reduce_add_epi32(x.v); }
// Lane i and lane i + 8, then i + 4, + 2, + 1.
inline float sum_of_lanes(F x) {
    __m256 v = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
    __m128 w = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    w = _mm_add_ps(w, _mm_movehl_ps(w, w));
    return _mm_cvtss_f32(_mm_add_ss(w, _mm_shuffle_ps(w, w, 1)));
}
inline F to_float(I x) { return {_mm512_cvtepi32_ps(x.v)}; }

inline F load(const uint16_t* p) {  // bfloat16
    return from_bits({_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16)});
}
inline F load_half(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }

inline __m512i broadcast_four(const void* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
}

struct W8 { __m512i v; };
struct W4 { __m512i v; };
using X4 = __m512i;
inline void load_int4(const uint8_t* p, W4& low, W4& high) {
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i v = _mm512_loadu_si512(p);
    low = {_mm512_and_si512(v, mask)};
    high = {_mm512_and_si512(_mm512_srli_epi16(v, 4), mask)};
}
inline X4 broadcast_int4(const int8_t* q) { return broadcast_four(q); }

// Sixteen quantised activations, integers of one byte.
inline void store_bytes(int8_t* q, I x) { _mm_storeu_si128((__m128i*)q, _mm512_cvtepi32_epi8(x.v)); }
using X8 = __m512i;
inline W8 load_int8(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline X8 broadcast_int8(const int8_t* q) { return broadcast_four(q); }

#if defined(__AVX512VNNI__)

inline I dot_int8(I sum, const W8& w, X8 x) { return {_mm512_dpbusd_epi32(sum.v, w.v, x)}; }
inline int32_t start_int4(int32_t sum) { return -8 * sum; }
inline I dot_int4(I sum, const W4& w, X4 x) { return {_mm512_dpbusd_epi32(sum.v, w.v, x)}; }
inline I total_int4(I sum) { return sum; }

#else  // as in the AVX2 tier

inline I dot_int8(I sum, const W8& w, X8 x) {
    return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(_mm512_maddubs_epi16(w.v, x), _mm512_set1_epi16(1)))};
}
inline int32_t start_int4(int32_t sum) { return int32_t(uint32_t(-4 * sum & 0xffff) * 0x10001u); }
inline I dot_int4(I sum, const W4& w, X4 x) { return {_mm512_add_epi16(sum.v, _mm512_maddubs_epi16(w.v, x))}; }
inline I total_int4(I sum) { return {_mm512_madd_epi16(sum.v, _mm512_set1_epi16(1))}; }

#endif

}  // namespace
}  // namespace gptwo
