// Zeroed memory on cache-line boundaries.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gptwo {

// Weights are streamed: with pages of 2 MB the machine looks up far fewer addresses. A wish, not a demand.
inline void use_huge_pages(void* data, size_t bytes) {
#if defined(__linux__)
    constexpr size_t kHuge = size_t(2) << 20;
    const size_t start = (reinterpret_cast<size_t>(data) + kHuge - 1) / kHuge * kHuge;
    const size_t end = (reinterpret_cast<size_t>(data) + bytes) / kHuge * kHuge;
    if (start < end) (void)madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#else
    (void)data, (void)bytes;
#endif
}

template <typename T>
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(size_t count) : count_(count) {
        size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
        if (bytes == 0) return;
        data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
        if (!data_) throw std::bad_alloc();
        use_huge_pages(data_, bytes);
        std::memset(static_cast<void*>(data_), 0, bytes);
    }
    Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), count_(std::exchange(other.count_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(count_, other.count_);
        return *this;
    }
    ~Buffer() { std::free(data_); }

    T* data() { return data_; }
    const T* data() const { return data_; }
    size_t size() const { return count_; }
    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }

  private:
    T* data_ = nullptr;
    size_t count_ = 0;
};

}  // namespace gptwo
