// Memory on cache-line boundaries: our own, or a part of somebody else's.
#pragma once

#include <cstddef>
#include <cstdint>
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
    // Zeroed.
    explicit Buffer(size_t count) : Buffer(count, true) {}
    // For what is written whole before it is read. Only the bytes that fill the last cache line are zeroed.
    static Buffer uninitialized(size_t count) { return Buffer(count, false); }
    // Somebody else's memory, which is only read, and which must stay for as long as this.
    static Buffer borrowed(const T* data, size_t count) {
        Buffer result;
        result.data_ = const_cast<T*>(data);
        result.count_ = count;
        result.owned_ = false;
        return result;
    }
    Buffer(Buffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), count_(std::exchange(other.count_, 0)), owned_(other.owned_) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(count_, other.count_);
        std::swap(owned_, other.owned_);
        return *this;
    }
    ~Buffer() {
        if (owned_) std::free(data_);
    }

    T* data() { return data_; }
    const T* data() const { return data_; }
    size_t size() const { return count_; }
    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }

  private:
    Buffer(size_t count, bool zeroed) : count_(count) {
        if (count == 0) return;
        if (count > (SIZE_MAX - 63) / sizeof(T)) throw std::bad_alloc();
        const size_t used = count * sizeof(T), bytes = (used + 63) / 64 * 64;
        data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
        if (!data_) throw std::bad_alloc();
        use_huge_pages(data_, bytes);
        const size_t first = zeroed ? 0 : used;
        std::memset(reinterpret_cast<char*>(data_) + first, 0, bytes - first);
    }

    T* data_ = nullptr;
    size_t count_ = 0;
    bool owned_ = true;
};

}  // namespace gptwo
