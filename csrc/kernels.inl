// The kernels, once, in terms of sixteen lanes; each tier includes its lanes and then this, in its own source.
//
// What keeps the bits the same everywhere: an output is summed by one lane in one order (inputs one after another, or
// blocks one after another), whatever tile it is computed in; every rounding is one IEEE operation or one fused
// multiply-add that is written here; sums over a row run in 16 lanes and then in a fixed tree.

#include "kernels.hpp"

// The sums of a tile must stay in registers, so the loops over its rows and panels have to vanish.
#define GPTWO_UNROLL _Pragma("GCC unroll 16")

namespace gptwo {
namespace {

inline float sum_of_lanes(F x) {
    float v[16];
    store(v, x);
    for (int step = 8; step > 0; step /= 2)
        for (int i = 0; i < step; ++i) v[i] += v[i + step];
    return v[0];
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
        for (int p = 0; p < P; ++p) weights[p] = load(w + p * next + size_t(k) * kLanes);
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

// The second term of a block with an outlier. It is rare, and apart: inlined, it would keep the block's weights alive
// through the common case, in registers that the sums need.
__attribute__((noinline)) F int8_rest(const uint8_t* groups, const int8_t* q, int sum) {
    I dot = set_int(-128 * sum);
    for (int g = 0; g < kInt8Block / kGroup; ++g) dot = dot_int8(dot, load_int8(groups + g * 64), broadcast_rest(q, g));
    return to_float(dot);
}

template <int R, int P>
void int8_tile(const Matrix& m, const Rows& rows, const Target& target, int row, int panel) {
    constexpr int kBytes = 64 + kInt8Block * kLanes;
    F sum[R][P];
    GPTWO_UNROLL
    for (int r = 0; r < R; ++r)
        GPTWO_UNROLL
        for (int p = 0; p < P; ++p) sum[r][p] = set(0.0f);
    for (int b = 0; b < m.blocks; ++b) {
        const size_t at = size_t(row) * rows.blocks + b;
        const size_t q_at = size_t(row) * rows.q_stride + size_t(b) * kInt8Block;
        I dot[R][P];
        GPTWO_UNROLL
        for (int r = 0; r < R; ++r)  // the weights carry an offset of 128
            GPTWO_UNROLL
            for (int p = 0; p < P; ++p) dot[r][p] = set_int(-128 * rows.sum[at + r * rows.blocks]);
        const uint8_t* block[P];
        GPTWO_UNROLL
        for (int p = 0; p < P; ++p) block[p] = m.data + size_t(panel + p) * m.panel_bytes + size_t(b) * kBytes;
        for (int g = 0; g < kInt8Block / kGroup; ++g) {
            GPTWO_UNROLL
            for (int p = 0; p < P; ++p) {
                W w = load_int8(block[p] + 64 + g * 64);
                GPTWO_UNROLL
                for (int r = 0; r < R; ++r) {
                    const size_t q = q_at + r * rows.q_stride;
                    dot[r][p] = dot_int8(dot[r][p], w, broadcast_int8(rows.q + q, rows.wide + (kWide ? q : 0), g));
                }
            }
        }
        GPTWO_UNROLL
        for (int p = 0; p < P; ++p) {
            F scales = load(reinterpret_cast<const float*>(block[p]));
            GPTWO_UNROLL
            for (int r = 0; r < R; ++r) {
                const size_t i = at + r * rows.blocks;
                F scale = mul(scales, set(rows.scale[i]));
                sum[r][p] = fma(to_float(dot[r][p]), scale, sum[r][p]);
                if (rows.rest_sum[i] == kNoRest) continue;
                F rest = int8_rest(block[p] + 64, rows.rest + q_at + r * rows.q_stride, rows.rest_sum[i]);
                sum[r][p] = fma(rest, mul(scale, set(1.0f / 254)), sum[r][p]);
            }
        }
    }
    GPTWO_UNROLL
    for (int r = 0; r < R; ++r)
        GPTWO_UNROLL
        for (int p = 0; p < P; ++p) finish(m, target, row + r, panel + p, sum[r][p]);
}

__attribute__((noinline)) F int4_rest(const uint8_t* chunks, const int8_t* q, int sum) {
    I4 dot = zero_int4();
    for (int c = 0; c < 4; ++c) {
        W4 low, high;
        load_int4(chunks + c * 64, low, high);
        dot = dot_int4(dot, low, broadcast_int4(q, c));
        dot = dot_int4(dot, high, broadcast_int4(q, c + 4));
    }
    return to_float(add(total_int4(dot), set_int(-8 * sum)));
}

template <int R, int P>
void int4_tile(const Matrix& m, const Rows& rows, const Target& target, int row, int panel) {
    constexpr int kBytes = 32 + kInt4Block * kLanes / 2;
    F sum[R][P];
    GPTWO_UNROLL
    for (int r = 0; r < R; ++r)
        GPTWO_UNROLL
        for (int p = 0; p < P; ++p) sum[r][p] = set(0.0f);
    for (int b = 0; b < m.blocks; ++b) {
        const size_t at = size_t(row) * rows.blocks + b;
        const size_t q_at = size_t(row) * rows.q_stride + size_t(b) * kInt4Block;
        GPTWO_UNROLL
        for (int p = 0; p < P; ++p) {
            const uint8_t* block = m.data + size_t(panel + p) * m.panel_bytes + size_t(b) * kBytes;
            I4 dot[R];
            GPTWO_UNROLL
            for (int r = 0; r < R; ++r) dot[r] = zero_int4();
            GPTWO_UNROLL
            for (int c = 0; c < 4; ++c) {
                W4 low, high;
                load_int4(block + 32 + c * 64, low, high);
                GPTWO_UNROLL
                for (int r = 0; r < R; ++r) {
                    const int8_t* q = rows.q + q_at + r * rows.q_stride;
                    dot[r] = dot_int4(dot[r], low, broadcast_int4(q, c));
                    dot[r] = dot_int4(dot[r], high, broadcast_int4(q, c + 4));
                }
            }
            F scales = load_half(reinterpret_cast<const uint16_t*>(block));
            GPTWO_UNROLL
            for (int r = 0; r < R; ++r) {
                const size_t i = at + r * rows.blocks;
                F scale = mul(scales, set(rows.scale[i]));
                I exact = add(total_int4(dot[r]), set_int(-8 * rows.sum[i]));
                sum[r][p] = fma(to_float(exact), scale, sum[r][p]);
                if (rows.rest_sum[i] == kNoRest) continue;
                F rest = int4_rest(block + 32, rows.rest + q_at + r * rows.q_stride, rows.rest_sum[i]);
                sum[r][p] = fma(rest, mul(scale, set(1.0f / 254)), sum[r][p]);
            }
        }
    }
    GPTWO_UNROLL
    for (int r = 0; r < R; ++r)
        GPTWO_UNROLL
        for (int p = 0; p < P; ++p) finish(m, target, row + r, panel + p, sum[r][p]);
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
    constexpr int kPanels = R == 1 ? 4 : R == 2 ? 2 : 1;
    int panel = first;
    for (; panel + kPanels <= last; panel += kPanels) tile<kFormat, R, kPanels>(m, rows, target, row, panel);
    for (; panel < last; ++panel) tile<kFormat, R, 1>(m, rows, target, row, panel);
}

template <Format kFormat, int R>
void rest_of_rows(const Matrix& m, const Rows& rows, const Target& target, int row, int left, int first, int last) {
    if constexpr (R > 0) {
        if (left == R) return strip<kFormat, R>(m, rows, target, row, first, last);
        rest_of_rows<kFormat, R - 1>(m, rows, target, row, left, first, last);
    }
}

template <Format kFormat>
void all_rows(const Matrix& m, const Rows& rows, const Target& target, int first, int last) {
    constexpr int kMost = kFormat == Format::f32 || kFormat == Format::bf16 ? kFloatRows : kIntRows;
    int row = 0;
    for (; row + kMost <= rows.count; row += kMost) strip<kFormat, kMost>(m, rows, target, row, first, last);
    rest_of_rows<kFormat, kMost - 1>(m, rows, target, row, rows.count - row, first, last);
}

void product(const Matrix& m, const Rows& rows, const Target& target, int first, int last) {
    switch (m.format) {
        case Format::f32: return all_rows<Format::f32>(m, rows, target, first, last);
        case Format::bf16: return all_rows<Format::bf16>(m, rows, target, first, last);
        case Format::int8: return all_rows<Format::int8>(m, rows, target, first, last);
        case Format::int4: return all_rows<Format::int4>(m, rows, target, first, last);
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

void quantize(const float* x, int padded, int block, int8_t* q, int16_t* wide, int8_t* rest, float* scale, int32_t* sum,
              int32_t* rest_sum) {
    for (int b = 0; b * block < padded; ++b, x += block, q += block, wide += kWide ? block : 0, rest += block) {
        // As integers, magnitudes compare like the numbers they are, with infinity and NaN on top.
        I most = set_int(0);
        F energy = set(0.0f);
        for (int k = 0; k < block; k += 16) {
            F v = load(x + k);
            most = larger(most, bits(absolute(v)));
            energy = fma(v, v, energy);
        }
        int32_t m[16];
        store_int(m, most);
        for (int i = 1; i < 16; ++i) m[0] = m[i] > m[0] ? m[i] : m[0];
        float peak;
        std::memcpy(&peak, m, 4);
        rest_sum[b] = kNoRest;
        sum[b] = 0;
        if (m[0] >= 0x7f800000 || peak < 1e-30f) {
            // Not a number: neither will the product be. As good as zero: the inverse of the scale would overflow.
            std::memset(q, 0, size_t(block));
            if (kWide) std::memset(wide, 0, size_t(block) * 2);
            scale[b] = m[0] >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
            continue;
        }
        scale[b] = peak / 127.0f;
        const F inverse = set(127.0f / peak), step = set(scale[b]);
        // An outlier has most of the block's energy; its neighbours are then too small for its scale.
        const bool outlier = peak * peak > 0.5f * sum_of_lanes(energy);
        int32_t total = 0, rest_total = 0;
        for (int k = 0; k < block; k += 16) {
            F v = load(x + k), shifted = fma(v, inverse, set(kMagic));
            int32_t lanes[16];
            store_int(lanes, bits(shifted));
            for (int i = 0; i < 16; ++i) {
                int8_t value = int8_t(uint8_t(lanes[i] & 255));
                q[k + i] = value;
                total += value;
            }
            if (kWide)
                for (int i = 0; i < 16; i += 4) {
                    wide[k + i] = q[k + i], wide[k + i + 1] = q[k + i + 2];
                    wide[k + i + 2] = q[k + i + 1], wide[k + i + 3] = q[k + i + 3];
                }
            if (!outlier) continue;
            F left = fma(sub(set(kMagic), shifted), step, v);
            store_int(lanes, bits(fma(left, mul(inverse, set(254.0f)), set(kMagic))));
            for (int i = 0; i < 16; ++i) {
                int8_t value = int8_t(uint8_t(lanes[i] & 255));
                rest[k + i] = value;
                rest_total += value;
            }
        }
        sum[b] = total;
        if (outlier) rest_sum[b] = rest_total;
    }
}

// Scores of one query with the 64 keys of a block, dimension after dimension.
template <typename E>
void block_scores(const float* q, const E* keys, int head_size, float scale, float* scores) {
    F sum[4] = {set(0.0f), set(0.0f), set(0.0f), set(0.0f)};
    for (int d = 0; d < head_size; ++d) {
        F value = set(q[d]);
        GPTWO_UNROLL
        for (int i = 0; i < 4; ++i) sum[i] = fma(value, load(keys + d * kPositions + i * 16), sum[i]);
    }
    GPTWO_UNROLL
    for (int i = 0; i < 4; ++i) store(scores + i * 16, mul(sum[i], set(scale)));
}

// 16 * G dimensions of the values, weighted, position after position.
template <typename E, int G>
void weighted_values(const AttentionTask& t, const float* weights, int length, int dimension, float* out) {
    F sum[G];
    GPTWO_UNROLL
    for (int i = 0; i < G; ++i) sum[i] = set(0.0f);
    for (int start = 0; start < length; start += kPositions) {
        const E* values = static_cast<const E*>(t.values[start / kPositions]) + dimension;
        const int count = length - start < kPositions ? length - start : kPositions;
        for (int s = 0; s < count; ++s) {
            F weight = set(weights[start + s]);
            GPTWO_UNROLL
            for (int i = 0; i < G; ++i) sum[i] = fma(weight, load(values + s * t.padded_head_size + i * 16), sum[i]);
        }
    }
    GPTWO_UNROLL
    for (int i = 0; i < G; ++i) store(out + dimension + i * 16, sum[i]);
}

template <typename E>
void attend(const AttentionTask& t) {
    float* weights = t.scratch;
    for (int row = 0; row < t.count; ++row) {
        const int length = t.first_position + row + 1, padded = round_up(length, 16);
        for (int start = 0; start < length; start += kPositions)
            block_scores(t.q + size_t(row) * t.q_stride, static_cast<const E*>(t.keys[start / kPositions]), t.head_size,
                         t.scale, weights + start);
        for (int i = length; i < padded; ++i) weights[i] = -3.4e38f;
        F most = load(weights);
        for (int i = 16; i < padded; i += 16) most = larger(most, load(weights + i));
        const F top = set(largest_lane(most));
        F total = set(0.0f);
        for (int i = 0; i < padded; i += 16) {
            F e = exponential(sub(load(weights + i), top));
            store(weights + i, e);
            if (i + 16 == padded) {  // beyond the query's own position there is nothing
                for (int j = length; j < padded; ++j) weights[j] = 0.0f;
                e = load(weights + i);
            }
            total = add(total, e);
        }
        float* sums = weights + round_up(t.first_position + t.count, kPositions);
        int d = 0;
        for (; d + 64 <= t.padded_head_size; d += 64) weighted_values<E, 4>(t, weights, length, d, sums);
        for (; d < t.padded_head_size; d += 16) weighted_values<E, 1>(t, weights, length, d, sums);
        const float share = 1.0f / sum_of_lanes(total);
        float* out = t.out + size_t(row) * t.out_stride;
        for (int i = 0; i < t.head_size; ++i) out[i] = sums[i] * share;
    }
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
    const gptwo::Kernels gptwo::variable = {name, kWide, product, layer_norm, quantize, attention}
