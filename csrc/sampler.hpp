// From a row of logits to a token: biases, penalties, masks, temperature, truncation, and one draw.
//
// src/gptwo/sampling/sampler.py defines all of it in numpy, one small function for each option, in the same arithmetic:
// the two choose the same tokens, bit by bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "row.hpp"

namespace gptwo {

struct SamplingOptions {
    // What changes single logits, in this order; src/gptwo/sampling/params.py says what each means.
    std::optional<int64_t> vocab_size;  // ids from there on are padding
    std::vector<std::pair<int64_t, float>> logit_bias;
    float repetition_penalty = 1.0f, frequency_penalty = 0.0f, presence_penalty = 0.0f;
    int64_t no_repeat_ngram_size = 0;
    std::vector<std::vector<int64_t>> bad_words;  // none empty
    int64_t min_tokens = 0;
    std::vector<int64_t> stop_ids;
    std::optional<std::vector<int64_t>> allowed_token_ids;
    // What tokens are drawn from.
    int64_t top_k = 0;
    double temperature = 1.0, top_p = 1.0, min_p = 0.0, typical_p = 1.0;
    uint64_t seed = 0;
    std::optional<int64_t> logprobs;  // how many of the likeliest to tell of, beside the one chosen
};

struct TokenLogprob {
    int64_t token;
    float logprob;
};

struct Choice {
    int64_t token = 0;
    std::optional<float> logprob;    // what the model thought of it, before all options
    std::vector<TokenLogprob> top;  // likeliest first
};

// Which tokens may be chosen: a bit for each, the lowest of a word first, and none beyond the last word. Without words all
// may.
struct TokenMask {
    const uint32_t* words = nullptr;
    size_t count = 0;
};

// Chooses the tokens of one request's texts. Several threads may use it at once.
class Sampler {
public:
    Sampler(SamplingOptions options, std::vector<int64_t> prompt);

    // Whether an option asks which tokens the text holds, not only how many.
    bool reads_output() const { return reads_output_; }

    // The token that follows `produced` tokens, which are `output` where that is read. `text`: which of the texts that
    // share the seed. Throws NumericalError for logits that are no numbers, InvalidRequestError if no token is left or
    // a token id is not in the vocabulary, which the row's size is.
    Choice choose(const float* logits, size_t size, uint64_t text, uint64_t produced,
                  const std::vector<int64_t>& output, TokenMask mask = {}) const;

    // What the token would be drawn in proportion to, into out[size]. Throws as `choose` does.
    void masses(const float* logits, size_t size, uint64_t produced, const std::vector<int64_t>& output,
                int64_t* out, TokenMask mask = {}) const;

private:
    Row prepared(const Row& raw, uint64_t produced, const std::vector<int64_t>& output, TokenMask mask) const;
    bool changes_logits(size_t size, uint64_t produced) const;
    void change(float* logits, size_t size, uint64_t produced, const std::vector<int64_t>& output) const;

    SamplingOptions options_;
    std::vector<int64_t> prompt_;
    bool reads_history_, reads_output_;
};

// The log-probability of a token and of the `count` likeliest, likeliest first. Throws as Sampler::choose does.
Choice token_logprobs(const float* logits, size_t size, int64_t token, size_t count);

// out[i] = log-probability of token i. Throws as Sampler::choose does.
void log_softmax(const float* logits, size_t size, float* out);

// 53 random bits for a place: Philox4x32-10, as src/gptwo/sampling/counter_random.py has it.
uint64_t random_bits(uint64_t seed, uint64_t text, uint64_t position);

}  // namespace gptwo
