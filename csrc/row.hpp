// A row of logits: its largest numbers, its probabilities as whole numbers, its log-probabilities.
//
// The probability of a token is proportional to its mass: e^(logit - largest logit), rounded to a multiple of 2^-40.
// Sums of whole numbers are exact, so their order makes no difference: any machine, loop or number of lanes gives the
// same bits. src/gptwo/sampling/arithmetic.py says the same in numpy; tests hold the two equal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace gptwo {

constexpr int kMassBits = 40;              // the likeliest token has the mass 2^40
constexpr size_t kLargestRow = 1u << 22;  // so many masses cannot overflow 63 bits

// One pass over a row finds its largest number, and the largest of each group of 64 numbers, so that whoever looks for
// the largest k has few groups to look through. The numbers of a group lie 16 apart, one lane's share of a stretch.
class Row {
public:
    // Keeps a pointer to the `size` logits, and to `maxima`, which it fills.
    Row(const float* logits, size_t size, std::vector<float>& maxima);

    // Throws NumericalError if a logit is NaN or +inf, or none is finite.
    void check() const;

    const float* logits() const { return logits_; }
    size_t size() const { return size_; }
    float peak() const { return peak_; }  // meaningless where there is NaN
    size_t likeliest() const;             // the lowest index of the largest

    // The indices of the k largest, each behind its key, in no order; sorted, they are largest first and equal ones by
    // index. Replaces what `found` holds. With k = 0 there are none.
    void largest(size_t k, std::vector<uint64_t>& found) const;

private:
    const float* logits_;
    size_t size_;
    std::vector<float>& maxima_;
    float peak_;
    bool has_nan_;
};

// What `Row::largest` finds. Smaller keys are larger numbers; equal numbers compare by index.
inline uint32_t index_of(uint64_t found) { return uint32_t(found); }

// How far each logit lies below the peak, divided by the temperature: distances[i] = (peak - distances[i]) / temperature
// for logits that are in `distances`. temperature > 0.
void to_distances(float* distances, size_t count, float peak, double temperature);

// masses[i] = e^-distances[i] * 2^40, rounded to the nearest. distances >= 0, infinity among them.
void to_masses(const float* distances, size_t count, int64_t* masses);

int64_t sum(const int64_t* masses, size_t count);

// ln x for x > 0, to about 1 ulp. The system's own may differ in the last bit from one machine to the next.
double natural_log(double x);

// Log-probabilities of a row that is in order (see Row::check).
class LogProbabilities {
public:
    explicit LogProbabilities(const Row& row);
    float of(float logit) const;

private:
    double peak_, log_total_;
};

}  // namespace gptwo
