#include "scenarios.hpp"

#include <algorithm>
#include <cstring>

#include "errors.hpp"

namespace gptwo {

bool same_bits(const Logits& a, const Logits& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

uint64_t hash_of(const Logits& logits) {
    uint64_t hash = 0xcbf29ce484222325;
    for (float logit : logits) {
        uint32_t bits;
        std::memcpy(&bits, &logit, 4);
        hash = (hash ^ bits) * 0x100000001b3;
    }
    return hash;
}

namespace {

struct Part {  // of a batch: tokens of one sequence
    int64_t sequence;
    const int64_t* tokens;
    size_t count;
};

// One call of forward; `out[i]` takes the logits of part i, row after row.
void feed(Model& model, const std::vector<Part>& parts, const std::vector<Logits*>& out) {
    std::vector<int64_t> tokens, sequences, positions, rows;
    for (const Part& part : parts) {
        const int64_t start = model.length(part.sequence);
        for (size_t i = 0; i < part.count; ++i) {
            rows.push_back(int64_t(tokens.size()));
            tokens.push_back(part.tokens[i]);
            sequences.push_back(part.sequence);
            positions.push_back(start + int64_t(i));
        }
    }
    const size_t v = size_t(model.config().vocab_size);
    Logits logits(rows.size() * v);
    model.forward(tokens.data(), sequences.data(), positions.data(), int64_t(tokens.size()), rows.data(),
                  int64_t(rows.size()), logits.data());
    auto from = logits.begin();
    for (size_t i = 0; i < parts.size(); ++i) {
        auto to = from + ptrdiff_t(parts[i].count * v);
        out[i]->insert(out[i]->end(), from, to);
        from = to;
    }
}

Part part_of(int64_t sequence, const Text& text, size_t first, size_t count) {
    return {sequence, text.data() + first, count};
}

class Sequences {  // closes what was opened, and sees to it that nothing is left
  public:
    explicit Sequences(Model& model) : model_(model) {}
    ~Sequences() {
        for (int64_t sequence : held_) model_.close(sequence);
    }
    int64_t open() { return held_.emplace_back(model_.open()); }
    int64_t fork(int64_t sequence) { return held_.emplace_back(model_.fork(sequence)); }

  private:
    Model& model_;
    std::vector<int64_t> held_;
};

Logits joined(const std::vector<Logits>& parts) {
    Logits all;
    for (const Logits& part : parts) all.insert(all.end(), part.begin(), part.end());
    return all;
}

}  // namespace

Logits alone(Model& model, const std::vector<Text>& texts) {
    Logits all;
    for (const Text& text : texts) {
        Sequences sequences(model);
        feed(model, {part_of(sequences.open(), text, 0, text.size())}, {&all});
    }
    return all;
}

Logits in_one_batch(Model& model, const std::vector<Text>& texts) {
    Sequences sequences(model);
    std::vector<Part> parts;
    std::vector<Logits> got(texts.size());
    std::vector<Logits*> out;
    for (size_t i = 0; i < texts.size(); ++i) {
        parts.push_back(part_of(sequences.open(), texts[i], 0, texts[i].size()));
        out.push_back(&got[i]);
    }
    feed(model, parts, out);
    return joined(got);
}

Logits in_random_chunks(Model& model, const std::vector<Text>& texts, uint64_t seed) {
    Draw draw(seed);
    Sequences sequences(model);
    std::vector<int64_t> ids;
    for (size_t i = 0; i < texts.size(); ++i) ids.push_back(sequences.open());
    std::vector<Logits> got(texts.size());
    for (bool left = true; left;) {
        std::vector<Part> parts;
        std::vector<Logits*> out;
        left = false;
        for (size_t i = 0; i < texts.size(); ++i) {
            const size_t done = size_t(model.length(ids[i])), rest = texts[i].size() - done;
            const size_t most = draw.below(3) ? 9 : texts[i].size();  // short chunks mostly, a long one now and then
            const size_t count = std::min(rest, size_t(draw.below(int(most) + 1)));
            if (rest > 0) left = true;
            if (count == 0) continue;
            parts.push_back(part_of(ids[i], texts[i], done, count));
            out.push_back(&got[i]);
        }
        feed(model, parts, out);
    }
    return joined(got);
}

Logits token_by_token(Model& model, const std::vector<Text>& texts) {
    std::vector<Logits> got(texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
        Sequences sequences(model);
        const int64_t sequence = sequences.open();
        for (size_t k = 0; k < texts[i].size(); ++k) feed(model, {part_of(sequence, texts[i], k, 1)}, {&got[i]});
    }
    return joined(got);
}

Logits from_forks(Model& model, const std::vector<Text>& texts, uint64_t seed) {
    Draw draw(seed);
    Sequences sequences(model);
    std::vector<Logits> got(texts.size());
    std::vector<Part> parts;
    std::vector<Logits*> out;
    for (size_t i = 0; i < texts.size(); ++i) {
        // The trunk is longer than what the fork keeps; both go on in the same call.
        const Text& text = texts[i];
        const size_t kept = size_t(draw.below(int(text.size()))), fed = kept + size_t(draw.below(int(text.size() - kept)));
        const int64_t trunk = sequences.open();
        Logits first;
        feed(model, {part_of(trunk, text, 0, fed)}, {&first});
        const int64_t branch = sequences.fork(trunk);
        model.truncate(branch, int64_t(kept));
        got[i].assign(first.begin(), first.begin() + ptrdiff_t(kept * size_t(model.config().vocab_size)));
        parts.push_back(part_of(branch, text, kept, text.size() - kept));
        out.push_back(&got[i]);
        static const Text other{1, 2, 3};
        if (fed + other.size() <= size_t(model.config().n_positions)) {
            static thread_local Logits dropped;
            dropped.clear();
            parts.push_back(part_of(trunk, other, 0, other.size()));
            out.push_back(&dropped);
        }
    }
    feed(model, parts, out);
    return joined(got);
}

Logits after_truncation(Model& model, const std::vector<Text>& texts) {
    Logits all;
    for (const Text& text : texts) {
        Sequences sequences(model);
        const int64_t sequence = sequences.open();
        const size_t half = text.size() / 2;
        Logits dropped;
        feed(model, {part_of(sequence, text, 0, half)}, {&all});
        Text other(text.rbegin(), text.rbegin() + ptrdiff_t(text.size() - half));
        feed(model, {part_of(sequence, other, 0, other.size())}, {&dropped});
        model.truncate(sequence, int64_t(half));
        feed(model, {part_of(sequence, text, half, text.size() - half)}, {&all});
    }
    return all;
}

void some_rows(Model& model, const std::vector<Text>& texts, const Logits& expected) {
    const size_t v = size_t(model.config().vocab_size);
    size_t row = 0;
    for (const Text& text : texts) {
        Sequences sequences(model);
        std::vector<int64_t> positions, rows, owner(text.size(), sequences.open());
        for (size_t i = 0; i < text.size(); ++i) positions.push_back(int64_t(i));
        for (size_t i = text.size() % 3; i < text.size(); i += 3) rows.push_back(int64_t(i));
        Logits got(rows.size() * v);
        model.forward(text.data(), owner.data(), positions.data(), int64_t(text.size()), rows.data(), int64_t(rows.size()),
                      got.data());
        for (size_t i = 0; i < rows.size(); ++i)
            require(std::memcmp(got.data() + i * v, expected.data() + (row + size_t(rows[i])) * v, v * sizeof(float)) == 0,
                    "a row's logits depend on which other rows are asked for");
        row += text.size();
    }
}

void mistakes(Model& model, const std::vector<Text>& texts, const Logits& expected) {
    Sequences sequences(model);
    const int64_t sequence = sequences.open();
    const Text& text = texts[0];
    Logits logits(4 * size_t(model.config().vocab_size));
    auto refused = [&](const char* what, Text tokens, Text owner, Text positions, Text rows) {
        try {
            model.forward(tokens.data(), owner.data(), positions.data(), int64_t(tokens.size()), rows.data(),
                          int64_t(rows.size()), logits.data());
        } catch (const DecoderError&) {
            return;
        }
        throw Failure(std::string("not refused: ") + what);
    };
    const int64_t s = sequence, v = model.config().vocab_size, n = model.config().n_positions;
    refused("a token beyond the vocabulary", {v}, {s}, {0}, {0});
    refused("a negative token", {-1}, {s}, {0}, {0});
    refused("a position that leaves a gap", {1}, {s}, {1}, {0});
    refused("a row beyond the batch", {1}, {s}, {0}, {1});
    refused("rows that descend", {1, 1}, {s, s}, {0, 1}, {1, 0});
    refused("a sequence that is not open", {1}, {s + 1000}, {0}, {0});
    refused("a sequence in two places", {1, 1, 1}, {s, s + 1000, s}, {0, 0, 1}, {});
    Text many(size_t(n) + 1, 1), owner(size_t(n) + 1, s), positions;
    for (int64_t i = 0; i <= n; ++i) positions.push_back(i);
    refused("more positions than there are", many, owner, positions, {});
    for (int64_t length : {int64_t(-1), int64_t(1)}) {
        bool thrown = false;
        try {
            model.truncate(sequence, length);
        } catch (const DecoderError&) {
            thrown = true;
        }
        require(thrown, "not refused: a truncation to more than there is, or to less than nothing");
    }
    require(model.length(sequence) == 0, "a refused call has changed a sequence");
    Logits got;
    feed(model, {part_of(sequence, text, 0, text.size())}, {&got});
    require(same_bits(got, Logits(expected.begin(), expected.begin() + ptrdiff_t(got.size()))),
            "a refused call has changed what follows");
}

}  // namespace gptwo
