// gpt2 DIRECTORY [--script] TOKENS ID...
//
// Loads what `gptwo export MODEL DIRECTORY --to torch` wrote, prints every parameter and the shapes that a forward pass
// goes through, and continues the token ids greedily by TOKENS more. With --script the text is made by the two entry
// points of the TorchScript program in the file, without model.cpp.

#include <torch/script.h>

#include <charconv>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "config.hpp"
#include "model.hpp"

namespace {

std::map<std::string, torch::Tensor> parameters_of(const torch::jit::Module& script) {
  std::map<std::string, torch::Tensor> found;
  for (const auto& parameter : script.named_parameters()) found[parameter.name] = parameter.value;
  return found;
}

// libtorch's errors go on with a trace of calls; their first line says what is wrong.
std::string first_line(const std::exception& error) {
  const std::string message = error.what();
  return message.substr(0, message.find('\n'));
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

torch::jit::Module load_script(const std::string& path) {
  if (!std::ifstream(path)) throw std::runtime_error(path + ": cannot be read");
  try {
    return torch::jit::load(path);
  } catch (const std::exception& error) {
    throw std::runtime_error(path + ": libtorch cannot load it (" + first_line(error) + ")");
  }
}

int64_t number(const std::string& word) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size()) {
    throw std::runtime_error("'" + word + "' is no number, or too large a one");
  }
  return value;
}

int64_t token_id(const std::string& word, const Config& config) {
  const int64_t id = number(word);
  if (id < 0 || id >= config.vocab_size) {
    throw std::runtime_error("token id " + word + " is not one of the model's, which are 0 to " +
                             std::to_string(config.vocab_size - 1));
  }
  return id;
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
  const int64_t tokens = number(arguments[1]);
  std::vector<int64_t> ids;
  for (std::size_t i = 2; i < arguments.size(); ++i) ids.push_back(token_id(arguments[i], config));
  // The last token that is made takes no position: nothing reads it.
  const int64_t most = config.n_positions - static_cast<int64_t>(ids.size()) + 1;
  if (tokens < 0 || most < 1 || tokens > most) {
    throw std::runtime_error(arguments[1] + " tokens cannot follow " + std::to_string(ids.size()) +
                             " in a model of " + std::to_string(config.n_positions) + " positions");
  }
  const auto prompt = torch::tensor(ids, torch::kLong).unsqueeze(0);  // (1, T)

  torch::jit::Module script = load_script(arguments[0] + "/model.ts");
  const Gpt2 model(config, parameters_of(script));
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
    std::cerr << "gpt2: " << first_line(error) << "\n";
    return 1;
  }
}
