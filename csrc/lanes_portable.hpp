// Sixteen lanes in plain C++. This tier defines what the others must give: the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "conversions.hpp"
#include "kernels.hpp"

namespace gptwo {
namespace {

constexpr int kFloatRows = 2, kIntRows = 2;  // rows of activations that one pass over a panel serves
constexpr int kSums = 2;                      // that are worked on at once

struct F { float v[16]; };
struct I { int32_t v[16]; };

#define GPTWO_EACH(expression)              \
    for (int i = 0; i < 16; ++i) {          \
        expression;                         \
    }

inline F load(const float* p) { F r; std::memcpy(r.v, p, 64); return r; }
inline void store(float* p, F a) { std::memcpy(p, a.v, 64); }
inline F set(float x) { F r; GPTWO_EACH(r.v[i] = x) return r; }
inline F add(F a, F b) { GPTWO_EACH(a.v[i] += b.v[i]) return a; }
inline F sub(F a, F b) { GPTWO_EACH(a.v[i] -= b.v[i]) return a; }
inline F mul(F a, F b) { GPTWO_EACH(a.v[i] *= b.v[i]) return a; }
inline F div(F a, F b) { GPTWO_EACH(a.v[i] /= b.v[i]) return a; }
inline F fma(F a, F b, F c) { GPTWO_EACH(c.v[i] = std::fma(a.v[i], b.v[i], c.v[i])) return c; }
// As on x86: the second operand where either is NaN.
inline F larger(F a, F b) { GPTWO_EACH(b.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]) return b; }
inline F smaller(F a, F b) { GPTWO_EACH(b.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]) return b; }
inline I bits(F a) { I r; std::memcpy(r.v, a.v, 64); return r; }
inline F from_bits(I a) { F r; std::memcpy(r.v, a.v, 64); return r; }
inline I set_int(int32_t x) { I r; GPTWO_EACH(r.v[i] = x) return r; }
inline I add(I a, I b) { GPTWO_EACH(a.v[i] = int32_t(uint32_t(a.v[i]) + uint32_t(b.v[i]))) return a; }
inline I sub(I a, I b) { GPTWO_EACH(a.v[i] = int32_t(uint32_t(a.v[i]) - uint32_t(b.v[i]))) return a; }
inline I both(I a, I b) { GPTWO_EACH(a.v[i] &= b.v[i]) return a; }
inline I larger(I a, I b) { GPTWO_EACH(a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]) return a; }
inline I shift_to_exponent(I a) { GPTWO_EACH(a.v[i] = int32_t(uint32_t(a.v[i]) << 23)) return a; }
inline int32_t sum_of_lanes(I a) { int32_t sum = 0; GPTWO_EACH(sum += a.v[i]) return sum; }
inline int32_t largest_lane(I a) { int32_t most = a.v[0]; GPTWO_EACH(most = a.v[i] > most ? a.v[i] : most) return most; }
// Lane i and lane i + 8, then i + 4, + 2, + 1.
inline float sum_of_lanes(F a) {
    for (int step = 8; step > 0; step /= 2)
        for (int i = 0; i < step; ++i) a.v[i] += a.v[i + step];
    return a.v[0];
}
inline F to_float(I a) { F r; GPTWO_EACH(r.v[i] = float(a.v[i])) return r; }

inline F load(const uint16_t* p) {  // bfloat16
    I r;
    GPTWO_EACH(r.v[i] = int32_t(uint32_t(p[i]) << 16))
    return from_bits(r);
}

inline F load_half(const uint16_t* p) { F r; GPTWO_EACH(r.v[i] = from_half(p[i])) return r; }

// Sixteen quantised activations, integers of one byte.
inline void store_bytes(int8_t* q, I x) { GPTWO_EACH(q[i] = int8_t(x.v[i])) }

// 64 bytes of an integer matrix: 16 outputs x 4 inputs, unsigned.
struct W8 { uint8_t b[64]; };
struct X8 { int8_t b[4]; };
inline W8 load_int8(const uint8_t* p) { W8 w; std::memcpy(w.b, p, 64); return w; }
inline X8 broadcast_int8(const int8_t* q) { X8 x; std::memcpy(x.b, q, 4); return x; }
inline I dot_int8(I sum, const W8& w, X8 x) {
    GPTWO_EACH(sum.v[i] += w.b[4 * i] * x.b[0] + w.b[4 * i + 1] * x.b[1] + w.b[4 * i + 2] * x.b[2] +
                           w.b[4 * i + 3] * x.b[3])
    return sum;
}

using W4 = W8;
using X4 = X8;
inline void load_int4(const uint8_t* p, W4& low, W4& high) {
    for (int i = 0; i < 64; ++i) low.b[i] = p[i] & 15, high.b[i] = p[i] >> 4;
}
inline X4 broadcast_int4(const int8_t* q) { return broadcast_int8(q); }
inline int32_t start_int4(int32_t sum) { return -8 * sum; }
inline I dot_int4(I sum, const W4& w, X4 x) { return dot_int8(sum, w, x); }
inline I total_int4(I sum) { return sum; }

#undef GPTWO_EACH

}  // namespace
}  // namespace gptwo
