#include "model.hpp"

#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace {

torch::Tensor activation(const std::string& name, const torch::Tensor& x) {
  if (name == "gelu") return torch::gelu(x);
  if (name == "gelu_new" || name == "gelu_fast" || name == "gelu_pytorch_tanh") return torch::gelu(x, "tanh");
  if (name == "quick_gelu") return x * torch::sigmoid(1.702 * x);
  if (name == "relu") return torch::relu(x);
  if (name == "silu" || name == "swish") return torch::silu(x);
  if (name == "tanh") return torch::tanh(x);
  throw std::runtime_error("activation_function " + name + " is not known");
}

}  // namespace

Gpt2::Gpt2(Config config, std::map<std::string, torch::Tensor> parameters)
    : config_(std::move(config)), parameters_(std::move(parameters)) {
  const int64_t width = config_.n_embd;
  check("wte.weight", {config_.vocab_size, width});
  check("wpe.weight", {config_.n_positions, width});
  for (int64_t layer = 0; layer < config_.n_layer; ++layer) {
    const std::string h = "h." + std::to_string(layer);
    const auto& inner = parameter(h + ".mlp.c_fc.bias");
    check_affine(h + ".ln_1", {width});
    check_affine(h + ".attn.c_attn", {width, 3 * width});
    check_affine(h + ".attn.c_proj", {width, width});
    check_affine(h + ".ln_2", {width});
    check_affine(h + ".mlp.c_fc", {width, inner.numel()});
    check_affine(h + ".mlp.c_proj", {inner.numel(), width});
  }
  check_affine("ln_f", {width});
  if (!config_.tie_word_embeddings) check("lm_head.weight", {config_.vocab_size, width});
}

void Gpt2::check(const std::string& name, at::IntArrayRef shape) const {
  const auto found = parameter(name).sizes();
  if (found == shape) return;
  std::ostringstream message;
  message << "parameter " << name << " has shape " << found << ", expected " << shape;
  throw std::runtime_error(message.str());
}

void Gpt2::check_affine(const std::string& name, at::IntArrayRef shape) const {
  check(name + ".weight", shape);
  check(name + ".bias", shape.slice(shape.size() - 1));
}

const torch::Tensor& Gpt2::parameter(const std::string& name) const {
  const auto found = parameters_.find(name);
  if (found == parameters_.end()) throw std::runtime_error("parameter " + name + " is missing");
  return found->second;
}

torch::Tensor Gpt2::linear(const torch::Tensor& x, const std::string& name) const {
  return torch::matmul(x, parameter(name + ".weight")) + parameter(name + ".bias");
}

torch::Tensor Gpt2::norm(const torch::Tensor& x, const std::string& name) const {
  return torch::layer_norm(x, {config_.n_embd}, parameter(name + ".weight"), parameter(name + ".bias"),
                           config_.layer_norm_epsilon);
}

torch::Tensor Gpt2::attention(const torch::Tensor& x, int64_t layer, const KeysValues* past, KeysValues& kept) const {
  const std::string name = "h." + std::to_string(layer) + ".attn";
  const int64_t batch = x.size(0), fresh = x.size(1), size = config_.n_embd / config_.n_head;
  const auto heads = [&](const torch::Tensor& t) {
    return t.view({batch, fresh, config_.n_head, size}).transpose(1, 2);  // (B, H, T, D)
  };
  const auto qkv = linear(x, name + ".c_attn").split(config_.n_embd, 2);  // 3 x (B, T, C)
  torch::Tensor q = heads(qkv[0]), k = heads(qkv[1]), v = heads(qkv[2]);
  if (past != nullptr) {
    k = torch::cat({past->keys, k}, 2);
    v = torch::cat({past->values, v}, 2);
  }
  kept = {k, v};  // (B, H, S, D)
  if (config_.reorder_and_upcast_attn) {
    q = q.to(torch::kFloat);
    k = k.to(torch::kFloat);
    v = v.to(torch::kFloat);
  }
  double scale = config_.scale_attn_weights ? 1.0 / std::sqrt(static_cast<double>(size)) : 1.0;
  if (config_.scale_attn_by_inverse_layer_idx) scale /= static_cast<double>(layer + 1);
  torch::Tensor scores = torch::matmul(q * scale, k.transpose(2, 3));  // (B, H, T, S)
  const int64_t every = k.size(2);
  const auto unseen = torch::ones({fresh, every}, torch::kBool).triu(every - fresh + 1);  // (T, S)
  scores = scores.masked_fill(unseen, -std::numeric_limits<float>::infinity());
  const auto mixed = torch::matmul(torch::softmax(scores, -1), v).to(x.dtype());  // (B, H, T, D)
  return linear(mixed.transpose(1, 2).reshape({batch, fresh, config_.n_embd}), name + ".c_proj");
}

torch::Tensor Gpt2::mlp(const torch::Tensor& x, const std::string& name) const {
  return linear(activation(config_.activation_function, linear(x, name + ".c_fc")), name + ".c_proj");
}

Output Gpt2::forward(const torch::Tensor& ids, const std::vector<KeysValues>& past) const {
  const int64_t held = past.empty() ? 0 : past[0].keys.size(2);
  if (held + ids.size(1) > config_.n_positions) throw std::runtime_error("the model has no more positions");
  const auto places = torch::arange(held, held + ids.size(1));
  torch::Tensor x = torch::embedding(parameter("wte.weight"), ids) + torch::embedding(parameter("wpe.weight"), places);
  Output out;
  out.past.resize(config_.n_layer);
  for (int64_t layer = 0; layer < config_.n_layer; ++layer) {
    const std::string h = "h." + std::to_string(layer);
    out.hidden_states.push_back(x);  // (B, T, C)
    x = x + attention(norm(x, h + ".ln_1"), layer, past.empty() ? nullptr : &past[layer], out.past[layer]);
    x = x + mlp(norm(x, h + ".ln_2"), h + ".mlp");
  }
  x = norm(x, "ln_f");
  out.hidden_states.push_back(x);
  const auto& head = parameter(config_.tie_word_embeddings ? "wte.weight" : "lm_head.weight");
  out.logits = torch::matmul(x, head.t()).to(torch::kFloat);  // (B, T, V)
  return out;
}
