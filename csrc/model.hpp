// A GPT-2: its weights, its cache, and the step over a ragged batch.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "cache.hpp"
#include "floats.hpp"
#include "kernels.hpp"
#include "pool.hpp"
#include "weights.hpp"

namespace gptwo {

struct Config {
    int vocab_size, n_positions, width, inner, layers, heads;
    float epsilon;
    bool tied;
    Activation activation;
    std::vector<float> attention_scales;  // one for each layer
    Format format;                        // of the blocks' matrices
    bool bf16_cache;
};

class Model {
  public:
    Model(const Config& config, const Kernels& kernels, int threads);

    // Takes one tensor of the checkpoint, by its canonical name. A matrix is packed, its inputs multiplied by `fold` first
    // if that is given. Throws std::invalid_argument for an unknown name or another shape, NumericalError for NaN.
    void set(const std::string& name, const float* data, const std::vector<size_t>& shape,
             const std::vector<ptrdiff_t>& strides, const float* fold);
    // The same for what was packed before, or the position embedding: `data` is read where it lies, from now on, and must
    // stay and begin on a cache line. Throws std::invalid_argument for a name that cannot be mapped or another size. The
    // numbers are not looked at: those that are no numbers come out in the logits, and `first_not_finite` finds them.
    void set_mapped(const std::string& name, const uint8_t* data, size_t bytes);
    // The bytes of a tensor that `set_mapped` takes; 0 for one that it does not.
    size_t mapped_bytes(const std::string& name) const;
    // A packed matrix, mapped_bytes(name) of it. Throws std::invalid_argument if there is none of that name.
    const uint8_t* packed(const std::string& name) const;
    // The name of a tensor that holds NaN or infinite values, or "". Reads all of them.
    std::string first_not_finite();
    // What the rows of the embedding are multiplied by when they are looked up, (C,): undoes the head's fold.
    void set_unfold(const float* factors);
    void check_complete() const;  // throws std::invalid_argument naming a tensor that is missing

    int64_t open();
    void close(int64_t sequence);
    int64_t fork(int64_t sequence);
    void truncate(int64_t sequence, int64_t length);
    int64_t length(int64_t sequence);
    int64_t blocks_in_use();

    // The protocol's forward: `count` tokens, `wanted` of whose rows get logits, (wanted, V). All or nothing.
    void forward(const int64_t* tokens, const int64_t* sequences, const int64_t* positions, int64_t count,
                 const int64_t* rows, int64_t wanted, float* logits);

    const Config& config() const { return config_; }
    const char* tier() const { return kernels_.name; }
    int threads() const { return pool_.threads(); }
    size_t weight_bytes() const;

  private:
    struct Norm {
        Buffer<float> gain, bias;
    };
    struct Layer {
        Norm norm_1, norm_2;
        PackedMatrix qkv, attention_out, fc, mlp_out;
        Buffer<float> qkv_bias, attention_out_bias, fc_bias, mlp_out_bias;
    };
    struct Slot {  // where a tensor goes: a matrix or plain numbers
        PackedMatrix* matrix;
        Buffer<float>* numbers;
        int rows, columns;  // of the array in the checkpoint; columns 0 for a vector
        bool outputs_first;
        Format format;
        bool filled;
        int inputs() const { return outputs_first ? columns : rows; }
        int outputs() const { return outputs_first ? rows : columns; }
    };
    struct Span {  // consecutive tokens of one sequence: rows [first, first + count) of the batch
        int64_t sequence, first, count, position;
    };

    std::vector<Span> check(const int64_t* tokens, const int64_t* sequences, const int64_t* positions, int64_t count,
                            const int64_t* rows, int64_t wanted) const;
    void grow(int rows);
    void slab(const std::vector<Span>& spans, const int64_t* tokens, const int64_t* positions, int count,
              const int64_t* rows, int wanted, float* logits);
    void embed(const int64_t* tokens, const int64_t* positions, int count);
    void norm(const Norm& norm, int count);
    void attention(int layer, const std::vector<Span>& spans);
    void product(const PackedMatrix& matrix, const Buffer<float>& x, size_t stride, int count, const Target& target);
    // One call at a time, with the floating-point settings that the bits need.
    struct Guard {
        explicit Guard(Model& model);
        ~Guard();
        Model& model;
        std::unique_lock<std::mutex> lock;
        StandardFloats floats;
    };
    void renew_after_fork();

    Config config_;
    const Kernels& kernels_;
    Pool pool_;
    Cache cache_;
    std::unique_ptr<std::mutex> mutex_;
    std::atomic<bool> busy_{false};  // while a call runs: a process that is forked meanwhile cannot trust the cache
    std::atomic<long> generation_;

    std::unordered_map<std::string, Slot> slots_;
    PackedMatrix embedding_, head_;
    Buffer<float> position_embedding_, unfold_;
    std::vector<Layer> layers_;
    Norm final_norm_;

    // The rows of a slab; each row is padded with zeros.
    int capacity_ = 0;
    size_t width_stride_, qkv_stride_, inner_stride_;
    Buffer<float> x_, normed_, qkv_, attended_, inner_;
    Buffer<int8_t> q_, rest_;
    Buffer<float> scale_;
    Buffer<int32_t> start_, rest_start_;
};

}  // namespace gptwo
