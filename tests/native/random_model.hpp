// Small random models for the checks. The same on every machine: integers from a generator written out here, and floats
// made of them by single exact or correctly rounded operations.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model.hpp"

namespace gptwo {

class Draw {  // splitmix64
  public:
    explicit Draw(uint64_t seed) : state_(seed) {}
    uint64_t bits();
    int below(int limit) { return int(bits() % uint64_t(limit)); }  // [0, limit)
    float uniform(float half_width);                                // [-half_width, half_width)

  private:
    uint64_t state_;
};

struct Shape {
    const char* name;
    int vocab_size, n_positions, width, inner, layers, heads;
    bool tied;
    Activation activation;
    std::vector<int> lengths;  // of the texts that are run
};

// Widths below a lane, odd ones, head sizes that are no multiple of 16, several blocks and panels, every activation.
const std::vector<Shape>& shapes();

using Text = std::vector<int64_t>;
std::vector<Text> random_texts(const Shape& shape);

// With folded inputs and a few outliers, so that both ways of meeting them occur.
std::unique_ptr<Model> random_model(const Shape& shape, Format format, bool bf16_cache, const Kernels& tier, int threads);

}  // namespace gptwo
