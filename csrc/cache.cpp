#include "cache.hpp"

#include <cstring>
#include <new>

#include "conversions.hpp"
#include "errors.hpp"

namespace gptwo {

Cache::Cache(int layers, int heads, int head_size, bool bf16)
    : heads_(heads), head_size_(head_size), padded_(round_up(head_size, kLanes)), bf16_(bf16) {
    const size_t element = bf16 ? 2 : 4;
    keys_bytes_ = size_t(head_size) * kPositions * element;
    head_bytes_ = keys_bytes_ + size_t(padded_) * kPositions * element;
    block_bytes_ = head_bytes_ * size_t(heads) * size_t(layers);
}

Cache::Block Cache::new_block() {
    auto give_back = [this](Buffer<uint8_t>* memory) {
        --in_use_;
        if (spare_.size() < kSpare)
            spare_.emplace_back(memory);  // room was reserved for it
        else
            delete memory;
    };
    spare_.reserve(kSpare);
    std::unique_ptr<Buffer<uint8_t>> memory;
    if (spare_.empty()) {
        memory = std::make_unique<Buffer<uint8_t>>(Buffer<uint8_t>::uninitialized(block_bytes_));
    } else {
        memory = std::move(spare_.back());
        spare_.pop_back();
    }
    ++in_use_;
    return Block(memory.release(), give_back);
}

const Cache::Sequence& Cache::held(int64_t sequence) const {
    auto found = sequences_.find(sequence);
    if (found == sequences_.end()) throw DecoderError("sequence " + std::to_string(sequence) + " is not open");
    return found->second;
}

int64_t Cache::open() {
    sequences_[next_];
    return next_++;
}

void Cache::close(int64_t sequence) {
    held(sequence);
    sequences_.erase(sequence);
}

int64_t Cache::fork(int64_t sequence) {
    Sequence copy = held(sequence);
    sequences_[next_] = std::move(copy);
    return next_++;
}

void Cache::truncate(int64_t sequence, int64_t length) {
    Sequence& s = held(sequence);
    if (length < 0 || length > s.length)
        throw DecoderError("cannot truncate sequence " + std::to_string(sequence) + " of " + std::to_string(s.length) +
                           " tokens to " + std::to_string(length));
    s.length = length;
    release(sequence);
}

void Cache::release(int64_t sequence) {
    Sequence& s = held(sequence);
    s.blocks.resize(size_t((s.length + kPositions - 1) / kPositions));
}

void Cache::abandon() {
    new (&sequences_) decltype(sequences_);  // the old ones are not destroyed: they may be in any state
    new (&spare_) decltype(spare_);
    in_use_ = 0;
}

void Cache::reserve(int64_t sequence, int64_t count) {
    Sequence& s = held(sequence);
    if (count <= 0) return;
    const size_t partial = size_t(s.length / kPositions), needed = size_t((s.length + count + kPositions - 1) / kPositions);
    if (partial < s.blocks.size() && s.blocks[partial].use_count() > 1) {
        Block own = new_block();
        std::memcpy(own->data(), s.blocks[partial]->data(), block_bytes_);
        s.blocks[partial] = std::move(own);
    }
    s.blocks.reserve(needed);
    while (s.blocks.size() < needed) s.blocks.push_back(new_block());
}

void Cache::places(int64_t sequence, int layer, int head, std::vector<void*>& keys, std::vector<void*>& values) const {
    const size_t offset = (size_t(layer) * size_t(heads_) + size_t(head)) * head_bytes_;
    keys.clear();
    values.clear();
    for (const Block& block : held(sequence).blocks) {
        keys.push_back(block->data() + offset);
        values.push_back(block->data() + offset + keys_bytes_);
    }
}

void Cache::write(void* keys, void* values, int position, const float* key, const float* value) const {
    const int within = position % kPositions;
    if (bf16_) {
        auto* k = static_cast<uint16_t*>(keys) + within;
        auto* v = static_cast<uint16_t*>(values) + size_t(within) * size_t(padded_);
        for (int d = 0; d < head_size_; ++d) k[d * kPositions] = to_bf16(key[d]), v[d] = to_bf16(value[d]);
        return;
    }
    auto* k = static_cast<float*>(keys) + within;
    auto* v = static_cast<float*>(values) + size_t(within) * size_t(padded_);
    for (int d = 0; d < head_size_; ++d) k[d * kPositions] = key[d], v[d] = value[d];
}

}  // namespace gptwo
