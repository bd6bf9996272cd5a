// gpt2 DIRECTORY [--script] TOKENS ID...
//
// Loads what `gptwo export MODEL DIRECTORY --to torch` wrote, prints every parameter and the shapes that a forward pass
// goes through, and continues the token ids greedily by TOKENS more. With --script the text is made by the two entry
// points of the TorchScript program in the file, without model.cpp.

#include <torch/script.h>

#include <cstdint>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "config.hpp"
#include "model.hpp"

namespace {

std::map<std::string, torch::Tensor> parameters_of(const torch::jit::Module& script) {
  std::map<std::string, torch::Tensor> found;
  for (const auto& parameter : script.named_parameters()) found[parameter.name] = parameter.value;
  return found;
}

int64_t likeliest(const torch::Tensor& logits) {  // (1, T, V): the token after the last position
  return logits.index({0, -1}).argmax().item<int64_t>();
}

std::vector<int64_t> continue_with_model(const Gpt2& model, const torch::Tensor& prompt, int64_t tokens) {
  std::vector<int64_t> made;
  Output out = model.forward(prompt, {});
  while (static_cast<int64_t>(made.size()) < tokens) {
    if (!made.empty()) out = model.forward(torch::full({1, 1}, made.back(), torch::kLong), out.past);
    made.push_back(likeliest(out.logits));
  }
  return made;
}

std::vector<int64_t> continue_with_script(torch::jit::Module& script, const torch::Tensor& prompt, int64_t tokens) {
  std::vector<int64_t> made;
  auto out = script.get_method("prefill")({prompt, torch::ones_like(prompt)}).toTuple();
  while (static_cast<int64_t>(made.size()) < tokens) {
    if (!made.empty()) {
      const auto next = torch::full({1, 1}, made.back(), torch::kLong);
      const auto mask = torch::ones({1, prompt.size(1) + static_cast<int64_t>(made.size())}, torch::kLong);
      out = script.get_method("decode")({next, mask, out->elements()[1]}).toTuple();
    }
    made.push_back(likeliest(out->elements()[0].toTensor()));
  }
  return made;
}

void print_shapes(const Gpt2& model, const torch::Tensor& prompt) {
  for (const auto& [name, tensor] : model.parameters()) std::cout << name << " " << tensor.sizes() << "\n";
  const Output out = model.forward(prompt, {});
  std::cout << "logits " << out.logits.sizes() << "\n";
  for (std::size_t layer = 0; layer < out.past.size(); ++layer) {
    std::cout << "keys " << layer << " " << out.past[layer].keys.sizes() << "\n";
    std::cout << "values " << layer << " " << out.past[layer].values.sizes() << "\n";
  }
  for (std::size_t i = 0; i < out.hidden_states.size(); ++i) {
    std::cout << "hidden state " << i << " " << out.hidden_states[i].sizes() << "\n";
  }
}

int run(std::vector<std::string> arguments) {
  bool scripted = false;
  if (arguments.size() > 1 && arguments[1] == "--script") {
    scripted = true;
    arguments.erase(arguments.begin() + 1);
  }
  if (arguments.size() < 3) {
    std::cerr << "usage: gpt2 DIRECTORY [--script] TOKENS ID...\n";
    return 2;
  }
  const at::NoGradGuard no_gradients;
  const Config config = read_config(arguments[0] + "/config.json");
  torch::jit::Module script = torch::jit::load(arguments[0] + "/model.ts");
  const Gpt2 model(config, parameters_of(script));

  const int64_t tokens = std::stoll(arguments[1]);
  std::vector<int64_t> ids;
  for (std::size_t i = 2; i < arguments.size(); ++i) {
    ids.push_back(std::stoll(arguments[i]));
    if (ids.back() < 0 || ids.back() >= config.vocab_size) throw std::runtime_error(arguments[i] + " is no token");
  }
  const auto prompt = torch::tensor(ids, torch::kLong).unsqueeze(0);  // (1, T)
  if (prompt.size(1) + tokens > config.n_positions + 1) throw std::runtime_error("the model has no more positions");

  print_shapes(model, prompt);
  const auto made =
      scripted ? continue_with_script(script, prompt, tokens) : continue_with_model(model, prompt, tokens);
  std::cout << "generated";
  for (const int64_t id : made) std::cout << " " << id;
  std::cout << "\n";
  return 0;
}

}  // namespace

int main(int count, char** words) {
  try {
    return run({words + 1, words + count});
  } catch (const std::exception& error) {
    // Errors of libtorch go on with a trace of calls; the first line says what is wrong.
    const std::string message = error.what();
    std::cerr << "gpt2: " << message.substr(0, message.find('\n')) << "\n";
    return 1;
  }
}
