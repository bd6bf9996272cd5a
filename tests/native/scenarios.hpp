// Ways in which the same texts can be run. Each gives the logits of every token of every text, one text after another,
// and all must give the same bits.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "random_model.hpp"

namespace gptwo {

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};
inline void require(bool condition, const std::string& what) {
    if (!condition) throw Failure(what);
}

using Logits = std::vector<float>;
bool same_bits(const Logits& a, const Logits& b);
uint64_t hash_of(const Logits& logits);  // FNV-1a over the bits

Logits alone(Model& model, const std::vector<Text>& texts);
Logits in_one_batch(Model& model, const std::vector<Text>& texts);
Logits in_random_chunks(Model& model, const std::vector<Text>& texts, uint64_t seed);
Logits token_by_token(Model& model, const std::vector<Text>& texts);
// Each text goes on from a fork of the text before it, cut back to what they share, all in one batch.
Logits from_forks(Model& model, const std::vector<Text>& texts, uint64_t seed);
// Half of a text is fed twice: the first time something else follows it, and is cut off again.
Logits after_truncation(Model& model, const std::vector<Text>& texts);
// Only every third token's logits are asked for; the result is compared here, since it is shorter.
void some_rows(Model& model, const std::vector<Text>& texts, const Logits& expected);
// What breaks the protocol throws and changes nothing.
void mistakes(Model& model, const std::vector<Text>& texts, const Logits& expected);

}  // namespace gptwo
