// Sixteen lanes in plain C++. This tier defines what the others must give: the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr bool kWide = false;
constexpr int kFloatRows = 4, kIntRows = 4;  // rows of activations that one pass over a panel serves

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
inline I both(I a, I b) { GPTWO_EACH(a.v[i] &= b.v[i]) return a; }
inline I larger(I a, I b) { GPTWO_EACH(a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]) return a; }
inline I shift_to_exponent(I a) { GPTWO_EACH(a.v[i] = int32_t(uint32_t(a.v[i]) << 23)) return a; }
inline void store_int(int32_t* p, I a) { std::memcpy(p, a.v, 64); }
inline F to_float(I a) { F r; GPTWO_EACH(r.v[i] = float(a.v[i])) return r; }

inline F load(const uint16_t* p) {  // bfloat16
    I r;
    GPTWO_EACH(r.v[i] = int32_t(uint32_t(p[i]) << 16))
    return from_bits(r);
}

inline float half_to_float(uint16_t h) {
    // Shifted into a float, a half's exponent is 112 too small; the product sets it right, subnormals included.
    uint32_t shifted = uint32_t(h & 0x7fff) << 13;
    float value;
    std::memcpy(&value, &shifted, 4);
    value *= 0x1p112f;
    return (h & 0x8000) ? -value : value;
}
inline F load_half(const uint16_t* p) { F r; GPTWO_EACH(r.v[i] = half_to_float(p[i])) return r; }

// 64 bytes of an integer matrix: 16 outputs x 4 inputs, unsigned.
struct W { uint8_t b[64]; };
struct X { int8_t b[4]; };
inline W load_int8(const uint8_t* p) { W w; std::memcpy(w.b, p, 64); return w; }
inline void load_int4(const uint8_t* p, W& low, W& high) {
    for (int i = 0; i < 64; ++i) low.b[i] = p[i] & 15, high.b[i] = p[i] >> 4;
}
inline X broadcast(const int8_t* q) { X x; std::memcpy(x.b, q, 4); return x; }
inline X broadcast_int8(const int8_t* q, const int16_t*, int group) { return broadcast(q + 4 * group); }
inline X broadcast_rest(const int8_t* q, int group) { return broadcast(q + 4 * group); }
inline X broadcast_int4(const int8_t* q, int group) { return broadcast(q + 4 * group); }
inline I dot_int8(I sum, const W& w, X x) {
    GPTWO_EACH(sum.v[i] += w.b[4 * i] * x.b[0] + w.b[4 * i + 1] * x.b[1] + w.b[4 * i + 2] * x.b[2] +
                           w.b[4 * i + 3] * x.b[3])
    return sum;
}
using W4 = W;
using I4 = I;  // the running sum of an int4 block
inline I4 zero_int4() { return set_int(0); }
inline I4 dot_int4(I4 sum, const W& w, X x) { return dot_int8(sum, w, x); }
inline I total_int4(I4 sum) { return sum; }

#undef GPTWO_EACH

}  // namespace
