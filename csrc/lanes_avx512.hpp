// Sixteen lanes as one AVX-512 register (F, BW, DQ, VL), with VNNI where the source is compiled for it.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512VNNI__)
constexpr bool kWide = false;
#else
constexpr bool kWide = true;
#endif
constexpr int kFloatRows = 12, kIntRows = 8;

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
inline I both(I x, I y) { return {_mm512_and_si512(x.v, y.v)}; }
inline I larger(I x, I y) { return {_mm512_max_epi32(x.v, y.v)}; }
inline I shift_to_exponent(I x) { return {_mm512_slli_epi32(x.v, 23)}; }
inline void store_int(int32_t* p, I x) { _mm512_storeu_si512(p, x.v); }
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

#if defined(__AVX512VNNI__)

struct W { __m512i v; };
using X = __m512i;
inline W load_int8(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline X broadcast_int8(const int8_t* q, const int16_t*, int group) { return broadcast_four(q + 4 * group); }
inline X broadcast_rest(const int8_t* q, int group) { return broadcast_four(q + 4 * group); }
inline I dot_int8(I sum, const W& w, X x) { return {_mm512_dpbusd_epi32(sum.v, w.v, x)}; }

#else

// As in the AVX2 tier: even and odd inputs as 16 bits.
struct W { __m512i even, odd; };
struct X { __m512i even, odd; };
inline W load_int8(const uint8_t* p) {
    __m512i v = _mm512_loadu_si512(p);
    return {_mm512_and_si512(v, _mm512_set1_epi16(255)), _mm512_srli_epi16(v, 8)};
}
inline X broadcast_int8(const int8_t*, const int16_t* wide, int group) {
    return {broadcast_four(wide + 4 * group), broadcast_four(wide + 4 * group + 2)};
}
inline X broadcast_rest(const int8_t* q, int group) {
    __m512i x = broadcast_four(q + 4 * group);
    return {_mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8), _mm512_srai_epi16(x, 8)};
}
inline I dot_int8(I sum, const W& w, X x) {
    __m512i even = _mm512_madd_epi16(w.even, x.even), odd = _mm512_madd_epi16(w.odd, x.odd);
    return {_mm512_add_epi32(sum.v, _mm512_add_epi32(even, odd))};
}

#endif

struct W4 { __m512i v; };
using I4 = I;
inline void load_int4(const uint8_t* p, W4& low, W4& high) {
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i v = _mm512_loadu_si512(p);
    low = {_mm512_and_si512(v, mask)};
    high = {_mm512_and_si512(_mm512_srli_epi16(v, 4), mask)};
}
inline __m512i broadcast_int4(const int8_t* q, int group) { return broadcast_four(q + 4 * group); }
inline I4 zero_int4() { return set_int(0); }
#if defined(__AVX512VNNI__)
inline I4 dot_int4(I4 sum, const W4& w, __m512i x) { return {_mm512_dpbusd_epi32(sum.v, w.v, x)}; }
inline I total_int4(I4 sum) { return sum; }
#else
inline I4 dot_int4(I4 sum, const W4& w, __m512i x) {
    return {_mm512_add_epi16(sum.v, _mm512_maddubs_epi16(w.v, x))};
}
inline I total_int4(I4 sum) { return {_mm512_madd_epi16(sum.v, _mm512_set1_epi16(1))}; }
#endif

}  // namespace
