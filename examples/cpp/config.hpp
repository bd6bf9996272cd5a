// What config.json says about a GPT-2.
#pragma once

#include <cstdint>
#include <string>

struct Config {
  int64_t vocab_size = 50257, n_positions = 1024, n_embd = 768, n_layer = 12, n_head = 12;
  double layer_norm_epsilon = 1e-5;
  std::string activation_function = "gelu_new";
  bool scale_attn_weights = true;                // divide scores by sqrt(head size)
  bool scale_attn_by_inverse_layer_idx = false;  // and those of layer i, from 0, by i + 1
  bool reorder_and_upcast_attn = false;          // attention in float32 whatever the weights' type
  bool tie_word_embeddings = true;               // the head is the token embedding
};

// Reads the file; throws std::runtime_error for one that cannot be read or is no JSON object of that kind.
Config read_config(const std::string& path);
