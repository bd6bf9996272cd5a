#include "bandwidth.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "memory.hpp"
#include "pool.hpp"

namespace gptwo {

namespace {

// Lowered by the compiler to whatever registers the machine is sure to have: reads from memory, not the width of a load,
// are what takes the time.
typedef uint64_t Wide __attribute__((vector_size(32)));

constexpr size_t kPiece = size_t(1) << 22;  // bytes that a thread takes at a time, and two large pages

uint64_t read(const uint8_t* p, size_t bytes) {
    Wide sums[8] = {};  // independent, so that no load waits for the one before
    for (size_t at = 0; at + sizeof sums <= bytes; at += sizeof sums)
        for (size_t i = 0; i < 8; ++i) {
            Wide value;
            std::memcpy(&value, p + at + i * sizeof value, sizeof value);
            sums[i] ^= value;
        }
    for (size_t i = 1; i < 8; ++i) sums[0] ^= sums[i];
    return sums[0][0] ^ sums[0][1] ^ sums[0][2] ^ sums[0][3];
}

}  // namespace

double read_bandwidth(size_t bytes, int threads, double seconds) {
    using Clock = std::chrono::steady_clock;
    const size_t pieces = std::max<size_t>(1, bytes / kPiece);
    auto buffer = Buffer<uint8_t>::uninitialized(pieces * kPiece);
    Pool pool(threads);
    std::atomic<uint64_t> sink{0};
    pool.run(int(pieces), 1, [&](int first, int last) {
        std::memset(buffer.data() + size_t(first) * kPiece, 1, size_t(last - first) * kPiece);
    });
    double fastest = 0;
    const auto start = Clock::now();
    do {
        const auto before = Clock::now();
        pool.run(int(pieces), 1, [&](int first, int last) {
            sink.fetch_xor(read(buffer.data() + size_t(first) * kPiece, size_t(last - first) * kPiece));
        });
        const std::chrono::duration<double> taken = Clock::now() - before;
        fastest = std::max(fastest, double(pieces * kPiece) / std::max(taken.count(), 1e-9));
    } while (std::chrono::duration<double>(Clock::now() - start).count() < seconds);
    return fastest;
}

}  // namespace gptwo
