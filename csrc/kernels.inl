// The kernels, once, in terms of sixteen lanes; each tier includes its lanes and then this, in its own source.
//
// What keeps the bits the same everywhere: an output is summed by one lane in one order (inputs one after another, or
// blocks one after another), whatever tile it is computed in; every rounding is one IEEE operation or one fused
// multiply-add that is written here; sums over a row run in 16 lanes and then in a fixed tree.

#include "kernels.hpp"

// The sums of a tile must stay in registers, so the loops over its rows and panels have to vanish. Not in the portable
// tier, whose sixteen lanes are a loop already.
#if defined(__AVX2__)
#define GPTWO_UNROLL _Pragma("GCC unroll 16")
#define GPTWO_UNROLL_TWICE _Pragma("GCC unroll 2")
#else
#define GPTWO_UNROLL
#define GPTWO_UNROLL_TWICE
#endif

namespace gptwo {
namespace {

// What several rows need next comes on its way while they are computed: the machine's own prefetching stops at the end
// of a page. One row alone is no slower than memory, and would only wait for the instruction.
template <int R>
inline void prefetch(const void* p) {
    if constexpr (R > 1) __builtin_prefetch(static_cast<const char*>(p) + 4096, 0, 3);
}

inline float largest_lane(F x) {
    float v[16];
    store(v, x);
    for (int i = 1; i < 16; ++i) v[0] = v[i] > v[0] ? v[i] : v[0];
    return v[0];
}

// Adding 1.5 * 2^23 to a small number leaves it rounded to an integer (half to even) in the low bits.
constexpr float kMagic = 12582912.0f;

// e^x to about 1 ulp for -87 <= x <= 88, clamped beyond; NaN stays NaN. Taylor's series after x = n ln 2 + r.
inline F exponential(F x) {
    x = smaller(set(88.0f), larger(set(-87.0f), x));
    F shifted = fma(x, set(1.44269504f), set(kMagic));
    F n = sub(shifted, set(kMagic));
    F r = fma(n, set(-0.693359375f), x);
    r = fma(n, set(2.12194440e-4f), r);
    F p = fma(set(1.0f / 5040), r, set(1.0f / 720));
    p = fma(p, r, set(1.0f / 120));
    p = fma(p, r, set(1.0f / 24));
    p = fma(p, r, set(1.0f / 6));
    p = fma(p, r, set(0.5f));
    p = fma(p, r, set(1.0f));
    p = fma(p, r, set(1.0f));
    return mul(p, from_bits(shift_to_exponent(add(bits(shifted), set_int(127)))));
}

inline F absolute(F x) { return from_bits(both(bits(x), set_int(0x7fffffff))); }
inline F with_sign_of(F magnitude, F x) {
    return from_bits(add(bits(magnitude), both(bits(x), set_int(int32_t(0x80000000)))));
}

// x / (1 + e^-s): what GELU's tanh form, quick GELU and SiLU are, without tanh's cancellation for negative x.
inline F gated(F x, F s) { return div(x, add(set(1.0f), exponential(sub(set(0.0f), s)))); }

inline F activated(F x, Activation activation) {
    switch (activation) {
        case Activation::gelu_tanh: {  // 0.5 x (1 + tanh u) = x / (1 + e^-2u)
            F u = mul(fma(mul(mul(x, x), x), set(0.044715f), x), set(1.59576912f));  // 2 sqrt(2 / pi)
            return gated(x, u);
        }
        case Activation::gelu: {  // erf z = 1 - t P(t) e^-z^2 with t = 1 / (1 + 0.4 z); P fitted to 9e-8
            F z = mul(absolute(x), set(0.707106781f));
            F t = div(set(1.0f), fma(z, set(0.4f), set(1.0f)));
            const float c[] = {0.0495503858266602f,  -0.18011980543087702f, 0.16468313961163403f,
                               -0.0019938750921482604f, 0.13979605187781766f,  0.16894148320690447f,
                               0.20779513078754944f, 0.22567173540019703f,  0.225675846351804f};
            F p = set(c[0]);
            for (int i = 1; i < 9; ++i) p = fma(p, t, set(c[i]));
            F tail = mul(mul(t, p), exponential(sub(set(0.0f), mul(z, z))));
            F erf = with_sign_of(sub(set(1.0f), tail), x);
            F half = mul(x, set(0.5f));
            return fma(half, erf, half);
        }
        case Activation::quick_gelu: return gated(x, mul(x, set(1.702f)));
        case Activation::relu: return larger(set(0.0f), x);
        case Activation::silu: return gated(x, x);
        case Activation::tanh: {
            F e = exponential(mul(absolute(x), set(-2.0f)));
            return with_sign_of(div(sub(set(1.0f), e), add(set(1.0f), e)), x);
        }
        case Activation::none: break;
    }
    return x;
}

inline void finish(const Matrix& m, const Target& target, int row, int panel, F sum) {
    int first = panel * kLanes, count = m.outputs - first;
    if (target.bias) sum = add(sum, load(target.bias + first));
    sum = activated(sum, target.activation);
    float* out = target.out + size_t(row) * target.stride + first;
    if (count >= kLanes) {
        store(out, target.add ? add(load(out), sum) : sum);
        return;
    }
    float v[16];
    store(v, sum);
    for (int i = 0; i < count; ++i) out[i] = target.add ? out[i] + v[i] : v[i];
}

// R rows of activations with P panels of 16 outputs. E is float or uint16_t (bfloat16).
template <typename E, int R, int P>
void float_tile(const Matrix& m, const Rows& rows, const Target& target, int row, int panel) {
    F sum[R][P];
    GPTWO_UNROLL
    for (int r = 0; r < R; ++r)
        GPTWO_UNROLL
        for (int p = 0; p < P; ++p) sum[r][p] = set(0.0f);
    const float* x = rows.x + size_t(row) * rows.stride;
    const E* w = reinterpret_cast<const E*>(m.data + size_t(panel) * m.panel_bytes);
    const size_t next = m.panel_bytes / sizeof(E);
    for (int k = 0; k < m.inputs; ++k) {
        F weights[P];
        GPTWO_UNROLL
        for (int p = 0; p < P; ++p) {
            prefetch<R>(w + p * next + size_t(k) * kLanes);
            weights[p] = load(w + p * next + size_t(k) * kLanes);
        }
        GPTWO_UNROLL
        for (int r = 0; r < R; ++r) {
            F value = set(x[r * rows.stride + k]);
            GPTWO_UNROLL
            for (int p = 0; p < P; ++p) sum[r][p] = fma(value, weights[p], sum[r][p]);
        }
    }
    GPTWO_UNROLL
    for (int r = 0; r < R; ++r)
        GPTWO_UNROLL
        for (int p = 0; p < P; ++p) finish(m, target, row + r, panel + p, sum[r][p]);
}

// Weights are stored with an offset. A dot product starts with what that offset will have added, taken away; an int4 tier
// may have its own form of it.
inline int32_t start_int8(int32_t sum) { return -kInt8Weight * sum; }
inline I start(int32_t first) { return set_int(first); }

// The sums of an integer tile: they are touched once in a block, and would take registers from the dots.
template <int R, int P>
struct Sums {
    alignas(64) float v[R][P][kLanes];
    Sums() {
        GPTWO_UNROLL
        for (int r = 0; r < R; ++r)
            GPTWO_UNROLL
            for (int p = 0; p < P; ++p) store(v[r][p], set(0.0f));
    }
    void add(int r, int p, F dot, F scale) { store(v[r][p], fma(dot, scale, load(v[r][p]))); }
    void finish_all(const Matrix& m, const Target& target, int row, int panel) const {
        for (int r = 0; r < R; ++r)
            for (int p = 0; p < P; ++p) finish(m, target, row + r, panel + p, load(v[r][p]));
    }
};

// The second term of a block with an outlier. It is rare, and apart: inlined, it would keep the block's weights alive
// through the common case, in registers that the dots need.
__attribute__((noinline)) F int8_rest(const uint8_t* groups, const int8_t* q, int32_t first) {
    I dot = start(first);
    for (int g = 0; g < kInt8Block / kGroup; ++g)
        dot = dot_int8(dot, load_int8(groups + g * 64), broadcast_int8(q + g * kGroup));
    return to_float(dot);
}

template <int R, int P>
void int8_tile(const Matrix& m, const Rows& rows, const Target& target, int row, int panel) {
    constexpr int kBytes = 64 + kInt8Block * kLanes;
    Sums<R, P> sums;
    const int8_t* q = rows.q + size_t(row) * rows.q_stride;
    const uint8_t* block = m.data + size_t(panel) * m.panel_bytes;
    for (int b = 0; b < m.blocks; ++b, block += kBytes) {
        const size_t at = size_t(row) * rows.blocks + b;
        I dot[R][P];
        GPTWO_UNROLL
        for (int r = 0; r < R; ++r)
            GPTWO_UNROLL
            for (int p = 0; p < P; ++p) dot[r][p] = start(rows.start[at + r * rows.blocks]);
        const uint8_t* groups = block + 64;
        GPTWO_UNROLL_TWICE
        for (int g = 0; g < kInt8Block / kGroup; ++g, groups += 64, q += kGroup) {
            W8 w[P];
            GPTWO_UNROLL
            for (int p = 0; p < P; ++p) {
                prefetch<R>(groups + p * m.panel_bytes);
                w[p] = load_int8(groups + p * m.panel_bytes);
            }
            GPTWO_UNROLL
            for (int r = 0; r < R; ++r) {
                const X8 x = broadcast_int8(q + r * rows.q_stride);
                GPTWO_UNROLL
                for (int p = 0; p < P; ++p) dot[r][p] = dot_int8(dot[r][p], w[p], x);
            }
        }
        GPTWO_UNROLL
        for (int p = 0; p < P; ++p) {
            const F scales = load(reinterpret_cast<const float*>(block + p * m.panel_bytes));
            GPTWO_UNROLL
            for (int r = 0; r < R; ++r)
                sums.add(r, p, to_float(dot[r][p]), mul(scales, set(rows.scale[at + r * rows.blocks])));
        }
        for (int r = 0; r < R; ++r) {
            const size_t i = at + r * rows.blocks;
            if (rows.rest_start[i] == kNoRest) continue;
            const int8_t* rest = rows.rest + size_t(row + r) * rows.q_stride + size_t(b) * kInt8Block;
            for (int p = 0; p < P; ++p) {
                const uint8_t* start = block + p * m.panel_bytes;
                const F scale = mul(load(reinterpret_cast<const float*>(start)), set(rows.scale[i]));
                sums.add(r, p, int8_rest(start + 64, rest, rows.rest_start[i]), mul(scale, set(0.5f / kInt8Activation)));
            }
        }
    }
    sums.finish_all(m, target, row, panel);
}

__attribute__((noinline)) F int4_rest(const uint8_t* chunks, const int8_t* q, int32_t first) {
    I dot = start(first);
    for (int c = 0; c < 4; ++c) {
        W4 low, high;
        load_int4(chunks + c * 64, low, high);
        dot = dot_int4(dot, low, broadcast_int4(q + c * kGroup));
        dot = dot_int4(dot, high, broadcast_int4(q + (c + 4) * kGroup));
    }
    return to_float(total_int4(dot));
}

template <int R, int P>
void int4_tile(const Matrix& m, const Rows& rows, const Target& target, int row, int panel) {
    constexpr int kBytes = 32 + kInt4Block * kLanes / 2;
    Sums<R, P> sums;
    const int8_t* q = rows.q + size_t(row) * rows.q_stride;
    const uint8_t* block = m.data + size_t(panel) * m.panel_bytes;
    for (int b = 0; b < m.blocks; ++b, block += kBytes, q += kInt4Block) {
        const size_t at = size_t(row) * rows.blocks + b;
        I dot[R][P];
        GPTWO_UNROLL
        for (int r = 0; r < R; ++r)
            GPTWO_UNROLL
            for (int p = 0; p < P; ++p) dot[r][p] = start(rows.start[at + r * rows.blocks]);
        GPTWO_UNROLL
        for (int c = 0; c < 4; ++c) {
            GPTWO_UNROLL
            for (int p = 0; p < P; ++p) {
                W4 low, high;
                prefetch<R>(block + p * m.panel_bytes + 32 + c * 64);
                load_int4(block + p * m.panel_bytes + 32 + c * 64, low, high);
                GPTWO_UNROLL
                for (int r = 0; r < R; ++r) {
                    const int8_t* x = q + r * rows.q_stride;
                    dot[r][p] = dot_int4(dot[r][p], low, broadcast_int4(x + c * kGroup));
                    dot[r][p] = dot_int4(dot[r][p], high, broadcast_int4(x + (c + 4) * kGroup));
                }
            }
        }
        GPTWO_UNROLL
        for (int p = 0; p < P; ++p) {
            const F scales = load_half(reinterpret_cast<const uint16_t*>(block + p * m.panel_bytes));
            GPTWO_UNROLL
            for (int r = 0; r < R; ++r)
                sums.add(r, p, to_float(total_int4(dot[r][p])), mul(scales, set(rows.scale[at + r * rows.blocks])));
        }
        for (int r = 0; r < R; ++r) {
            const size_t i = at + r * rows.blocks;
            if (rows.rest_start[i] == kNoRest) continue;
            const int8_t* rest = rows.rest + size_t(row + r) * rows.q_stride + size_t(b) * kInt4Block;
            for (int p = 0; p < P; ++p) {
                const uint8_t* start = block + p * m.panel_bytes;
                const F scale = mul(load_half(reinterpret_cast<const uint16_t*>(start)), set(rows.scale[i]));
                sums.add(r, p, int4_rest(start + 32, rest, rows.rest_start[i]), mul(scale, set(0.5f / kInt4Activation)));
            }
        }
    }
    sums.finish_all(m, target, row, panel);
}

template <Format kFormat, int R, int P>
void tile(const Matrix& m, const Rows& rows, const Target& target, int row, int panel) {
    if constexpr (kFormat == Format::f32) float_tile<float, R, P>(m, rows, target, row, panel);
    if constexpr (kFormat == Format::bf16) float_tile<uint16_t, R, P>(m, rows, target, row, panel);
    if constexpr (kFormat == Format::int8) int8_tile<R, P>(m, rows, target, row, panel);
    if constexpr (kFormat == Format::int4) int4_tile<R, P>(m, rows, target, row, panel);
}

// R rows over all panels. Few rows take several panels at once: one sum alone would wait for its own last step.
template <Format kFormat, int R>
void strip(const Matrix& m, const Rows& rows, const Target& target, int row, int first, int last) {
    constexpr int kFit = kSums / R, kPanels = kFit >= 4 ? 4 : kFit >= 2 ? 2 : 1;
    int panel = first;
    for (; panel + kPanels <= last; panel += kPanels) tile<kFormat, R, kPanels>(m, rows, target, row, panel);
    for (; panel < last; ++panel) tile<kFormat, R, 1>(m, rows, target, row, panel);
}

// As many strips of R rows as there are, then of fewer: few sizes, since each is compiled for each format.
template <Format kFormat, int R>
void all_rows(const Matrix& m, const Rows& rows, const Target& target, int row, int first, int last) {
    for (; row + R <= rows.count; row += R) strip<kFormat, R>(m, rows, target, row, first, last);
    constexpr int kFewer = R > 4 ? 4 : R / 2;
    if constexpr (kFewer > 0) {
        if (row < rows.count) all_rows<kFormat, kFewer>(m, rows, target, row, first, last);
    }
}

void product(const Matrix& m, const Rows& rows, const Target& target, int first, int last) {
    switch (m.format) {
        case Format::f32: return all_rows<Format::f32, kFloatRows>(m, rows, target, 0, first, last);
        case Format::bf16: return all_rows<Format::bf16, kFloatRows>(m, rows, target, 0, first, last);
        case Format::int8: return all_rows<Format::int8, kIntRows>(m, rows, target, 0, first, last);
        case Format::int4: return all_rows<Format::int4, kIntRows>(m, rows, target, 0, first, last);
    }
}

// x and y are padded with zeros to whole lanes, gain and bias too.
void layer_norm(const float* x, float* y, int width, const float* gain, const float* bias, float epsilon) {
    const int padded = (width + 15) / 16 * 16, extra = padded - width;
    F total = set(0.0f);
    for (int k = 0; k < padded; k += 16) total = add(total, load(x + k));
    const F mean = set(sum_of_lanes(total) / float(width));
    F squares = set(0.0f);
    for (int k = 0; k < padded; k += 16) {
        F d = sub(load(x + k), mean);
        if (extra && k + 16 == padded) {
            float v[16];
            store(v, d);
            for (int i = 16 - extra; i < 16; ++i) v[i] = 0.0f;
            d = load(v);
        }
        squares = fma(d, d, squares);
    }
    const F variance = set(sum_of_lanes(squares) / float(width) + epsilon);
    float root[16];
    store(root, variance);
    const F scale = set(1.0f / __builtin_sqrtf(root[0]));
    for (int k = 0; k < padded; k += 16)
        store(y + k, fma(mul(sub(load(x + k), mean), scale), load(gain + k), load(bias + k)));
}

// The integer nearest to each number below 2^22, half to even.
inline I nearest(F shifted) { return sub(bits(shifted), set_int(0x4b400000)); }

void quantize(const float* x, int padded, int block, int8_t* q, int8_t* rest, float* scale, int32_t* start,
              int32_t* rest_start) {
    const bool int8 = block == kInt8Block;
    const float levels = int8 ? kInt8Activation : kInt4Activation;
    for (int b = 0; b * block < padded; ++b, x += block, q += block, rest += block) {
        // As integers, magnitudes compare like the numbers they are, with infinity and NaN on top.
        I most = set_int(0);
        F squares = set(0.0f);
        for (int k = 0; k < block; k += 16) {
            F v = load(x + k);
            most = larger(most, bits(absolute(v)));
            squares = fma(v, v, squares);
        }
        const int32_t top = largest_lane(most);
        float peak;
        std::memcpy(&peak, &top, 4);
        rest_start[b] = kNoRest;
        start[b] = 0;
        if (top >= 0x7f800000 || peak < 1e-30f) {
            // Not a number: neither will the product be. As good as zero: the inverse of the scale would overflow.
            std::memset(q, 0, size_t(block));
            scale[b] = top >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
            continue;
        }
        scale[b] = peak / levels;
        const F inverse = set(levels / peak);
        I total = set_int(0);
        for (int k = 0; k < block; k += 16) {
            const I value = nearest(fma(load(x + k), inverse, set(kMagic)));
            store_bytes(q + k, value);
            total = add(total, value);
        }
        start[b] = int8 ? start_int8(sum_of_lanes(total)) : start_int4(sum_of_lanes(total));
        // An outlier has most of the block's energy; its neighbours are then too small for its scale.
        if (!(peak * peak > (int8 ? 0.5f : 0.8f) * sum_of_lanes(squares))) continue;
        const F step = set(scale[b]), finer = mul(inverse, set(2.0f * levels));
        total = set_int(0);
        for (int k = 0; k < block; k += 16) {
            const F v = load(x + k), shifted = fma(v, inverse, set(kMagic));
            const F left = fma(sub(set(kMagic), shifted), step, v);
            const I value = nearest(fma(left, finer, set(kMagic)));
            store_bytes(rest + k, value);
            total = add(total, value);
        }
        rest_start[b] = int8 ? start_int8(sum_of_lanes(total)) : start_int4(sum_of_lanes(total));
    }
}

// Scores of R queries with 16 * G keys of a block, dimension after dimension.
template <typename E, int R, int G>
inline void scores_tile(const float* q, size_t q_stride, const E* keys, int head_size, float scale, float* scores,
                        size_t stride) {
    F sum[R][G];
    GPTWO_UNROLL
    for (int r = 0; r < R; ++r)
        GPTWO_UNROLL
        for (int i = 0; i < G; ++i) sum[r][i] = set(0.0f);
    for (int d = 0; d < head_size; ++d, keys += kPositions) {
        F key[G];
        GPTWO_UNROLL
        for (int i = 0; i < G; ++i) key[i] = load(keys + i * 16);
        GPTWO_UNROLL
        for (int r = 0; r < R; ++r) {
            const F value = set(q[r * q_stride + d]);
            GPTWO_UNROLL
            for (int i = 0; i < G; ++i) sum[r][i] = fma(value, key[i], sum[r][i]);
        }
    }
    GPTWO_UNROLL
    for (int r = 0; r < R; ++r)
        GPTWO_UNROLL
        for (int i = 0; i < G; ++i) store(scores + r * stride + i * 16, mul(sum[r][i], set(scale)));
}

// Adds `count` values, weighted, to the sums of R queries, 16 * G dimensions of them, position after position.
template <typename E, int R, int G>
inline void values_tile(const float* weights, size_t stride, const E* values, int padded, int count, float* sums) {
    F sum[R][G];
    GPTWO_UNROLL
    for (int r = 0; r < R; ++r)
        GPTWO_UNROLL
        for (int i = 0; i < G; ++i) sum[r][i] = load(sums + r * padded + i * 16);
    for (int s = 0; s < count; ++s, values += padded) {
        F value[G];
        GPTWO_UNROLL
        for (int i = 0; i < G; ++i) value[i] = load(values + i * 16);
        GPTWO_UNROLL
        for (int r = 0; r < R; ++r) {
            const F weight = set(weights[r * stride + s]);
            GPTWO_UNROLL
            for (int i = 0; i < G; ++i) sum[r][i] = fma(weight, value[i], sum[r][i]);
        }
    }
    GPTWO_UNROLL
    for (int r = 0; r < R; ++r)
        GPTWO_UNROLL
        for (int i = 0; i < G; ++i) store(sums + r * padded + i * 16, sum[r][i]);
}

// Positions [first, last) of the values, weighted, to the sums of R queries.
template <typename E, int R>
inline void add_values(const AttentionTask& t, const float* weights, size_t stride, int first, int last, float* sums) {
    constexpr int kGroups = R == 1 ? 4 : 1;
    for (int start = first; start < last;) {
        const int within = start % kPositions;
        const int count = last - start < kPositions - within ? last - start : kPositions - within;
        const E* values = static_cast<const E*>(t.values[start / kPositions]) + size_t(within) * t.padded_head_size;
        int d = 0;
        for (; d + 16 * kGroups <= t.padded_head_size; d += 16 * kGroups)
            values_tile<E, R, kGroups>(weights + start, stride, values + d, t.padded_head_size, count, sums + d);
        for (; d < t.padded_head_size; d += 16)
            values_tile<E, R, 1>(weights + start, stride, values + d, t.padded_head_size, count, sums + d);
        start += count;
    }
}

// From scores to e^(score - largest), zero beyond `length`; returns their sum.
inline float weigh(float* scores, int length) {
    const int padded = round_up(length, 16);
    for (int i = length; i < padded; ++i) scores[i] = -3.4e38f;
    F most = load(scores);
    for (int i = 16; i < padded; i += 16) most = larger(most, load(scores + i));
    const F top = set(largest_lane(most));
    F total = set(0.0f);
    for (int i = 0; i < padded; i += 16) {
        F e = exponential(sub(load(scores + i), top));
        store(scores + i, e);
        if (i + 16 == padded) {
            for (int j = length; j < padded; ++j) scores[j] = 0.0f;
            e = load(scores + i);
        }
        total = add(total, e);
    }
    return sum_of_lanes(total);
}

// R consecutive queries, the first at `position`.
template <typename E, int R>
void attend_rows(const AttentionTask& t, int row, int position) {
    constexpr int kGroups = R == 1 ? 4 : 1;
    const int length = position + 1;
    const size_t stride = size_t(round_up(t.first_position + t.count, kPositions));
    float *scores = t.scratch, *sums = t.scratch + kAttentionRows * stride;
    const float* q = t.q + size_t(row) * t.q_stride;
    for (int start = 0; start < length + R - 1; start += kPositions)
        for (int i = 0; i < kPositions && start + i < length + R - 1; i += 16 * kGroups)
            scores_tile<E, R, kGroups>(q, t.q_stride, static_cast<const E*>(t.keys[start / kPositions]) + i, t.head_size,
                                       t.scale, scores + start + i, stride);
    float total[R];
    for (int r = 0; r < R; ++r) total[r] = weigh(scores + r * stride, length + r);
    for (int i = 0; i < R * t.padded_head_size; ++i) sums[i] = 0.0f;
    add_values<E, R>(t, scores, stride, 0, length, sums);
    for (int r = 1; r < R; ++r)  // what only the later ones may see
        add_values<E, 1>(t, scores + r * stride, stride, length, length + r, sums + r * t.padded_head_size);
    for (int r = 0; r < R; ++r) {
        const float share = 1.0f / total[r];
        float* out = t.out + size_t(row + r) * t.out_stride;
        for (int i = 0; i < t.head_size; ++i) out[i] = sums[r * t.padded_head_size + i] * share;
    }
}

template <typename E>
void attend(const AttentionTask& t) {
    int row = 0;
    for (; row + kAttentionRows <= t.count; row += kAttentionRows)
        attend_rows<E, kAttentionRows>(t, row, t.first_position + row);
    for (; row < t.count; ++row) attend_rows<E, 1>(t, row, t.first_position + row);
}

void attention(const AttentionTask& t) {
    if (t.bf16)
        attend<uint16_t>(t);
    else
        attend<float>(t);
}

}  // namespace
}  // namespace gptwo

#define GPTWO_KERNELS(variable, name) \
    const gptwo::Kernels gptwo::variable = {name, product, layer_norm, quantize, attention}
