#include "row.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>

#include "errors.hpp"

namespace gptwo {

namespace {

constexpr size_t kLanes = 16, kStretch = 64 * kLanes;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Four numbers side by side, which every 64-bit machine has instructions for: left to itself, gcc does one by one what
// compares. Each operation is the one on plain numbers, so the width makes no difference to a bit.
using Floats = float __attribute__((vector_size(16)));
using Words = int32_t __attribute__((vector_size(16)));
using Doubles = double __attribute__((vector_size(16)));
using Longs = int64_t __attribute__((vector_size(16)));

template <typename To, typename From>
inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
inline Floats load(const float* p) { Floats x; std::memcpy(&x, p, sizeof x); return x; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }  // b where either is NaN

// e^-x for x >= 0; below 2^-64 for x > 64. Taylor's series after -x = n ln 2 + r. No fused multiply-add: not every
// machine has one. n ln2_high is exact.
inline Floats exponential_of_minus(Floats x) {
    constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
    x = larger(-x, Floats{} - 64.0f);
    const Floats shifted = x * 1.44269504f + kMagic;
    const Floats n = shifted - kMagic;
    const Floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    const Floats r2 = r * r, r4 = r2 * r2;  // in pairs, so that little waits for what is before it
    const Floats low = (r + 1.0f) + (r * (1.0f / 6) + 0.5f) * r2;
    const Floats high = (r * (1.0f / 120) + 1.0f / 24) + (r * (1.0f / 5040) + 1.0f / 720) * r2;
    const Floats p = low + high * r4;
    return p * same_bits<Floats>((same_bits<Words>(shifted) + 127) << 23);
}

struct FourMasses { Longs low, high; };

inline FourMasses masses_of(Floats distances) {
    constexpr double kMagic = 6755399441055744.0, kUnit = double(1ll << kMassBits);  // 1.5 * 2^52
    const Floats e = exponential_of_minus(distances);
    const Doubles low = {e[0], e[1]}, high = {e[2], e[3]};
    const int64_t zero = same_bits<int64_t>(kMagic);
    return {same_bits<Longs>(low * kUnit + kMagic) - zero, same_bits<Longs>(high * kUnit + kMagic) - zero};
}

inline uint64_t key_and_index(float x, size_t index) {
    x += 0.0f;  // -0 is 0
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return uint64_t(~ascending) << 32 | index;
}

}  // namespace

Row::Row(const float* logits, size_t size, std::vector<float>& maxima)
    : logits_(logits), size_(size), maxima_(maxima), peak_(-kInfinity), has_nan_(false) {
    maxima_.assign((size + kStretch - 1) / kStretch * kLanes, -kInfinity);
    Words odd[4] = {};
    for (size_t start = 0, group = 0; start < size; start += kStretch, group += kLanes) {
        const float* x = logits + start;
        const size_t count = std::min(kStretch, size - start), whole = count / kLanes * kLanes;
        Floats most[4];
        for (Floats& four : most) four = Floats{} - kInfinity;
        for (size_t k = 0; k < whole; k += kLanes)
            for (size_t i = 0; i < 4; ++i) {
                const Floats four = load(x + k + 4 * i);
                most[i] = larger(four, most[i]);
                odd[i] |= four != four;
            }
        float* m = maxima_.data() + group;
        std::memcpy(m, most, sizeof most);
        for (size_t k = whole; k < count; ++k) {
            m[k - whole] = std::max(m[k - whole], x[k]);
            has_nan_ |= x[k] != x[k];
        }
        for (size_t i = 0; i < kLanes; ++i) peak_ = std::max(peak_, m[i]);
    }
    for (Words four : odd) has_nan_ |= (four[0] | four[1] | four[2] | four[3]) != 0;
}

void Row::check() const {
    if (has_nan_) {
        const size_t first = size_t(std::find_if(logits_, logits_ + size_, [](float x) { return x != x; }) - logits_);
        throw NumericalError("the logits hold NaN, first at token " + std::to_string(first) + "; check the weights");
    }
    if (peak_ == kInfinity)
        throw NumericalError("the logit of token " + std::to_string(likeliest()) + " is infinite; check the weights");
    if (peak_ == -kInfinity)
        throw NumericalError("every logit is -inf, so that no token can be chosen; check the weights");
}

size_t Row::likeliest() const {
    const size_t group = size_t(std::find(maxima_.begin(), maxima_.end(), peak_) - maxima_.begin());
    const float* stretch = logits_ + group / kLanes * kStretch;
    return size_t(std::find(stretch, logits_ + size_, peak_) - logits_);
}

void Row::largest(size_t k, std::vector<uint64_t>& found) const {
    found.clear();
    if (k == 0) return;
    float bound = -kInfinity;
    if (k <= maxima_.size()) {  // k groups have a number of at least the k-th largest maximum
        thread_local std::vector<float> ordered;
        ordered = maxima_;
        std::nth_element(ordered.begin(), ordered.begin() + ptrdiff_t(k - 1), ordered.end(), std::greater<float>());
        bound = ordered[k - 1];
    }
    for (size_t group = 0; group < maxima_.size(); ++group) {
        if (maxima_[group] < bound) continue;
        const size_t start = group / kLanes * kStretch, end = std::min(start + kStretch, size_);
        for (size_t i = start + group % kLanes; i < end; i += kLanes)
            if (logits_[i] >= bound) found.push_back(key_and_index(logits_[i], i));
    }
    if (found.size() <= k) return;
    std::nth_element(found.begin(), found.begin() + ptrdiff_t(k), found.end());
    found.resize(k);
}

void to_distances(float* distances, size_t count, float peak, double temperature) {
    if (temperature == 1.0) {
        for (size_t i = 0; i < count; ++i) distances[i] = peak - distances[i];
        return;
    }
    // A temperature may be below what float holds. With the peak at 0 no temperature makes NaN.
    for (size_t i = 0; i < count; ++i) distances[i] = float(double(peak - distances[i]) / temperature);
}

void to_masses(const float* distances, size_t count, int64_t* masses) {
    size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const FourMasses four = masses_of(load(distances + i));
        std::memcpy(masses + i, &four.low, sizeof four.low);
        std::memcpy(masses + i + 2, &four.high, sizeof four.high);
    }
    float rest[4] = {};
    std::memcpy(rest, distances + i, (count - i) * sizeof *rest);
    const FourMasses four = masses_of(load(rest));
    std::memcpy(masses + i, &four, (count - i) * sizeof *masses);
}

int64_t sum(const int64_t* masses, size_t count) {
    Longs totals[4] = {};  // several, so that none waits for its own last step
    const size_t whole = count / 8 * 8;
    for (size_t i = 0; i < whole; i += 8)
        for (size_t k = 0; k < 4; ++k) {
            Longs two;
            std::memcpy(&two, masses + i + 2 * k, sizeof two);
            totals[k] += two;
        }
    int64_t total = 0;
    for (Longs two : totals) total += two[0] + two[1];
    for (size_t i = whole; i < count; ++i) total += masses[i];
    return total;
}

double natural_log(double x) {
    // x = m 2^e with m around 1; ln m = 2 artanh s with s = (m - 1) / (m + 1), |s| < 0.172.
    int exponent;
    double m = std::frexp(x, &exponent);
    if (m < 0.70710678118654752) m *= 2.0, exponent -= 1;
    const double s = (m - 1.0) / (m + 1.0), z = s * s;
    double series = 1.0 / 23;
    for (int odd = 21; odd > 0; odd -= 2) series = series * z + 1.0 / odd;
    const double e = exponent;
    return e * 0.693147180369123816490 + (2.0 * s * series + e * 1.90821492927058770002e-10);
}

LogProbabilities::LogProbabilities(const Row& row) : peak_(row.peak()) {
    const float* x = row.logits();
    const size_t size = row.size(), whole = size / 4 * 4;
    Longs totals = {};
    for (size_t i = 0; i < whole; i += 4) {
        const FourMasses four = masses_of(row.peak() - load(x + i));
        totals += four.low + four.high;
    }
    float rest[4] = {kInfinity, kInfinity, kInfinity, kInfinity};  // of the mass 0
    for (size_t i = whole; i < size; ++i) rest[i - whole] = row.peak() - x[i];
    const FourMasses four = masses_of(load(rest));
    totals += four.low + four.high;
    const int64_t total = totals[0] + totals[1];
    log_total_ = natural_log(double(total) / double(1ll << kMassBits));
}

float LogProbabilities::of(float logit) const { return float((double(logit) - peak_) - log_total_); }

}  // namespace gptwo
