// The sampler as Python sees it. A row is sampled without the interpreter's lock.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <new>
#include <optional>

#include "bindings_sampler.hpp"
#include "sampler.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace gptwo;

namespace {

using LogitsRow = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OutputRow = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using MassesRow = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using MaskWords = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

TokenMask mask_of(const std::optional<MaskWords>& words) {
    return words ? TokenMask{words->data(), words->shape(0)} : TokenMask{};
}

std::vector<int64_t> tokens_of(const Sampler& sampler, const nb::sequence& output) {
    return sampler.reads_output() ? nb::cast<std::vector<int64_t>>(output) : std::vector<int64_t>();
}

// (token, its log-probability or None, [(token, log-probability), ...])
nb::tuple as_tuple(const Choice& choice) {
    nb::list top;
    for (const TokenLogprob& other : choice.top) top.append(nb::make_tuple(other.token, other.logprob));
    return nb::make_tuple(choice.token, choice.logprob, top);
}

}  // namespace

void bind_sampler(nb::module_& m) {
    nb::class_<Sampler>(m, "Sampler")
        .def(
            "__init__",
            [](Sampler* self, std::vector<int64_t> prompt, uint64_t seed, std::optional<int64_t> vocab_size,
               std::vector<std::pair<int64_t, float>> logit_bias, float repetition_penalty, float frequency_penalty,
               float presence_penalty, int64_t no_repeat_ngram_size, std::vector<std::vector<int64_t>> bad_words,
               int64_t min_tokens, std::vector<int64_t> stop_ids, std::optional<std::vector<int64_t>> allowed_token_ids,
               double temperature, int64_t top_k, double top_p, double min_p, double typical_p,
               std::optional<int64_t> logprobs) {
                SamplingOptions o;
                o.vocab_size = vocab_size;
                o.logit_bias = std::move(logit_bias);
                o.repetition_penalty = repetition_penalty;
                o.frequency_penalty = frequency_penalty;
                o.presence_penalty = presence_penalty;
                o.no_repeat_ngram_size = no_repeat_ngram_size;
                o.bad_words = std::move(bad_words);
                o.min_tokens = min_tokens;
                o.stop_ids = std::move(stop_ids);
                o.allowed_token_ids = std::move(allowed_token_ids);
                o.top_k = top_k;
                o.temperature = temperature;
                o.top_p = top_p;
                o.min_p = min_p;
                o.typical_p = typical_p;
                o.seed = seed;
                o.logprobs = logprobs;
                new (self) Sampler(std::move(o), std::move(prompt));
            },
            nb::kw_only(), "prompt"_a, "seed"_a, "vocab_size"_a.none(), "logit_bias"_a, "repetition_penalty"_a,
            "frequency_penalty"_a, "presence_penalty"_a, "no_repeat_ngram_size"_a, "bad_words"_a, "min_tokens"_a,
            "stop_ids"_a, "allowed_token_ids"_a.none(), "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "typical_p"_a,
            "logprobs"_a.none())
        .def(
            "choose",
            [](const Sampler& self, LogitsRow logits, uint64_t text, nb::sequence output,
               std::optional<MaskWords> mask) {
                const size_t produced = nb::len(output);
                const std::vector<int64_t> tokens = tokens_of(self, output);
                Choice choice;
                {
                    nb::gil_scoped_release released;
                    choice = self.choose(logits.data(), logits.shape(0), text, produced, tokens, mask_of(mask));
                }
                return as_tuple(choice);
            },
            "logits"_a.noconvert(), "text"_a, "output"_a, "mask"_a.noconvert().none() = nb::none())
        .def(
            "masses",
            [](const Sampler& self, LogitsRow logits, nb::sequence output, MassesRow out,
               std::optional<MaskWords> mask) {
                if (out.shape(0) != logits.shape(0)) throw nb::value_error("out must be as long as logits");
                const size_t produced = nb::len(output);
                const std::vector<int64_t> tokens = tokens_of(self, output);
                nb::gil_scoped_release released;
                self.masses(logits.data(), logits.shape(0), produced, tokens, out.data(), mask_of(mask));
            },
            "logits"_a.noconvert(), "output"_a, "out"_a.noconvert(), "mask"_a.noconvert().none() = nb::none());

    m.def(
        "token_logprobs",
        [](LogitsRow logits, int64_t token, size_t count) {
            Choice choice;
            {
                nb::gil_scoped_release released;
                choice = token_logprobs(logits.data(), logits.shape(0), token, count);
            }
            return as_tuple(choice);
        },
        "logits"_a.noconvert(), "token"_a, "count"_a);

    m.def(
        "log_softmax",
        [](LogitsRow logits, OutputRow out) {
            if (out.shape(0) != logits.shape(0)) throw nb::value_error("out must be as long as logits");
            nb::gil_scoped_release released;
            log_softmax(logits.data(), logits.shape(0), out.data());
        },
        "logits"_a.noconvert(), "out"_a.noconvert());

    m.def("random_bits", &random_bits, "seed"_a, "text"_a, "position"_a);
}
