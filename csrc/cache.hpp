// The paged cache of keys and values.
//
// A block holds 64 positions of one sequence, all layers and heads. Sequences that share a past share its blocks, counted;
// the first to write into a shared block takes a copy of it. In a block, for each layer and head, keys lie as (D, 64)
// and values as (64, D padded to 16), so that both products of attention run along whole registers.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"

namespace gptwo {

class Cache {
  public:
    Cache(int layers, int heads, int head_size, bool bf16);

    int64_t open();
    void close(int64_t sequence);
    int64_t fork(int64_t sequence);
    void truncate(int64_t sequence, int64_t length);
    int64_t length(int64_t sequence) const { return held(sequence).length; }

    // Makes room for positions [length, length + count), in blocks that nobody else reads.
    void reserve(int64_t sequence, int64_t count);
    // The positions that were reserved and written belong to the sequence from now on.
    void commit(int64_t sequence, int64_t count) { held(sequence).length += count; }
    // Gives back what was reserved and not committed.
    void release(int64_t sequence);
    // Forgets all sequences without looking at them, and leaves their memory where it is: for a process that was forked
    // while another thread was changing them. Their numbers are not given out again.
    void abandon();

    // One layer and head in each block of a sequence.
    void places(int64_t sequence, int layer, int head, std::vector<void*>& keys, std::vector<void*>& values) const;
    // Writes the key and the value of one position, (D,) each, into the places of its block.
    void write(void* keys, void* values, int position, const float* key, const float* value) const;

    int padded_head_size() const { return padded_; }
    bool bf16() const { return bf16_; }
    int64_t blocks_in_use() const { return in_use_; }

  private:
    // A block that the last sequence lets go of is kept for the next, up to a number: fresh memory costs time.
    using Block = std::shared_ptr<Buffer<uint8_t>>;
    static constexpr size_t kSpare = 16;
    struct Sequence {
        int64_t length = 0;
        std::vector<Block> blocks;
    };
    const Sequence& held(int64_t sequence) const;
    Sequence& held(int64_t sequence) { return const_cast<Sequence&>(static_cast<const Cache&>(*this).held(sequence)); }
    Block new_block();

    int heads_, head_size_, padded_;
    bool bf16_;
    size_t keys_bytes_, head_bytes_, block_bytes_;
    int64_t next_ = 0, in_use_ = 0;
    std::vector<std::unique_ptr<Buffer<uint8_t>>> spare_;
    std::unordered_map<int64_t, Sequence> sequences_;
};

}  // namespace gptwo
