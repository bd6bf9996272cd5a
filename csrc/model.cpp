#include "model.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>

#include "conversions.hpp"
#include "errors.hpp"

namespace gptwo {

namespace {

constexpr int kSlab = 512;       // tokens that go through the layers together
constexpr int kPiece = 32;       // queries of one head that are one piece of work
constexpr int kChunk = 256 << 10;  // bytes of weights that are one piece of work: they stay in the second cache

}  // namespace

Model::Model(const Config& config, const Kernels& kernels, int threads)
    : config_(config),
      kernels_(kernels),
      pool_(threads),
      cache_(config.layers, config.heads, config.width / config.heads, config.bf16_cache),
      mutex_(std::make_unique<std::mutex>()),
      generation_(fork_generation()),
      layers_(size_t(config.layers)),
      width_stride_(size_t(round_up(config.width, kPad))),
      qkv_stride_(size_t(round_up(3 * config.width, kPad))),
      inner_stride_(size_t(round_up(config.inner, kPad))) {
    const int c = config.width, f = config.inner;
    // Four bits are too few for the embedding and the head.
    const Format outer = config.format == Format::int4 ? Format::int8 : config.format;
    auto linear = [&](const std::string& name, PackedMatrix& matrix, Buffer<float>& bias, int in, int out) {
        slots_[name + ".weight"] = {&matrix, nullptr, in, out, false, config.format, false};
        slots_[name + ".bias"] = {nullptr, &bias, out, 0, false, Format::f32, false};
    };
    auto normalization = [&](const std::string& name, Norm& norm) {
        slots_[name + ".weight"] = {nullptr, &norm.gain, c, 0, false, Format::f32, false};
        slots_[name + ".bias"] = {nullptr, &norm.bias, c, 0, false, Format::f32, false};
    };
    slots_["wte.weight"] = {&embedding_, nullptr, config.vocab_size, c, true, outer, false};
    if (!config.tied) slots_["lm_head.weight"] = {&head_, nullptr, config.vocab_size, c, true, outer, false};
    slots_["wpe.weight"] = {nullptr, &position_embedding_, config.n_positions, c, false, Format::f32, false};
    normalization("ln_f", final_norm_);
    for (size_t i = 0; i < layers_.size(); ++i) {
        const std::string h = "h." + std::to_string(i) + ".";
        Layer& layer = layers_[i];
        normalization(h + "ln_1", layer.norm_1);
        normalization(h + "ln_2", layer.norm_2);
        linear(h + "attn.c_attn", layer.qkv, layer.qkv_bias, c, 3 * c);
        linear(h + "attn.c_proj", layer.attention_out, layer.attention_out_bias, c, c);
        linear(h + "mlp.c_fc", layer.fc, layer.fc_bias, c, f);
        linear(h + "mlp.c_proj", layer.mlp_out, layer.mlp_out_bias, f, c);
    }
}

void Model::set(const std::string& name, const float* data, const std::vector<size_t>& shape,
                const std::vector<ptrdiff_t>& strides, const float* fold) {
    auto found = slots_.find(name);
    if (found == slots_.end()) throw std::invalid_argument("tensor " + name + " does not belong to this model");
    Slot& slot = found->second;
    const bool vector = slot.columns == 0;
    if (shape.size() != (vector ? 1u : 2u) || shape[0] != size_t(slot.rows) || (!vector && shape[1] != size_t(slot.columns)))
        throw std::invalid_argument("tensor " + name + " has another shape than this model's");
    Guard guard(*this);
    if (slot.matrix) {
        const ptrdiff_t in_stride = strides[slot.outputs_first ? 1 : 0], out_stride = strides[slot.outputs_first ? 0 : 1];
        try {
            *slot.matrix = PackedMatrix(slot.format, slot.inputs(), slot.outputs(), data, in_stride, out_stride, fold, pool_);
        } catch (const NumericalError& error) {
            throw NumericalError("tensor " + name + " cannot be used: " + error.what());
        }
    } else {
        const size_t columns = vector ? 1 : size_t(slot.columns);
        Buffer<float> numbers(size_t(round_up(slot.rows, kPad)) * columns);
        for (size_t r = 0; r < size_t(slot.rows); ++r)
            for (size_t c = 0; c < columns; ++c)
                numbers[r * columns + c] = data[ptrdiff_t(r) * strides[0] + (vector ? 0 : ptrdiff_t(c) * strides[1])];
        if (!all_finite(numbers.data(), size_t(slot.rows) * columns))
            throw NumericalError("tensor " + name + " cannot be used: it holds NaN or infinite values");
        *slot.numbers = std::move(numbers);
    }
    slot.filled = true;
}

size_t Model::mapped_bytes(const std::string& name) const {
    const auto found = slots_.find(name);
    if (found == slots_.end() || found->second.columns == 0) return 0;
    const Slot& slot = found->second;
    if (!slot.matrix) return size_t(slot.rows) * size_t(slot.columns) * sizeof(float);
    return PackedMatrix::size(slot.format, slot.inputs(), slot.outputs());
}

void Model::set_mapped(const std::string& name, const uint8_t* data, size_t bytes) {
    const size_t expected = mapped_bytes(name);
    if (expected == 0 || bytes != expected || reinterpret_cast<uintptr_t>(data) % 64 != 0)
        throw std::invalid_argument("tensor " + name + " cannot be mapped: it has " + std::to_string(bytes) + " bytes, not " +
                                    std::to_string(expected) + ", or does not begin on a cache line");
    Guard guard(*this);
    Slot& slot = slots_.at(name);
    if (slot.matrix)
        *slot.matrix = PackedMatrix(slot.format, slot.inputs(), slot.outputs(), data);
    else
        *slot.numbers = Buffer<float>::borrowed(reinterpret_cast<const float*>(data), bytes / sizeof(float));
    slot.filled = true;
}

const uint8_t* Model::packed(const std::string& name) const {
    const auto found = slots_.find(name);
    if (found == slots_.end() || !found->second.matrix || !found->second.filled)
        throw std::invalid_argument("there is no packed matrix " + name);
    return found->second.matrix->data();
}

std::string Model::first_not_finite() {
    Guard guard(*this);
    for (const auto& [name, slot] : slots_) {
        if (slot.matrix && !slot.matrix->finite()) return name;
        if (slot.numbers && !all_finite(slot.numbers->data(), slot.numbers->size())) return name;
    }
    return "";
}

void Model::set_unfold(const float* factors) {
    unfold_ = Buffer<float>(size_t(config_.width));
    std::copy(factors, factors + config_.width, unfold_.data());
}

void Model::check_complete() const {
    for (const auto& [name, slot] : slots_)
        if (!slot.filled) throw std::invalid_argument("tensor " + name + " is missing");
}

// In a forked process the lock may be held, and the cache half-changed, by a thread that stayed in the parent. Then the
// sequences are lost, and the child starts with an empty cache; the weights, which nobody writes to, remain.
void Model::renew_after_fork() {
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> guard(one_at_a_time);
    if (generation_.load() == fork_generation()) return;
    (void)mutex_.release();
    mutex_ = std::make_unique<std::mutex>();
    if (busy_.exchange(false)) cache_.abandon();
    generation_.store(fork_generation());
}

Model::Guard::Guard(Model& model) : model(model) {
    if (model.generation_.load(std::memory_order_acquire) != fork_generation()) model.renew_after_fork();
    lock = std::unique_lock<std::mutex>(*model.mutex_);
    model.busy_.store(true, std::memory_order_relaxed);
}

Model::Guard::~Guard() { model.busy_.store(false, std::memory_order_relaxed); }

int64_t Model::open() {
    Guard guard(*this);
    return cache_.open();
}

void Model::close(int64_t sequence) {
    Guard guard(*this);
    cache_.close(sequence);
}

int64_t Model::fork(int64_t sequence) {
    Guard guard(*this);
    return cache_.fork(sequence);
}

void Model::truncate(int64_t sequence, int64_t length) {
    Guard guard(*this);
    cache_.truncate(sequence, length);
}

int64_t Model::length(int64_t sequence) {
    Guard guard(*this);
    return cache_.length(sequence);
}

int64_t Model::blocks_in_use() {
    Guard guard(*this);
    return cache_.blocks_in_use();
}

size_t Model::weight_bytes() const {
    size_t total = 0;
    for (const auto& [name, slot] : slots_) total += slot.matrix ? slot.matrix->bytes() : slot.numbers->size() * 4;
    return total;
}

std::vector<Model::Span> Model::check(const int64_t* tokens, const int64_t* sequences, const int64_t* positions,
                                      int64_t count, const int64_t* rows, int64_t wanted) const {
    for (int64_t i = 0; i < count; ++i)
        if (tokens[i] < 0 || tokens[i] >= config_.vocab_size)
            throw DecoderError("token id " + std::to_string(tokens[i]) + " is out of range: the vocabulary has " +
                               std::to_string(config_.vocab_size));
    for (int64_t i = 0; i < wanted; ++i)
        if (rows[i] < (i ? rows[i - 1] + 1 : 0) || rows[i] >= count)
            throw DecoderError("rows must ascend within the " + std::to_string(count) + " tokens of the batch");
    std::vector<Span> spans;
    std::unordered_map<int64_t, bool> seen;
    for (int64_t i = 0; i < count;) {
        const int64_t sequence = sequences[i], length = cache_.length(sequence);
        if (!seen.emplace(sequence, true).second) throw DecoderError("the tokens of one sequence must lie together");
        int64_t end = i;
        for (; end < count && sequences[end] == sequence; ++end)
            if (positions[end] != length + (end - i))
                throw DecoderError("the positions of sequence " + std::to_string(sequence) + " must go on from " +
                                   std::to_string(length));
        if (length + (end - i) > config_.n_positions)
            throw DecoderError("sequence " + std::to_string(sequence) + " would reach position " +
                               std::to_string(length + end - i - 1) + "; the model has " +
                               std::to_string(config_.n_positions) + " positions");
        spans.push_back({sequence, i, end - i, length});
        i = end;
    }
    return spans;
}

void Model::forward(const int64_t* tokens, const int64_t* sequences, const int64_t* positions, int64_t count,
                    const int64_t* rows, int64_t wanted, float* logits) {
    Guard guard(*this);
    const std::vector<Span> spans = check(tokens, sequences, positions, count, rows, wanted);
    try {
        for (const Span& span : spans) cache_.reserve(span.sequence, span.count);
        grow(int(std::min<int64_t>(count, kSlab)));
        int64_t row = 0;  // the first of `rows` that is not done
        for (int64_t start = 0; start < count; start += kSlab) {
            const int64_t end = std::min<int64_t>(start + kSlab, count);
            std::vector<Span> inside;
            for (const Span& span : spans) {
                const int64_t first = std::max(span.first, start), last = std::min(span.first + span.count, end);
                if (first < last) inside.push_back({span.sequence, first - start, last - first, span.position + first - span.first});
            }
            std::vector<int64_t> rows_inside;
            const int64_t done = row;
            for (; row < wanted && rows[row] < end; ++row) rows_inside.push_back(rows[row] - start);
            slab(inside, tokens + start, positions + start, int(end - start), rows_inside.data(), int(rows_inside.size()),
                 logits + size_t(done) * size_t(config_.vocab_size));
        }
        std::atomic<bool> finite{true};
        const size_t v = size_t(config_.vocab_size);
        pool_.run(int(wanted), 1, [&](int first, int last) {
            if (!all_finite(logits + size_t(first) * v, size_t(last - first) * v)) finite.store(false);
        });
        if (!finite.load())
            throw NumericalError("the logits are not finite: the weights hold NaN, infinite or far too large values");
    } catch (...) {
        for (const Span& span : spans) cache_.release(span.sequence);
        throw;
    }
    for (const Span& span : spans) cache_.commit(span.sequence, span.count);
}

void Model::grow(int rows) {
    if (rows <= capacity_) return;
    const size_t n = size_t(rows), most = std::max(width_stride_, inner_stride_);
    capacity_ = 0;
    x_ = Buffer<float>(n * width_stride_);
    normed_ = Buffer<float>(n * width_stride_);
    qkv_ = Buffer<float>(n * qkv_stride_);
    attended_ = Buffer<float>(n * width_stride_);
    inner_ = Buffer<float>(n * inner_stride_);
    if (config_.format == Format::int8 || config_.format == Format::int4) {
        q_ = Buffer<int8_t>(n * most);
        rest_ = Buffer<int8_t>(n * most);
        scale_ = Buffer<float>(n * most / kInt4Block);
        start_ = Buffer<int32_t>(n * most / kInt4Block);
        rest_start_ = Buffer<int32_t>(n * most / kInt4Block);
    }
    capacity_ = rows;
}

void Model::product(const PackedMatrix& matrix, const Buffer<float>& x, size_t stride, int count, const Target& target) {
    const Matrix& m = matrix.view();
    Rows rows{x.data(), stride, q_.data(), rest_.data(), 0, scale_.data(), start_.data(), rest_start_.data(), 0, count};
    if (const int block = block_size(m.format)) {
        rows.q_stride = size_t(round_up(m.inputs, kPad));
        rows.blocks = int(rows.q_stride) / block;
        pool_.run(count, 8, [&](int first, int last) {
            for (int r = first; r < last; ++r) {
                const size_t at = size_t(r) * rows.q_stride, b = size_t(r) * size_t(rows.blocks);
                kernels_.quantize(x.data() + size_t(r) * stride, int(rows.q_stride), block, q_.data() + at, rest_.data() + at,
                                  scale_.data() + b, start_.data() + b, rest_start_.data() + b);
            }
        });
    }
    int grain = int(std::max<size_t>(1, kChunk / m.panel_bytes));
    grain = round_up(std::max(1, std::min(grain, m.panels / (3 * pool_.threads()))), 4);  // few rows take four at once
    pool_.run(m.panels, grain, [&](int first, int last) { kernels_.product(m, rows, target, first, last); });
}

void Model::embed(const int64_t* tokens, const int64_t* positions, int count) {
    const int c = config_.width;
    pool_.run(count, 8, [&](int first, int last) {
        for (int r = first; r < last; ++r) {
            float* x = x_.data() + size_t(r) * width_stride_;
            embedding_.output_row(int(tokens[r]), x);
            if (unfold_.size())
                for (int k = 0; k < c; ++k) x[k] *= unfold_[size_t(k)];
            const float* position = position_embedding_.data() + size_t(positions[r]) * size_t(c);
            for (int k = 0; k < c; ++k) x[k] += position[k];
        }
    });
}

void Model::norm(const Norm& norm, int count) {
    pool_.run(count, 8, [&](int first, int last) {
        for (int r = first; r < last; ++r)
            kernels_.layer_norm(x_.data() + size_t(r) * width_stride_, normed_.data() + size_t(r) * width_stride_,
                                config_.width, norm.gain.data(), norm.bias.data(), config_.epsilon);
    });
}

void Model::attention(int layer, const std::vector<Span>& spans) {
    const int heads = config_.heads, size = config_.width / heads, c = config_.width;
    std::vector<Span> pieces;
    for (const Span& span : spans)
        for (int64_t i = 0; i < span.count; i += kPiece)
            pieces.push_back({span.sequence, span.first + i, std::min<int64_t>(kPiece, span.count - i), span.position + i});

    auto write = [&](const Span& span, int head, const std::vector<void*>& keys, const std::vector<void*>& values) {
        for (int64_t i = 0; i < span.count; ++i) {
            const float* row = qkv_.data() + size_t(span.first + i) * qkv_stride_ + size_t(head) * size_t(size);
            const int position = int(span.position + i);
            const size_t block = size_t(position / kPositions);
            cache_.write(keys[block], values[block], position, row + c, row + 2 * c);
        }
    };
    // Long spans are cut into pieces, which read what other pieces write: then all writing comes first.
    const bool at_once = pieces.size() == spans.size();
    if (!at_once)
        pool_.run(int(spans.size()) * heads, 1, [&](int first, int last) {
            thread_local std::vector<void*> keys, values;
            for (int item = first; item < last; ++item) {
                const Span& span = spans[size_t(item / heads)];
                cache_.places(span.sequence, layer, item % heads, keys, values);
                write(span, item % heads, keys, values);
            }
        });
    pool_.run(int(pieces.size()) * heads, 1, [&](int first, int last) {
        thread_local std::vector<void*> keys, values;
        thread_local std::vector<float> scratch;
        for (int item = first; item < last; ++item) {
            const Span& piece = pieces[size_t(item / heads)];
            const int head = item % heads;
            cache_.places(piece.sequence, layer, head, keys, values);
            if (at_once) write(piece, head, keys, values);
            const int end = int(piece.position + piece.count);
            const size_t needed = attention_scratch(end, cache_.padded_head_size());
            if (scratch.size() < needed) scratch.resize(needed);
            const size_t offset = size_t(head) * size_t(size);
            kernels_.attention({qkv_.data() + size_t(piece.first) * qkv_stride_ + offset, qkv_stride_,
                                attended_.data() + size_t(piece.first) * width_stride_ + offset, width_stride_, keys.data(),
                                values.data(), size, cache_.padded_head_size(), int(piece.position), int(piece.count),
                                config_.attention_scales[size_t(layer)], cache_.bf16(), scratch.data()});
        }
    });
}

void Model::slab(const std::vector<Span>& spans, const int64_t* tokens, const int64_t* positions, int count,
                 const int64_t* rows, int wanted, float* logits) {
    embed(tokens, positions, count);
    for (int i = 0; i < config_.layers; ++i) {
        const Layer& layer = layers_[size_t(i)];
        norm(layer.norm_1, count);
        product(layer.qkv, normed_, width_stride_, count,
                {qkv_.data(), qkv_stride_, layer.qkv_bias.data(), Activation::none, false});
        attention(i, spans);
        if (i + 1 == config_.layers) {  // from here on no row looks at another: only those that are asked for go on
            for (int r = 0; r < wanted; ++r)
                for (Buffer<float>* buffer : {&x_, &attended_})
                    std::memmove(buffer->data() + size_t(r) * width_stride_, buffer->data() + size_t(rows[r]) * width_stride_,
                                 width_stride_ * sizeof(float));
            count = wanted;
            if (count == 0) return;
        }
        product(layer.attention_out, attended_, width_stride_, count,
                {x_.data(), width_stride_, layer.attention_out_bias.data(), Activation::none, true});
        norm(layer.norm_2, count);
        product(layer.fc, normed_, width_stride_, count,
                {inner_.data(), inner_stride_, layer.fc_bias.data(), config_.activation, false});
        product(layer.mlp_out, inner_, inner_stride_, count,
                {x_.data(), width_stride_, layer.mlp_out_bias.data(), Activation::none, true});
    }
    norm(final_norm_, count);
    product(config_.tied ? embedding_ : head_, normed_, width_stride_, count,
            {logits, size_t(config_.vocab_size), nullptr, Activation::none, false});
}

}  // namespace gptwo
