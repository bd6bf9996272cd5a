#include "config.hpp"

#include <cctype>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <locale>
#include <map>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace {

// The keys of a JSON object and their values as text: strings without their quotes, nested values skipped.
class FlatJson {
 public:
  explicit FlatJson(std::string text) : text_(std::move(text)) {
    expect('{');
    while (peek() != '}') {
      const std::string key = string();
      expect(':');
      values_[key] = value();
      if (peek() != '}') expect(',');
    }
  }

  const std::map<std::string, std::string>& values() const { return values_; }

 private:
  char peek() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
    if (at_ >= text_.size()) throw std::runtime_error("it ends too soon");
    return text_[at_];
  }

  void expect(char wanted) {
    if (peek() != wanted) throw std::runtime_error(std::string("expected ") + wanted);
    ++at_;
  }

  std::string string() {
    expect('"');
    std::string out;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] == '\\') ++at_;  // the names that we look for have no escapes
      if (at_ < text_.size()) out += text_[at_++];
    }
    if (at_ >= text_.size()) throw std::runtime_error("a string does not end");
    ++at_;
    return out;
  }

  std::string value() {
    if (peek() == '"') return string();
    std::string out;
    int depth = 0;
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '"') {
        string();
        --at_;
      } else if (c == '{' || c == '[') {
        ++depth;
      } else if ((c == '}' || c == ']') && depth > 0) {
        --depth;
      } else if (depth == 0 && (c == ',' || c == '}' || std::isspace(static_cast<unsigned char>(c)))) {
        break;
      } else if (depth == 0) {
        out += c;
      }
    }
    return out;
  }

  std::string text_;
  std::size_t at_ = 0;
  std::map<std::string, std::string> values_;
};

// Each sets the field from text and returns true, if the whole text is a value of its type.
bool assign(const std::string& text, std::string& field) {
  field = text;
  return true;
}

bool assign(const std::string& text, bool& field) {
  field = text == "true";
  return field || text == "false";
}

template <class Number>
bool assign(const std::string& text, Number& field) {
  std::istringstream in(text);
  in.imbue(std::locale::classic());
  return static_cast<bool>(in >> std::noskipws >> field) && in.peek() == EOF;
}

}  // namespace

Config read_config(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  Config config;
  try {
    const FlatJson json(std::string(std::istreambuf_iterator<char>(file), {}));
    const auto& values = json.values();
    const auto read = [&](const char* name, auto& field) {
      const auto found = values.find(name);
      if (found == values.end()) return;
      if (!assign(found->second, field)) throw std::runtime_error(std::string(name) + " is " + found->second);
    };
    read("vocab_size", config.vocab_size);
    read("n_positions", config.n_positions);
    read("n_embd", config.n_embd);
    read("n_layer", config.n_layer);
    read("n_head", config.n_head);
    read("layer_norm_epsilon", config.layer_norm_epsilon);
    read("activation_function", config.activation_function);
    read("scale_attn_weights", config.scale_attn_weights);
    read("scale_attn_by_inverse_layer_idx", config.scale_attn_by_inverse_layer_idx);
    read("reorder_and_upcast_attn", config.reorder_and_upcast_attn);
    read("tie_word_embeddings", config.tie_word_embeddings);
  } catch (const std::exception& error) {
    throw std::runtime_error(path + ": not a configuration (" + error.what() + ")");
  }
  if (config.n_head < 1 || config.n_embd < 1 || config.n_embd % config.n_head != 0 || config.n_layer < 1 ||
      config.vocab_size < 1 || config.n_positions < 1) {
    throw std::runtime_error(path + ": its sizes are no model's");
  }
  return config;
}
