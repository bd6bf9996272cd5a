// The intrinsics of the AVX-512 lanes in plain C++, after Intel's Intrinsics Guide, for tests alone: with this directory
// first in the include path, csrc/lanes_avx512.hpp compiles and runs on any machine.
//
// To add one: say what happens to a lane, with `each` (lane by lane) or `combine` (groups of narrow lanes into a wide
// one). Nothing here looks at how csrc/lanes_portable.hpp does the same thing, so that the two check one another.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

struct alignas(16) __m128i { uint8_t bytes[16]; };
struct alignas(32) __m256i { uint8_t bytes[32]; };
struct alignas(64) __m512i { uint8_t bytes[64]; };
struct alignas(16) __m128 { uint8_t bytes[16]; };
struct alignas(32) __m256 { uint8_t bytes[32]; };
struct alignas(64) __m512 { uint8_t bytes[64]; };
using __mmask8 = uint8_t;
using __mmask16 = uint16_t;
using __mmask32 = uint32_t;
using __mmask64 = uint64_t;

#define _MM_HINT_T0 3
#define _MM_HINT_T1 2
#define _MM_HINT_T2 1
#define _MM_HINT_NTA 0
inline void _mm_prefetch(const void*, int) {}

namespace emulated {

template <typename T, typename V>
struct Lanes {
    static constexpr int count = int(sizeof(V) / sizeof(T));
    T at[count];
    Lanes() = default;
    explicit Lanes(const V& v) { std::memcpy(at, &v, sizeof v); }
    V packed() const {
        V v;
        std::memcpy(&v, at, sizeof v);
        return v;
    }
};

template <typename V>
V from_memory(const void* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

template <typename To, typename From>
To same_bits(const From& x) {
    static_assert(sizeof(To) == sizeof(From));
    return from_memory<To>(&x);
}

template <typename V, typename T>
V all(T x) {
    Lanes<T, V> lanes;
    for (T& lane : lanes.at) lane = x;
    return lanes.packed();
}

// Each lane of the result from the same lane of the operands, all taken as T.
template <typename T, typename V, typename Function>
V each(const V& a, Function function) {
    Lanes<T, V> x(a);
    for (T& lane : x.at) lane = T(function(lane));
    return x.packed();
}
template <typename T, typename V, typename Function>
V each(const V& a, const V& b, Function function) {
    Lanes<T, V> x(a), y(b);
    for (int i = 0; i < x.count; ++i) x.at[i] = T(function(x.at[i], y.at[i]));
    return x.packed();
}
template <typename T, typename V, typename Function>
V each(const V& a, const V& b, const V& c, Function function) {
    Lanes<T, V> x(a), y(b), z(c);
    for (int i = 0; i < x.count; ++i) x.at[i] = T(function(x.at[i], y.at[i], z.at[i]));
    return x.packed();
}

// Each lane of another type from the same lane: as many lanes, wider or narrower ones.
template <typename From, typename To, typename Result, typename V, typename Function>
Result convert(const V& a, Function function) {
    Lanes<From, V> x(a);
    Lanes<To, Result> y;
    static_assert(x.count == y.count);
    for (int i = 0; i < y.count; ++i) y.at[i] = To(function(x.at[i]));
    return y.packed();
}
template <typename From, typename To, typename Result, typename V>
Result convert(const V& a) {
    return convert<From, To, Result>(a, [](From x) { return To(x); });
}

// Lane i of type To from the narrower lanes of A and B that lie in the same bits: function(&a[i * n], &b[i * n]).
template <typename A, typename B, typename To, typename V, typename Function>
V combine(const V& a, const V& b, Function function) {
    static_assert(sizeof(A) == sizeof(B));
    Lanes<A, V> x(a);
    Lanes<B, V> y(b);
    Lanes<To, V> result;
    constexpr int n = int(sizeof(To) / sizeof(A));
    for (int i = 0; i < result.count; ++i) result.at[i] = To(function(x.at + i * n, y.at + i * n));
    return result.packed();
}

inline float half_to_float(uint16_t half) {
    const int exponent = (half >> 10) & 31, fraction = half & 1023;
    float magnitude;
    if (exponent == 31)
        magnitude = fraction ? NAN : INFINITY;
    else if (exponent == 0)
        magnitude = std::ldexp(float(fraction), -24);
    else
        magnitude = std::ldexp(float(1024 + fraction), exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

inline int32_t saturated_16(int32_t x) { return x < -32768 ? -32768 : x > 32767 ? 32767 : x; }

}  // namespace emulated

// Memory.
inline __m128i _mm_loadu_si128(const __m128i* p) { return emulated::from_memory<__m128i>(p); }
inline __m256i _mm256_loadu_si256(const __m256i* p) { return emulated::from_memory<__m256i>(p); }
inline __m512i _mm512_loadu_si512(const void* p) { return emulated::from_memory<__m512i>(p); }
inline __m512i _mm512_load_si512(const void* p) { return emulated::from_memory<__m512i>(p); }
inline __m512 _mm512_loadu_ps(const void* p) { return emulated::from_memory<__m512>(p); }
inline __m512 _mm512_load_ps(const void* p) { return emulated::from_memory<__m512>(p); }
inline void _mm512_storeu_ps(void* p, __m512 a) { std::memcpy(p, &a, sizeof a); }
inline void _mm512_store_ps(void* p, __m512 a) { std::memcpy(p, &a, sizeof a); }
inline void _mm512_storeu_si512(void* p, __m512i a) { std::memcpy(p, &a, sizeof a); }
inline void _mm512_store_si512(void* p, __m512i a) { std::memcpy(p, &a, sizeof a); }
inline void _mm256_storeu_si256(__m256i* p, __m256i a) { std::memcpy(p, &a, sizeof a); }
inline void _mm_storeu_si128(__m128i* p, __m128i a) { std::memcpy(p, &a, sizeof a); }

// One value in all lanes, and the same bits as another type.
inline __m512 _mm512_set1_ps(float x) { return emulated::all<__m512>(x); }
inline __m512 _mm512_setzero_ps() { return emulated::all<__m512>(0.0f); }
inline __m512i _mm512_set1_epi8(char x) { return emulated::all<__m512i>(x); }
inline __m512i _mm512_set1_epi16(short x) { return emulated::all<__m512i>(x); }
inline __m512i _mm512_set1_epi32(int x) { return emulated::all<__m512i>(x); }
inline __m512i _mm512_set1_epi64(long long x) { return emulated::all<__m512i>(x); }
inline __m512i _mm512_setzero_si512() { return emulated::all<__m512i>(0); }
inline __m512 _mm512_castsi512_ps(__m512i a) { return emulated::same_bits<__m512>(a); }
inline __m512i _mm512_castps_si512(__m512 a) { return emulated::same_bits<__m512i>(a); }

// Floats. The second operand of max and min wins where either is NaN or both are zero.
#define FLOAT_2(name, expression) \
    inline __m512 name(__m512 a, __m512 b) { return emulated::each<float>(a, b, [](float x, float y) { return expression; }); }
FLOAT_2(_mm512_add_ps, x + y)
FLOAT_2(_mm512_sub_ps, x - y)
FLOAT_2(_mm512_mul_ps, x * y)
FLOAT_2(_mm512_div_ps, x / y)
FLOAT_2(_mm512_max_ps, x > y ? x : y)
FLOAT_2(_mm512_min_ps, x < y ? x : y)
#undef FLOAT_2
#define FLOAT_3(name, expression)                                                                      \
    inline __m512 name(__m512 a, __m512 b, __m512 c) {                                                 \
        return emulated::each<float>(a, b, c, [](float x, float y, float z) { return expression; });   \
    }
FLOAT_3(_mm512_fmadd_ps, std::fma(x, y, z))
FLOAT_3(_mm512_fmsub_ps, std::fma(x, y, -z))
FLOAT_3(_mm512_fnmadd_ps, std::fma(-x, y, z))
#undef FLOAT_3
inline __m512 _mm512_sqrt_ps(__m512 a) { return emulated::each<float>(a, [](float x) { return std::sqrt(x); }); }

// Integers, lane by lane; sums wrap.
#define INTEGER_2(name, type, expression) \
    inline __m512i name(__m512i a, __m512i b) { return emulated::each<type>(a, b, [](type x, type y) { return expression; }); }
INTEGER_2(_mm512_add_epi8, uint8_t, x + y)
INTEGER_2(_mm512_sub_epi8, uint8_t, x - y)
INTEGER_2(_mm512_add_epi16, uint16_t, x + y)
INTEGER_2(_mm512_sub_epi16, uint16_t, x - y)
INTEGER_2(_mm512_mullo_epi16, uint16_t, uint32_t(x) * y)
INTEGER_2(_mm512_add_epi32, uint32_t, x + y)
INTEGER_2(_mm512_sub_epi32, uint32_t, x - y)
INTEGER_2(_mm512_mullo_epi32, uint32_t, x * y)
INTEGER_2(_mm512_max_epi32, int32_t, x > y ? x : y)
INTEGER_2(_mm512_min_epi32, int32_t, x < y ? x : y)
INTEGER_2(_mm512_and_si512, uint64_t, x & y)
INTEGER_2(_mm512_or_si512, uint64_t, x | y)
INTEGER_2(_mm512_xor_si512, uint64_t, x ^ y)
INTEGER_2(_mm512_andnot_si512, uint64_t, ~x & y)
INTEGER_2(_mm512_and_epi32, uint32_t, x & y)
INTEGER_2(_mm512_or_epi32, uint32_t, x | y)
INTEGER_2(_mm512_xor_epi32, uint32_t, x ^ y)
#undef INTEGER_2

// Shifts: a count beyond the lane leaves nothing, or the sign.
#define SHIFT(name, type, bits, expression, beyond)                                                     \
    inline __m512i name(__m512i a, unsigned n) {                                                        \
        return emulated::each<type>(a, [n](type x) { return type(n < bits ? (expression) : (beyond)); }); \
    }
SHIFT(_mm512_slli_epi16, uint16_t, 16, uint32_t(x) << n, 0)
SHIFT(_mm512_srli_epi16, uint16_t, 16, x >> n, 0)
SHIFT(_mm512_srai_epi16, int16_t, 16, x >> n, x < 0 ? -1 : 0)
SHIFT(_mm512_slli_epi32, uint32_t, 32, x << n, 0)
SHIFT(_mm512_srli_epi32, uint32_t, 32, x >> n, 0)
SHIFT(_mm512_srai_epi32, int32_t, 32, x >> n, x < 0 ? -1 : 0)
SHIFT(_mm512_slli_epi64, uint64_t, 64, x << n, 0)
SHIFT(_mm512_srli_epi64, uint64_t, 64, x >> n, 0)
#undef SHIFT

// Other types.
inline __m512i _mm512_cvtepu8_epi32(__m128i a) { return emulated::convert<uint8_t, int32_t, __m512i>(a); }
inline __m512i _mm512_cvtepi8_epi32(__m128i a) { return emulated::convert<int8_t, int32_t, __m512i>(a); }
inline __m512i _mm512_cvtepu8_epi16(__m256i a) { return emulated::convert<uint8_t, int16_t, __m512i>(a); }
inline __m512i _mm512_cvtepi8_epi16(__m256i a) { return emulated::convert<int8_t, int16_t, __m512i>(a); }
inline __m512i _mm512_cvtepu16_epi32(__m256i a) { return emulated::convert<uint16_t, int32_t, __m512i>(a); }
inline __m512i _mm512_cvtepi16_epi32(__m256i a) { return emulated::convert<int16_t, int32_t, __m512i>(a); }
inline __m128i _mm512_cvtepi32_epi8(__m512i a) { return emulated::convert<uint32_t, uint8_t, __m128i>(a); }
inline __m256i _mm512_cvtepi32_epi16(__m512i a) { return emulated::convert<uint32_t, uint16_t, __m256i>(a); }
inline __m512 _mm512_cvtepi32_ps(__m512i a) { return emulated::convert<int32_t, float, __m512>(a); }
inline __m512 _mm512_cvtph_ps(__m256i a) { return emulated::convert<uint16_t, float, __m512>(a, emulated::half_to_float); }

// Products of narrow lanes, added up in wider ones.
inline __m512i _mm512_madd_epi16(__m512i a, __m512i b) {
    return emulated::combine<int16_t, int16_t, uint32_t>(
        a, b, [](const int16_t* x, const int16_t* y) { return uint32_t(x[0] * y[0]) + uint32_t(x[1] * y[1]); });
}
inline __m512i _mm512_maddubs_epi16(__m512i a, __m512i b) {
    return emulated::combine<uint8_t, int8_t, int16_t>(
        a, b, [](const uint8_t* x, const int8_t* y) { return emulated::saturated_16(x[0] * y[0] + x[1] * y[1]); });
}
inline __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {  // VNNI; unlike dpbusds, it wraps
    return _mm512_add_epi32(sum, emulated::combine<uint8_t, int8_t, int32_t>(a, b, [](const uint8_t* x, const int8_t* y) {
        return x[0] * y[0] + x[1] * y[1] + x[2] * y[2] + x[3] * y[3];
    }));
}
inline __m512i _mm512_dpwssd_epi32(__m512i sum, __m512i a, __m512i b) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
}

// Halves, and what a sum of lanes is made of.
inline __m256 _mm512_castps512_ps256(__m512 a) { return emulated::from_memory<__m256>(a.bytes); }
inline __m256 _mm512_extractf32x8_ps(__m512 a, int half) { return emulated::from_memory<__m256>(a.bytes + 32 * half); }
inline __m128 _mm256_castps256_ps128(__m256 a) { return emulated::from_memory<__m128>(a.bytes); }
inline __m128 _mm256_extractf128_ps(__m256 a, int half) { return emulated::from_memory<__m128>(a.bytes + 16 * half); }
inline __m256 _mm256_add_ps(__m256 a, __m256 b) {
    return emulated::each<float>(a, b, [](float x, float y) { return x + y; });
}
inline __m128 _mm_add_ps(__m128 a, __m128 b) {
    return emulated::each<float>(a, b, [](float x, float y) { return x + y; });
}
inline __m128 _mm_add_ss(__m128 a, __m128 b) {  // the upper lanes are a's
    emulated::Lanes<float, __m128> x(a), y(b);
    x.at[0] += y.at[0];
    return x.packed();
}
inline __m128 _mm_movehl_ps(__m128 a, __m128 b) {  // b's upper half, then a's
    emulated::Lanes<uint64_t, __m128> x(a), y(b);
    x.at[0] = y.at[1];
    return x.packed();
}
inline __m128 _mm_shuffle_ps(__m128 a, __m128 b, int lanes) {  // two of a's lanes, then two of b's
    emulated::Lanes<float, __m128> x(a), y(b), result;
    for (int i = 0; i < 4; ++i) result.at[i] = (i < 2 ? x : y).at[lanes >> 2 * i & 3];
    return result.packed();
}
inline float _mm_cvtss_f32(__m128 a) { return emulated::Lanes<float, __m128>(a).at[0]; }
inline int _mm512_reduce_add_epi32(__m512i a) {
    uint32_t sum = 0;
    for (uint32_t lane : emulated::Lanes<uint32_t, __m512i>(a).at) sum += lane;
    return int(sum);
}
inline int _mm512_reduce_max_epi32(__m512i a) {
    int32_t most = INT32_MIN;
    for (int32_t lane : emulated::Lanes<int32_t, __m512i>(a).at) most = lane > most ? lane : most;
    return most;
}
