#include "sampler.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "errors.hpp"

namespace gptwo {

namespace {

constexpr float kRemoved = -std::numeric_limits<float>::infinity();
constexpr int32_t kNoMass = 0x42000000;    // bits of 32: what lies so far off has no mass
constexpr int32_t kSmallest = 0x0d800000;  // bits of 2^-100: what is nearer cannot be divided by

// Memory that a thread keeps from one row to the next.
struct Scratch {
    std::vector<float> maxima, changed, changed_maxima, distances, surprises;
    std::vector<int64_t> masses, pieces, history;
    std::vector<uint32_t> counts;  // zeros between uses
    std::vector<uint16_t> bins;
    std::vector<uint64_t> largest, tied;
};

Scratch& scratch() {
    thread_local Scratch mine;
    return mine;
}

size_t checked(int64_t token, size_t size) {
    if (token < 0 || uint64_t(token) >= size)
        throw InvalidRequestError("token id " + std::to_string(token) + " is out of range: the logits have " +
                                  std::to_string(size) + " tokens");
    return size_t(token);
}

// The model's logits, which it answers for.
Row checked_row(const float* logits, size_t size) {
    if (size == 0 || size > kLargestRow)
        throw InvalidRequestError("a row of logits has " + std::to_string(size) + " tokens, expected 1 to " +
                                  std::to_string(kLargestRow));
    const Row row(logits, size, scratch().maxima);
    row.check();
    return row;
}

// Calls change(logit, times) once for each different token.
template <typename Change>
void for_each_token(const std::vector<int64_t>& tokens, float* logits, size_t size, Change change) {
    for (int64_t token : tokens) checked(token, size);
    std::vector<uint32_t>& counts = scratch().counts;
    if (counts.size() < size) counts.resize(size);
    for (int64_t token : tokens) ++counts[size_t(token)];
    for (int64_t token : tokens)
        if (uint32_t times = std::exchange(counts[size_t(token)], 0)) change(logits[token], times);
}

void remove_masked(float* logits, size_t size, TokenMask mask) {
    for (size_t first = 0; first < size; first += 32) {
        const uint32_t allowed = first / 32 < mask.count ? mask.words[first / 32] : 0;
        if (allowed == ~uint32_t(0)) continue;
        const size_t count = std::min<size_t>(32, size - first);
        for (size_t i = 0; i < count; ++i)
            if (!(allowed >> i & 1)) logits[first + i] = kRemoved;
    }
}

bool ends_with(const std::vector<int64_t>& history, const int64_t* ending, size_t count) {
    return count <= history.size() && std::equal(ending, ending + count, history.end() - ptrdiff_t(count));
}

float of_bits(int32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// The bits of a distance, or of 32 if it is farther. Numbers that are not negative are in order like their bits.
int32_t near_bits(float distance) {
    distance += 0.0f;  // -0 is 0
    int32_t bits;
    std::memcpy(&bits, &distance, 4);
    return std::min(bits, kNoMass);
}

// Keeps the fewest tokens, by distance and then by index, whose masses reach `share` of the whole, and gives the others
// the mass 0. At least one stays.
void keep_reaching(const float* distances, int64_t* masses, size_t count, double share) {
    const int64_t total = sum(masses, count);
    const double wanted = std::ceil(share * double(total));
    const int64_t need = wanted < double(total) ? std::max<int64_t>(1, int64_t(wanted)) : total;
    if (need >= total) return;
    // Masses are shared out to bins of distance. Only the bin in which the sum reaches `need` has to be sorted; how wide
    // the bins are makes no difference to what is kept.
    constexpr int kBins = 2048;
    int32_t farthest = 0;
    for (size_t i = 0; i < count; ++i) farthest = std::max(farthest, near_bits(distances[i]));
    const float scale = farthest > kSmallest ? float(kBins - 1) / of_bits(farthest) : 0.0f;
    std::vector<uint16_t>& bins = scratch().bins;
    if (bins.size() < count) bins.resize(count);
    for (size_t i = 0; i < count; ++i) bins[i] = uint16_t(int32_t(of_bits(near_bits(distances[i])) * scale));
    int64_t held[kBins] = {};
    for (size_t i = 0; i < count; ++i) held[bins[i]] += masses[i];
    int bin = 0;
    int64_t reached = 0;
    while (reached + held[bin] < need) reached += held[bin++];

    std::vector<uint64_t>& tied = scratch().tied;
    tied.clear();
    for (size_t i = 0; i < count; ++i)
        if (bins[i] == bin && masses[i] > 0) tied.push_back(uint64_t(near_bits(distances[i])) << 32 | i);
    std::sort(tied.begin(), tied.end());
    size_t last = 0;
    while ((reached += masses[index_of(tied[last])]) < need) ++last;
    while (++last < tied.size()) masses[index_of(tied[last])] = 0;
    for (size_t i = 0; i < count; ++i) masses[i] &= -int64_t(bins[i] <= bin);
}

// How far the surprise of each token, -log p, lies from the expected one, which is the entropy. log p is a constant less
// the token's distance, so that the logarithm cancels out.
void to_surprises(const float* distances, const int64_t* masses, size_t count, float* surprises) {
    double expected = 0.0;
    for (size_t i = 0; i < count; ++i)  // one after another; what is farther than 32 has the mass 0
        expected += double(masses[i]) * double(std::min(distances[i], 32.0f));
    expected /= double(sum(masses, count));
    for (size_t i = 0; i < count; ++i) surprises[i] = float(std::fabs(double(distances[i]) - expected));
}

// The first index at which the sum of masses exceeds the random share of the whole.
size_t draw(const int64_t* masses, size_t count, uint64_t random) {
    constexpr size_t kPiece = 512;
    std::vector<int64_t>& pieces = scratch().pieces;
    pieces.clear();
    for (size_t i = 0; i < count; i += kPiece) pieces.push_back(sum(masses + i, std::min(kPiece, count - i)));
    __extension__ using Wide = unsigned __int128;
    const Wide whole = Wide(uint64_t(sum(pieces.data(), pieces.size())));
    int64_t left = int64_t(Wide(random) * whole >> 53);  // below the whole, since `random` is below 2^53
    size_t i = 0;
    for (const int64_t* piece = pieces.data(); left >= *piece; ++piece, i += kPiece) left -= *piece;
    while (left >= masses[i]) left -= masses[i++];
    return i;
}

// What can be drawn: all tokens of a row, or some of them in ascending order.
struct Candidates {
    size_t count;
    const int64_t* masses;
    const uint64_t* found;  // as Row::largest has them; null where these are all tokens

    size_t token(size_t i) const { return found ? index_of(found[i]) : i; }
};

// The tokens that a row's options leave, and their masses. They are the scratch memory's, until its next use.
Candidates candidates(const Row& row, const SamplingOptions& options) {
    Scratch& mine = scratch();
    const bool few = options.top_k > 0 && uint64_t(options.top_k) < row.size();
    size_t count = row.size();
    if (few) {
        row.largest(size_t(options.top_k), mine.largest);
        std::sort(mine.largest.begin(), mine.largest.end(), [](auto a, auto b) { return index_of(a) < index_of(b); });
        count = mine.largest.size();
    }
    if (mine.distances.size() < count) mine.masses.resize(count), mine.distances.resize(count);
    float* distances = mine.distances.data();
    int64_t* masses = mine.masses.data();
    if (few)
        for (size_t i = 0; i < count; ++i) distances[i] = row.logits()[index_of(mine.largest[i])];
    else
        std::memcpy(distances, row.logits(), count * sizeof *distances);
    to_distances(distances, count, row.peak(), options.temperature);
    to_masses(distances, count, masses);

    if (options.top_p < 1.0) keep_reaching(distances, masses, count, options.top_p);
    if (options.min_p > 0.0) {
        const double farthest = -natural_log(options.min_p);  // a ratio of probabilities is a difference of logits
        for (size_t i = 0; i < count; ++i) masses[i] &= -int64_t(double(distances[i]) <= farthest);
    }
    if (options.typical_p < 1.0) {
        if (mine.surprises.size() < count) mine.surprises.resize(count);
        to_surprises(distances, masses, count, mine.surprises.data());
        keep_reaching(mine.surprises.data(), masses, count, options.typical_p);
    }
    return {count, masses, few ? mine.largest.data() : nullptr};
}

Choice described(const Row& row, int64_t token, size_t count) {
    const LogProbabilities logprobs(row);
    Choice choice;
    choice.token = token;
    choice.logprob = logprobs.of(row.logits()[checked(token, row.size())]);
    std::vector<uint64_t>& likeliest = scratch().largest;
    row.largest(std::min(count, row.size()), likeliest);
    std::sort(likeliest.begin(), likeliest.end());
    choice.top.reserve(likeliest.size());
    for (uint64_t found : likeliest)
        choice.top.push_back({index_of(found), logprobs.of(row.logits()[index_of(found)])});
    return choice;
}

}  // namespace

Sampler::Sampler(SamplingOptions options, std::vector<int64_t> prompt)
    : options_(std::move(options)), prompt_(std::move(prompt)) {
    const SamplingOptions& o = options_;
    for (const auto& word : o.bad_words)
        if (word.empty()) throw InvalidRequestError("a bad word has no tokens");
    const bool counts_output = o.frequency_penalty != 0.0f || o.presence_penalty != 0.0f;
    reads_history_ = o.repetition_penalty != 1.0f || o.no_repeat_ngram_size > 0 || !o.bad_words.empty();
    reads_output_ = reads_history_ || counts_output;
    if (o.logprobs.value_or(0) < 0) throw InvalidRequestError("logprobs is negative");
    // The ranges that the arithmetic relies on; comparisons are false for NaN.
    const bool in_range = o.temperature >= 0.0 && o.temperature <= std::numeric_limits<double>::max() &&
                          o.top_p >= 0.0 && o.top_p <= 1.0 && o.min_p >= 0.0 && o.min_p <= 1.0 && o.typical_p > 0.0 &&
                          o.typical_p <= 1.0;
    if (!in_range) throw InvalidRequestError("temperature, top_p, min_p or typical_p is out of range");
}

bool Sampler::changes_logits(size_t size, uint64_t produced) const {
    const SamplingOptions& o = options_;
    return reads_output_ || !o.logit_bias.empty() || o.allowed_token_ids || produced < uint64_t(o.min_tokens) ||
           (o.vocab_size && *o.vocab_size < int64_t(size));
}

void Sampler::change(float* logits, size_t size, uint64_t produced, const std::vector<int64_t>& output) const {
    const SamplingOptions& o = options_;
    if (o.vocab_size)
        std::fill(logits + std::clamp<int64_t>(*o.vocab_size, 0, int64_t(size)), logits + size, kRemoved);
    for (const auto& [token, bias] : o.logit_bias) logits[checked(token, size)] += bias;

    std::vector<int64_t>& history = scratch().history;
    history.clear();
    if (reads_history_) {
        history = prompt_;
        history.insert(history.end(), output.begin(), output.end());
    }
    if (const float penalty = o.repetition_penalty; penalty != 1.0f)
        for_each_token(history, logits, size, [=](float& x, uint32_t) { x = x < 0.0f ? x * penalty : x / penalty; });
    if (o.frequency_penalty != 0.0f || o.presence_penalty != 0.0f)
        for_each_token(output, logits, size, [&](float& x, uint32_t times) {
            x -= o.frequency_penalty * float(times);
            x -= o.presence_penalty;
        });

    const auto remove = [=](int64_t token) { logits[checked(token, size)] = kRemoved; };
    if (const size_t n = size_t(o.no_repeat_ngram_size); n > 0 && history.size() >= n) {
        const int64_t* begun = history.data() + history.size() - (n - 1);
        for (size_t i = 0; i + n <= history.size(); ++i)
            if (std::equal(begun, begun + (n - 1), history.data() + i)) remove(history[i + n - 1]);
    }
    for (const auto& word : o.bad_words)
        if (ends_with(history, word.data(), word.size() - 1)) remove(word.back());
    if (produced < uint64_t(o.min_tokens)) std::for_each(o.stop_ids.begin(), o.stop_ids.end(), remove);
    if (o.allowed_token_ids) {
        std::vector<float> kept;
        for (int64_t token : *o.allowed_token_ids) kept.push_back(logits[checked(token, size)]);
        std::fill(logits, logits + size, kRemoved);
        for (size_t i = 0; i < kept.size(); ++i) logits[(*o.allowed_token_ids)[i]] = kept[i];
    }
}

// The row with its single logits changed, or the raw row where nothing is asked for.
Row Sampler::prepared(const Row& raw, uint64_t produced, const std::vector<int64_t>& output, TokenMask mask) const {
    if (!mask.words && !changes_logits(raw.size(), produced)) return raw;
    Scratch& mine = scratch();
    mine.changed.assign(raw.logits(), raw.logits() + raw.size());
    change(mine.changed.data(), raw.size(), produced, output);
    if (mask.words) remove_masked(mine.changed.data(), raw.size(), mask);
    const Row row(mine.changed.data(), raw.size(), mine.changed_maxima);
    if (row.peak() == kRemoved)
        throw InvalidRequestError("no token is left to choose after " + std::to_string(produced) +
                                  " tokens; loosen allowed_token_ids, bad_words, no_repeat_ngram_size" +
                                  (mask.words ? ", min_tokens or structured_outputs" : " or min_tokens"));
    row.check();
    return row;
}

Choice Sampler::choose(const float* logits, size_t size, uint64_t text, uint64_t produced,
                       const std::vector<int64_t>& output, TokenMask mask) const {
    const Row raw = checked_row(logits, size), row = prepared(raw, produced, output, mask);
    Choice choice;
    if (options_.temperature == 0.0) {
        choice.token = int64_t(row.likeliest());
    } else {
        const Candidates left = candidates(row, options_);
        const uint64_t random = random_bits(options_.seed, text, prompt_.size() + produced);
        choice.token = int64_t(left.token(draw(left.masses, left.count, random)));
    }
    return options_.logprobs ? described(raw, choice.token, size_t(*options_.logprobs)) : choice;
}

void Sampler::masses(const float* logits, size_t size, uint64_t produced, const std::vector<int64_t>& output,
                     int64_t* out, TokenMask mask) const {
    const Row row = prepared(checked_row(logits, size), produced, output, mask);
    std::fill(out, out + size, 0);
    if (options_.temperature == 0.0) {
        out[row.likeliest()] = 1;
        return;
    }
    const Candidates left = candidates(row, options_);
    for (size_t i = 0; i < left.count; ++i) out[left.token(i)] = left.masses[i];
}

Choice token_logprobs(const float* logits, size_t size, int64_t token, size_t count) {
    return described(checked_row(logits, size), token, count);
}

void log_softmax(const float* logits, size_t size, float* out) {
    const LogProbabilities logprobs(checked_row(logits, size));
    for (size_t i = 0; i < size; ++i) out[i] = logprobs.of(logits[i]);
}

uint64_t random_bits(uint64_t seed, uint64_t text, uint64_t position) {
    uint32_t counter[4] = {uint32_t(position), uint32_t(position >> 32), uint32_t(text), uint32_t(text >> 32)};
    uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
    for (int round = 0; round < 10; ++round) {
        const uint64_t first = uint64_t(0xD2511F53) * counter[0], second = uint64_t(0xCD9E8D57) * counter[2];
        const uint32_t mixed[4] = {uint32_t(second >> 32) ^ counter[1] ^ key[0], uint32_t(second),
                                   uint32_t(first >> 32) ^ counter[3] ^ key[1], uint32_t(first)};
        std::memcpy(counter, mixed, sizeof counter);
        key[0] += 0x9E3779B9;
        key[1] += 0xBB67AE85;
    }
    return (uint64_t(counter[1]) << 32 | counter[0]) >> 11;
}

}  // namespace gptwo
