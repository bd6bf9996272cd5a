// GPT-2's forward pass in libtorch, from the parameters that `gptwo export --to torch` wrote.
//
// B batch, T new positions, S cached + new positions, C width, H heads, D = C / H, V vocabulary, L layers.
#pragma once

#include <torch/types.h>

#include <map>
#include <string>
#include <vector>

#include "config.hpp"

// What one layer remembers of the positions it has seen: (B, H, S, D) each.
struct KeysValues {
  torch::Tensor keys, values;
};

struct Output {
  torch::Tensor logits;                      // (B, T, V), float32
  std::vector<torch::Tensor> hidden_states;  // L + 1 of (B, T, C): embeddings, each block, the last after ln_f
  std::vector<KeysValues> past;              // L
};

class Gpt2 {
 public:
  // parameters: by the checkpoint's names; linear weights lie as (in, out). Throws std::runtime_error if one
  // is missing, or does not have the shape that the configuration asks for.
  Gpt2(Config config, std::map<std::string, torch::Tensor> parameters);

  // ids int64 (B, T), which follow the positions in `past`; an empty `past` is the beginning of a text.
  Output forward(const torch::Tensor& ids, const std::vector<KeysValues>& past) const;

  const Config& config() const { return config_; }
  const std::map<std::string, torch::Tensor>& parameters() const { return parameters_; }

 private:
  void check(const std::string& name, at::IntArrayRef shape) const;
  void check_affine(const std::string& name, at::IntArrayRef shape) const;  // of a weight, and its bias
  const torch::Tensor& parameter(const std::string& name) const;
  torch::Tensor linear(const torch::Tensor& x, const std::string& name) const;
  torch::Tensor norm(const torch::Tensor& x, const std::string& name) const;
  torch::Tensor attention(const torch::Tensor& x, int64_t layer, const KeysValues* past, KeysValues& kept) const;
  torch::Tensor mlp(const torch::Tensor& x, const std::string& name) const;

  Config config_;
  std::map<std::string, torch::Tensor> parameters_;
};
