// How fast this machine's memory can be read, by the same threads that read the weights.
#pragma once

#include <cstddef>

namespace gptwo {

// Bytes per second: the fastest of several passes over a buffer of `bytes`, for about `seconds`, on `threads` threads.
// The buffer should be larger than the caches. Throws std::bad_alloc.
double read_bandwidth(size_t bytes, int threads, double seconds);

}  // namespace gptwo
