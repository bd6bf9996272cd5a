// The sampler: tokens, masses and log-probabilities of random rows under random options, by several threads too, and
// mistakes. What is compared with its definition in numpy is in tests/unit/test_native_sampler.py; here the bits have to
// be those of other compilers and machines.
#include "check_sampler.hpp"

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <thread>

#include "errors.hpp"
#include "sampler.hpp"
#include "scenarios.hpp"

namespace gptwo {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class Hash {  // FNV-1a over words
  public:
    void add(uint64_t word) { value_ = (value_ ^ word) * 0x100000001b3; }
    void add(float x) {
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        add(uint64_t(bits));
    }
    void add(const Choice& choice) {
        add(uint64_t(choice.token));
        add(choice.logprob.value_or(0.0f));
        for (const TokenLogprob& other : choice.top) add(uint64_t(other.token)), add(other.logprob);
    }
    uint64_t value() const { return value_; }

  private:
    uint64_t value_ = 0xcbf29ce484222325;
};

// Rows with ties, zeros of both signs, and tokens that the model itself rules out.
std::vector<float> random_row(Draw& draw, size_t size) {
    const float half_width = float(1 + draw.below(40));
    const bool coarse = draw.below(3) == 0, gaps = draw.below(3) == 0;
    std::vector<float> row(size);
    for (float& x : row) {
        x = draw.uniform(half_width);
        if (coarse) x = float(int(x));
        if (gaps && draw.below(10) == 0) x = -kInfinity;
    }
    row[size_t(draw.below(int(size)))] = draw.below(2) ? -0.0f : half_width;
    return row;
}

std::vector<int64_t> random_tokens(Draw& draw, size_t size, int most) {
    std::vector<int64_t> tokens(size_t(draw.below(most + 1)));
    const int among = draw.below(2) ? int(size) : std::min(3, int(size));  // a few, so that they come again
    for (int64_t& token : tokens) token = draw.below(among);
    return tokens;
}

SamplingOptions random_options(Draw& draw, size_t size) {
    auto now_and_then = [&] { return draw.below(4) == 0; };
    auto share = [&] { return double(1 + draw.below(1023)) / 1024.0; };
    SamplingOptions o;
    if (now_and_then()) o.vocab_size = 1 + draw.below(int(size));
    if (now_and_then())
        for (int64_t token : random_tokens(draw, size, 4)) o.logit_bias.emplace_back(token, draw.uniform(10.0f));
    if (now_and_then()) o.repetition_penalty = float(1 + draw.below(16)) / 8.0f;
    if (now_and_then()) o.frequency_penalty = draw.uniform(2.0f);
    if (now_and_then()) o.presence_penalty = draw.uniform(2.0f);
    if (now_and_then()) o.no_repeat_ngram_size = 1 + draw.below(3);
    if (now_and_then())
        for (int i = 0; i < 3; ++i) {
            o.bad_words.push_back(random_tokens(draw, size, 2));
            o.bad_words.back().push_back(draw.below(int(size)));
        }
    if (now_and_then()) o.min_tokens = draw.below(10), o.stop_ids = random_tokens(draw, size, 2);
    if (now_and_then()) o.allowed_token_ids = random_tokens(draw, size, 12);
    if (now_and_then()) o.top_k = 1 + draw.below(int(size) + 3);
    if (draw.below(2)) o.temperature = double(draw.below(17)) / 8.0;  // 0 among them
    if (now_and_then()) o.top_p = share();
    if (now_and_then()) o.min_p = share();
    if (now_and_then()) o.typical_p = share();
    if (draw.below(2)) o.logprobs = draw.below(int(std::min(size, size_t(20))) + 1);
    o.seed = draw.bits();
    return o;
}

struct Case {
    Sampler sampler;
    std::vector<float> row;
    std::vector<int64_t> output;
    uint64_t text;
};

Case random_case(Draw& draw, size_t size) {
    std::vector<float> row = random_row(draw, size);
    std::vector<int64_t> output = random_tokens(draw, size, 12), prompt = random_tokens(draw, size, 6);
    SamplingOptions options = random_options(draw, size);
    return {Sampler(std::move(options), std::move(prompt)), std::move(row), std::move(output), draw.bits()};
}

// The hash of what a case gives; whether all tokens have been taken away is a part of it.
uint64_t outcome(const Case& c) {
    Hash hash;
    try {
        const Choice choice = c.sampler.choose(c.row.data(), c.row.size(), c.text, c.output.size(), c.output);
        std::vector<int64_t> masses(c.row.size());
        c.sampler.masses(c.row.data(), c.row.size(), c.output.size(), c.output, masses.data());
        require(choice.token >= 0 && uint64_t(choice.token) < c.row.size(), "a token that is none was chosen");
        require(masses[size_t(choice.token)] > 0, "a token was chosen that cannot be");
        hash.add(choice);
        for (int64_t mass : masses) hash.add(uint64_t(mass));
    } catch (const InvalidRequestError&) {
        hash.add(uint64_t(1));
    }
    hash.add(token_logprobs(c.row.data(), c.row.size(), c.output.empty() ? 0 : c.output[0], 5));
    std::vector<float> logprobs(c.row.size());
    log_softmax(c.row.data(), c.row.size(), logprobs.data());
    for (float x : logprobs) hash.add(x);
    return hash.value();
}

template <typename Error, typename Call>
void refused(const char* what, Call call) {
    bool thrown = false;
    try {
        call();
    } catch (const Error&) {
        thrown = true;
    }
    require(thrown, std::string("not refused by the sampler: ") + what);
}

// Only tokens whose bits are set are chosen, whatever of the last word lies behind the row.
void check_masks(const Case& c) {
    const size_t size = c.row.size();
    const Sampler plain({}, {});
    for (size_t place : {size_t(0), size / 3, size / 2, size - 1}) {
        std::vector<float> row(size, -1.0f);
        row[(place + 1) % size] = 9.0f;
        std::vector<uint32_t> words((size + 31) / 32, 0);
        refused<InvalidRequestError>("a mask of nothing",
                                     [&] { plain.choose(row.data(), size, 0, 0, {}, {words.data(), words.size()}); });
        words[place / 32] = uint32_t(1) << place % 32;
        if (size % 32) words.back() |= ~uint32_t(0) << size % 32;
        const size_t found = size_t(plain.choose(row.data(), size, 0, 0, {}, {words.data(), words.size()}).token);
        require(found == place, "a token was chosen that the mask does not have");
        words.resize(place / 32);
        if (place >= 32) words[0] = 1;
        const TokenMask shorter{words.data(), words.size()};
        if (place >= 32)
            require(plain.choose(row.data(), size, 0, 0, {}, shorter).token == 0, "a token beyond a mask was chosen");
    }
}

void check_mistakes(const Case& c) {
    const size_t size = c.row.size();
    const uint64_t before = outcome(c);
    const Sampler plain({}, {});
    auto choose = [&](const std::vector<float>& row) { plain.choose(row.data(), row.size(), 0, 0, {}); };
    for (size_t place : {size_t(0), size / 2, size - 1}) {
        std::vector<float> bad = c.row;
        bad[place] = std::numeric_limits<float>::quiet_NaN();
        refused<NumericalError>("NaN", [&] { choose(bad); });
        bad[place] = kInfinity;
        refused<NumericalError>("infinity", [&] { choose(bad); });
    }
    refused<NumericalError>("nothing finite", [&] { choose(std::vector<float>(size, -kInfinity)); });
    refused<InvalidRequestError>("an empty row", [&] { choose({}); });
    for (int64_t token : {int64_t(-1), int64_t(size)}) {
        refused<InvalidRequestError>("the log-probability of no token",
                                     [&] { token_logprobs(c.row.data(), size, token, 0); });
        SamplingOptions bias, penalty, allowed, ban;
        bias.logit_bias = {{token, 1.0f}};
        penalty.frequency_penalty = 1.0f;
        allowed.allowed_token_ids = {0, token};
        ban.bad_words = {{token}};
        for (const SamplingOptions& options : {bias, penalty, allowed, ban})
            refused<InvalidRequestError>("a token out of range", [&] {
                Sampler(options, {}).choose(c.row.data(), size, 0, 2, {0, token});
            });
    }
    refused<InvalidRequestError>("an empty bad word", [] {
        SamplingOptions o;
        o.bad_words = {{}};
        Sampler(o, {});
    });
    refused<InvalidRequestError>("a temperature that is no number", [] {
        SamplingOptions o;
        o.temperature = std::nan("");
        Sampler(o, {});
    });
    require(outcome(c) == before, "a refused call of the sampler has changed what follows");
}

}  // namespace

void check_sampler() {
    for (size_t size : {1, 5, 64, 1030, 50257}) {
        Draw draw(size);
        std::vector<Case> cases;
        for (int i = 0; i < (size > 10000 ? 40 : 200); ++i) cases.push_back(random_case(draw, size));
        std::vector<uint64_t> expected;
        Hash hash;
        for (const Case& c : cases) hash.add(expected.emplace_back(outcome(c)));
        check_mistakes(cases.front());
        check_masks(cases.front());
        std::atomic<int> wrong{0};
        std::vector<std::thread> callers;
        for (int i = 0; i < 3; ++i)
            callers.emplace_back([&, i] {
                // From both ends, so that a thread's memory has been that of larger and smaller cases before.
                for (size_t k = size_t(i); k < cases.size(); k += 2) {
                    const size_t at = i == 1 ? cases.size() - 1 - k : k;
                    try {
                        if (outcome(cases[at]) != expected[at]) wrong.fetch_add(1);
                    } catch (const std::exception&) {
                        wrong.fetch_add(1);
                    }
                }
            });
        for (std::thread& caller : callers) caller.join();
        require(wrong.load() == 0, "threads that sample at once disturb one another");
        std::printf("sampler %zu %016llx\n", size, static_cast<unsigned long long>(hash.value()));
        std::fflush(stdout);
    }
}

}  // namespace gptwo
